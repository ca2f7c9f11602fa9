"""Log lines as JSON on stderr, with secrets and personal fields masked."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import structlog

from worker.secret import STARS, redact
from worker.terminal import has_colours

# Not beyond warning: that somebody changed the level must be seen at any level.
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}


def change_log_level(query: Mapping[str, str]) -> str:
    """Log from another level on, until the next change or restart; returns the level in words.

    Raises:
        ValueError: the query says no known `level`.
    """
    level = query.get("level", "")
    if level not in _LEVELS:
        raise ValueError(f"expected ?level= and one of {', '.join(_LEVELS)}")
    structlog.configure(
        **{**structlog.get_config(), "wrapper_class": structlog.make_filtering_bound_logger(_LEVELS[level])}
    )
    return f"logging from level {level} on"


def configure_logs(
    secrets: Iterable[str] = (),
    personal: Iterable[str] = (),
    *,
    is_terminal: bool = False,
    process: int | None = None,
) -> None:
    """Set up logging for the process.

    Args:
        secrets: values that must not appear in any line.
        personal: field names whose values must not appear (fields marked `"pii": true` in the schemas).
        is_terminal: colours for a person instead of JSON for a collector.
        process: which of several processes of one command this is; every line then says so.
    """
    hidden, fields = frozenset(secrets), frozenset(personal)

    def masked(value: Any) -> Any:
        if isinstance(value, str):
            return redact(value, hidden)
        if isinstance(value, bytes):
            return redact(value.decode(errors="replace"), hidden)
        if isinstance(value, Mapping):
            return {name: STARS if name in fields else masked(inner) for name, inner in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [masked(inner) for inner in value]
        return value if value is None or isinstance(value, bool | int | float) else redact(str(value), hidden)

    ours = {} if process is None else {"process": process}

    def mask(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event = {**ours, **event}
        return {name: STARS if name in fields else masked(value) for name, value in event.items()}

    render: Any = (
        structlog.dev.ConsoleRenderer(colors=has_colours(sys.stderr))
        if is_terminal
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            mask,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
