"""Log lines as JSON on stderr, with secrets and personal fields masked."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, MutableMapping
from typing import Any

import structlog

from worker.secret import STARS, redact


def configure_logs(
    secrets: Iterable[str] = (), personal: Iterable[str] = (), *, is_terminal: bool = False
) -> None:
    """Set up logging for the process.

    Args:
        secrets: values that must not appear in any line.
        personal: field names whose values must not appear (fields marked `"pii": true` in the schemas).
        is_terminal: colours for a person instead of JSON for a collector.
    """
    hidden, fields = frozenset(secrets), frozenset(personal)

    def mask(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for name, value in event.items():
            if name in fields:
                event[name] = STARS
            elif isinstance(value, str):
                event[name] = redact(value, hidden)
        return event

    render: Any = structlog.dev.ConsoleRenderer() if is_terminal else structlog.processors.JSONRenderer()
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
