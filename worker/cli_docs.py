"""Writes docs/cli.md from the parser and the exit codes; a test holds the page current.

`python -m worker.cli_docs` rewrites what stands between the marks.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from worker.cli import build_parser
from worker.cli_help import WITHOUT_JSON, Command, commands, example_lines
from worker.exits import Exit

DOCS_FILE: Final = Path(__file__).parent.parent / "docs" / "cli.md"
_MARKED = re.compile(r"<!-- (?P<name>commands|exit codes|each) -->\n.*?<!-- end -->", re.DOTALL)


def written_docs(text: str) -> str:
    """The page with what stands between each pair of marks replaced by the current commands and codes."""
    found = list(commands(build_parser()))
    parts = {
        "commands": _table(found),
        "exit codes": _codes(),
        "each": "\n\n".join("\n".join(_section(command)) for command in found),
    }

    def part(match: re.Match[str]) -> str:
        return f"<!-- {match['name']} -->\n{parts[match['name']]}\n<!-- end -->"

    return _MARKED.sub(part, text)


def _table(found: list[Command]) -> str:
    lines = ["| command | what it does | `--json` |", "| --- | --- | --- |"]
    for command in found:
        has_json = "yes" if command.has_json else f"no: {WITHOUT_JSON[command.name]}"
        lines.append(
            f"| [`{command.name}`](#{_anchor(command.name)}) | {_cell(command.about)} | {has_json} |"
        )
    return "\n".join(lines)


def _codes() -> str:
    rows = (f"| {code.value} | {code.name} | {_cell(code.meaning)} |" for code in Exit)
    return "\n".join(["| code | name | meaning |", "| --- | --- | --- |", *rows])


def _section(command: Command) -> Iterator[str]:
    yield f"### {command.name}"
    yield ""
    yield f"{_cell(command.about)}"
    yield ""
    yield "```text"
    yield " ".join([command.name, *_usage(command.parser)])
    yield "```"
    shown = [action for action in _arguments(command.parser) if action.help != argparse.SUPPRESS]
    if shown:
        yield ""
        yield "| argument | meaning |"
        yield "| --- | --- |"
        yield from (f"| {_named(action)} | {_cell(_help(command.parser, action))} |" for action in shown)
    examples = example_lines(command.parser.epilog or "", command.name)
    if examples:
        yield ""
        yield "```text"
        yield from (line.strip() for line in examples)
        yield "```"


def _arguments(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in parser._actions if not isinstance(action, argparse._HelpAction)]


def _usage(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Not argparse's own line, which other versions of Python write otherwise."""
    arguments = _arguments(parser)
    for action in arguments:
        if action.option_strings and action.required:
            yield f"{action.option_strings[-1]} {_value(action)}"
    if any(action.option_strings and not action.required for action in arguments):
        yield "[OPTIONS]"
    for action in arguments:
        if not action.option_strings:
            many = {"+": "...", "*": "..."}.get(str(action.nargs), "")
            name = f"{_value(action)}{many}"
            yield f"[{name}]" if action.nargs in ("*", "?") else name


def _named(action: argparse.Action) -> str:
    if not action.option_strings:
        return f"`{_value(action)}`".replace("|", "\\|")
    value = "" if action.nargs == 0 else f" {_value(action)}"
    return ", ".join(f"`{option}{value}`".replace("|", "\\|") for option in action.option_strings)


def _value(action: argparse.Action) -> str:
    if action.metavar is not None:
        return action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar)
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    return action.dest.upper() if not action.option_strings else action.dest.replace("_", "-").upper()


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    text = action.help or ""
    return text % {**vars(action), "prog": parser.prog} if "%" in text else text


def _cell(text: str) -> str:
    said = " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
    return said[:1].upper() + said[1:]


def _anchor(name: str) -> str:
    return name.replace(" ", "-")


if __name__ == "__main__":
    DOCS_FILE.write_text(written_docs(DOCS_FILE.read_text(encoding="utf-8")), encoding="utf-8")
