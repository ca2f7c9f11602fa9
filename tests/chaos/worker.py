"""A worker with fail points: `python -m tests.chaos.worker FILE...` runs `penstock run FILE...` under orders.

Orders come as lines of JSON on stdin, and what was done is said on the descriptor CHAOS_REPORT_FD:
{"at": "commit.after", "passing": 3, "do": "kill" | "stop"}, {"do": "disarm"}, {"do": "clock", "by_s": 60}.
The end of stdin is the end of whoever gives the orders, and of this process.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from tests.chaos.plants import PLANTS
from tests.chaos.steps import STEPS, Step

REPORT_FD = "CHAOS_REPORT_FD"


class Orders:
    """What is to happen at which fail point."""

    def __init__(self, report_fd: int) -> None:
        self._armed: dict[str, tuple[int, str]] = {}  # point to passings left and what to do
        self._lock = threading.Lock()
        self._report_fd = report_fd

    def passing(self, point: str) -> None:
        """Called at every fail point; costs one look at a dictionary while nothing is armed."""
        if not self._armed or point not in self._armed:
            return
        with self._lock:
            left, what = self._armed.get(point, (0, ""))
            if left > 1:
                self._armed[point] = (left - 1, what)
                return
            self._armed.pop(point, None)
        if what:
            self._do(what, point)

    def _do(self, what: str, point: str) -> None:
        os.write(self._report_fd, f"{what} {point}\n".encode())
        os.kill(os.getpid(), signal.SIGKILL if what == "kill" else signal.SIGSTOP)

    def obey(self) -> None:
        """Read orders until there is nobody left to give them."""
        for line in sys.stdin:
            order = json.loads(line)
            if order["do"] == "disarm":
                with self._lock:
                    self._armed.clear()
            elif order["do"] == "clock":
                _step_clock(order["by_s"])
            else:
                with self._lock:
                    self._armed[order["at"]] = (order["passing"], order["do"])
        os.kill(os.getpid(), signal.SIGKILL)


_TIME, _TIME_NS = time.time, time.time_ns


def _step_clock(by_s: float) -> None:
    """Set the wall clock of this process off by so much; the monotonic clock goes on."""
    by_ns = int(by_s * 1e9)
    time.time = lambda: _TIME() + by_s
    time.time_ns = lambda: _TIME_NS() + by_ns


def _between(function: Callable[..., Any], step: Step, orders: Orders) -> Callable[..., Any]:
    before, after = step.points

    @functools.wraps(function)
    def stepped(*args: Any, **kwargs: Any) -> Any:
        orders.passing(before)
        result = function(*args, **kwargs)
        orders.passing(after)
        return result

    return stepped


def hook(step: Step, orders: Orders) -> None:
    """Put a fail point before and after a step.

    Raises:
        LookupError: the product has no such name any more; tests/chaos/steps.py must learn the new one.
    """
    callback = step.attribute.partition(":")[2]
    module, holder, name = where(step)
    function = getattr(holder, name)
    if callback:
        function = _with_callback(function, callback, step, orders)
    else:
        function = _between(function, step, orders)
    if isinstance(holder, type) and holder.__module__ != step.module:
        # The clients of confluent_kafka cannot be changed, but the module may be given others.
        holder_name = holder.__name__
        holder = type(holder_name, (holder,), {name: function})
        setattr(module, holder_name, holder)
        holder.__module__ = step.module
    else:
        setattr(holder, name, function)


def where(step: Step) -> tuple[ModuleType, Any, str]:
    """The module of a step, its class there, or the module again, and the name of the function in it.

    Raises:
        LookupError: the product has no such name any more.
    """
    holder_name, _, name = step.attribute.partition(":")[0].rpartition(".")
    module = importlib.import_module(step.module)
    holder = getattr(module, holder_name, None) if holder_name else module
    if getattr(holder, name, None) is None:
        raise LookupError(
            f"step {step.name!r}: {step.module} has no {step.attribute}: mend tests/chaos/steps.py"
        )
    return module, holder, name


def _with_callback(
    function: Callable[..., Any], callback: str, step: Step, orders: Orders
) -> Callable[..., Any]:
    @functools.wraps(function)
    def stepped(*args: Any, **kwargs: Any) -> Any:
        if callback not in kwargs:
            sys.exit(f"step {step.name!r}: called without {callback}: mend tests/chaos/steps.py")
        kwargs[callback] = _between(kwargs[callback], step, orders)
        return function(*args, **kwargs)

    return stepped


def main() -> int:
    """Hook every step, apply a planted bug if one is asked for, and run the ordinary worker."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.worker", description=__doc__)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--plant", choices=sorted(PLANTS))
    arguments = parser.parse_args()
    from worker.cli import main as run

    importlib.import_module("worker.service")  # before anything is hooked: names are bound at import
    orders = Orders(int(os.environ[REPORT_FD]))
    if arguments.plant:
        PLANTS[arguments.plant].apply()
    for step in STEPS:
        hook(step, orders)
    threading.Thread(target=orders.obey, daemon=True).start()
    return int(run(["run", *arguments.files]))


if __name__ == "__main__":
    sys.exit(main())
