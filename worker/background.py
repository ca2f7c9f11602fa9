"""Calls that may hang, run beside the loop: left behind, they neither stop it nor the end of the process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def in_background(call: Callable[[], Result], name: str) -> Future[Result]:
    """Run a call in a thread of its own, which ends with the process if it does not end before."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    # Not an executor: those are waited for when the interpreter ends, however long a call hangs.
    threading.Thread(target=run, name=name, daemon=True).start()
    return future
