"""One child process on a loopback port that cannot outlive the process that started it."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

STOP_S = 15.0  # a broker with open segments takes 1 to 3 s to stop in good order
POLL_S = 0.05
_PORTS = range(10_000, 32_768)  # below those that Linux takes for outgoing connections


class Unavailable(Exception):
    """A real service cannot be had here; the message says why in one line."""


def free_port() -> int:
    """Return a loopback port that is free, and that no outgoing connection will have taken by then."""
    while True:
        port = secrets.choice(_PORTS)  # not `random`, which tests in other processes seed alike
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Sweeper:
    """A command that runs once, when `sweep` is called or when this process is gone in whatever way.

    A shell waits on a pipe whose other end only this process holds: the kernel closes it even on SIGKILL.
    (A parent-death signal would be tied to the thread that forks, and setting one needs code between fork
    and exec, which is unsafe beside librdkafka's threads.)
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._shell = subprocess.Popen(
            ["/bin/sh", "-c", f"read -r _ || {shlex.join(command)}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches the terminal's whole group; the sweep must survive it
        )

    def sweep(self) -> None:
        """Run the command now and wait for it."""
        self._end(b"")

    def dismiss(self) -> None:
        """End without running the command."""
        self._end(b"\n")

    def _end(self, line: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ValueError):  # already swept
            self._shell.communicate(line, timeout=60)


class Service:
    """A server process with a directory of its own; `kill` and `start` again keep port and directory.

    Attributes:
        name: what it is, for messages.
        address: what clients are given.
        directory: data and `log.txt`; removed by `close`.
    """

    def __init__(
        self,
        *,
        name: str,
        address: str,
        directory: Path,
        command: Sequence[str],
        is_ready: Callable[[], bool],
        ready_within_s: float,
    ) -> None:
        self.name = name
        self.address = address
        self.directory = directory
        self._command = list(command)
        self._is_ready = is_ready
        self._ready_within_s = ready_within_s
        self._child: subprocess.Popen[bytes] | None = None
        self._killer: Sweeper | None = None
        self._sweeper = Sweeper(["rm", "-rf", "--", str(directory)])
        atexit.register(self.close)

    @property
    def pid(self) -> int:
        """Return the process id of the running server."""
        if self._child is None:
            raise Unavailable(f"{self.name} is not running")
        return self._child.pid

    def start(self) -> None:
        """Start the server and wait until it answers.

        Raises:
            Unavailable: it ended or did not answer in time; the message ends with the last lines of its log.
        """
        with (self.directory / "log.txt").open("ab") as log:
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                start_new_session=True,
            )
        self._killer = Sweeper(["kill", "-s", "KILL", "--", f"-{self._child.pid}"])  # the process group
        deadline_s = time.monotonic() + self._ready_within_s
        while not self._is_ready():
            ended = self._child.poll() is not None
            if ended or time.monotonic() > deadline_s:
                what = (
                    f"ended with {self._child.returncode}"
                    if ended
                    else f"not ready in {self._ready_within_s:.0f} s"
                )
                tail = self.log_tail()
                self.stop()
                raise Unavailable(f"{self.name} {what}: {tail}")
            time.sleep(POLL_S)

    def log_tail(self, lines: int = 5) -> str:
        """Return the last lines of the server's log, joined into one."""
        text = (self.directory / "log.txt").read_text(errors="replace") if self.directory.exists() else ""
        return " | ".join(text.strip().splitlines()[-lines:])

    def pause(self) -> None:
        """Let the server hang: its connections stay open and nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the server in good order; at once when that takes too long."""
        self._end(signal.SIGTERM)

    def close(self) -> None:
        """Stop the server and remove its directory; calling it again does nothing."""
        self.stop()
        self._sweeper.sweep()
        atexit.unregister(self.close)

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _end(self, number: signal.Signals) -> None:
        child, self._child = self._child, None
        killer, self._killer = self._killer, None
        if child is not None and child.poll() is None:
            child.send_signal(number)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGCONT)  # a paused process does not see SIGTERM
            try:
                child.wait(timeout=STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait(timeout=STOP_S)
        if killer is not None:
            killer.dismiss()


def new_directory(name: str) -> Path:
    """Return a fresh directory for one service's data."""
    return Path(tempfile.mkdtemp(prefix=f"penstock-{name}-"))


def first_that_starts(
    make: Callable[[], Service], prepare: Callable[[Service], None] = lambda _: None, tries: int = 3
) -> Service:
    """Return a started service; a port taken by another process in the meantime is tried anew.

    Args:
        make: gives a service with a fresh port and directory.
        prepare: what must be done in that directory before the start.
        tries: how often, at least once.

    Raises:
        Unavailable: none of the tries started.
    """
    for left in reversed(range(tries)):
        service = make()
        try:
            prepare(service)
            service.start()
        except BaseException as error:
            service.close()
            if left == 0 or not isinstance(error, Unavailable):
                raise
        else:
            return service
    raise AssertionError("tries must be at least 1")
