"""A bar on a terminal for work that takes long; elsewhere nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int, int | None], None]  # how much was done since the last call, and of how much in all


@contextmanager
def progress_bar(what: str, unit: str) -> Iterator[Advance]:
    """Show on stderr how far something has come; it leaves nothing behind.

    Args:
        what: is being done, in a word or two.
        unit: of what is counted: records, rows.
    """
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} {task.fields[unit]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, unit=unit)

        def advance(done: int, total: int | None) -> None:
            bar.update(task, advance=done, total=total)

        yield advance
