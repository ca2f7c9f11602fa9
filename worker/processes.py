"""Several processes of one command, each a member of the group: all run, or none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import structlog

from worker.exits import Exit

LEAVE_WITHIN_S = 12.0  # a worker takes at most 10
_LOOK_EVERY_S = 0.2


def run_processes(commands: Sequence[Sequence[str]]) -> int:
    """Run these commands until SIGTERM or SIGINT, or until one of them ends; then end all the others.

    Each is a new program with a pipe as its standard input that closes when this process is gone, however
    that came about (`leave_with_parent`).

    Returns:
        The code of the one that ended by itself (128 and the signal's number when it was killed); else the
        largest; Exit.BUG when one had to be killed because it did not leave.
    """
    log = structlog.get_logger()
    stop = threading.Event()
    with _asked_to_stop(stop):
        # A session of their own: Ctrl-C reaches us alone, and we pass it on once.
        children = [
            subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) for command in commands
        ]
        for index, child in enumerate(children):
            log.info("process starts", process=index, pid=child.pid)
        while not stop.is_set() and not _ended(children):
            stop.wait(_LOOK_EVERY_S)
        ended = [] if stop.is_set() else _ended(children)
        for index in ended:
            code = _code(children[index])
            log.error(
                "process ended, stopping the others", process=index, pid=children[index].pid, exit_code=code
            )
        is_orderly = _end(children)
    if not is_orderly:
        log.error("a process did not stop in time and was killed", seconds=LEAVE_WITHIN_S)
    if ended:
        return max(_code(children[index]) for index in ended)
    # One that SIGTERM killed had not begun, so there was nothing that it could have finished.
    codes = [Exit.OK if child.returncode == -signal.SIGTERM else _code(child) for child in children]
    return max(codes) if is_orderly else Exit.BUG


def leave_with_parent() -> None:
    """Ask ourselves to stop, as SIGTERM would, when whoever holds the other end of standard input is gone.

    To be called before anything else: a parent that ignores SIGTERM has children that begin so, too, and they
    would miss it until they have a handler of their own.
    """
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="parent", daemon=True).start()


@contextmanager
def _asked_to_stop(stop: threading.Event) -> Iterator[None]:
    def ask(_: int, __: FrameType | None) -> None:
        stop.set()

    previous = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _ended(children: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    return [index for index, child in enumerate(children) if child.poll() is not None]


def _code(child: subprocess.Popen[bytes]) -> int:
    code = child.returncode
    return 128 - code if code < 0 else code  # Popen gives minus the signal


def _end(children: Sequence[subprocess.Popen[bytes]]) -> bool:
    """Stop all that still run; False when one had to be killed."""
    for child in children:
        child.terminate()  # does nothing to one that has ended
    deadline_s = time.monotonic() + LEAVE_WITHIN_S
    is_orderly = True
    for child in children:
        try:
            child.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            is_orderly = False
            child.kill()
            child.wait()
    return is_orderly
