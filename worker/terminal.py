"""What goes to a person's terminal and not into a pipe: colours, and text that cannot steer the terminal."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, TextIO

from worker.yaml_lines import printable

Paint = Callable[[str, str], str]  # text and a style of STYLES to what is printed

STYLES: Final = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "cyan": "36",
    "alarm": "1;31",
}


def has_colours(stream: TextIO, env: Mapping[str, str] = os.environ) -> bool:
    """Whether to write colours to a stream: on a terminal, unless NO_COLOR or FORCE_COLOR say otherwise.

    Both count where they are not empty, and NO_COLOR goes first (https://no-color.org, and as Python does).
    """
    if env.get("NO_COLOR"):
        return False
    if env.get("FORCE_COLOR"):
        return True
    return stream.isatty() and env.get("TERM") != "dumb"


def painter(stream: TextIO, env: Mapping[str, str] = os.environ) -> Paint:
    """How text is coloured for a stream; the text itself where there are no colours."""
    return _painted if has_colours(stream, env) else plain


def plain(text: str, _style: str) -> str:
    """The text as it is."""
    return text


def cut(text: str, width: int) -> str:
    """The text in at most so many characters, control characters escaped: a record steers no terminal."""
    said = printable(text)
    return said if len(said) <= width else f"{said[: max(width - 1, 0)]}…"


def printable_json(value: Any) -> str:
    """A value as JSON in one line that is readable in any language, and whose texts steer no terminal."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def _painted(text: str, style: str) -> str:
    return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if text else text
