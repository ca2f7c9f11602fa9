"""Worker processes under a supervisor that starts them again, as Kubernetes would, and counts their exits."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.chaos.proxy import ROOT
from tests.chaos.worker import REPORT_FD
from tests.services.processes import Sweeper

RESTART_AFTER_S = 0.3
BACK_OFF_S = 2.0  # after an end within a few seconds
LOOK_EVERY_S = 0.05
LEAVE_WITHIN_S = 25.0


class Member:
    """One worker's place: a name, an environment, and one process after another."""

    def __init__(
        self, name: str, file: Path, log: Path, env: Mapping[str, str], plant: str | None = None
    ) -> None:
        self.name = name
        self.log = log
        self.is_wanted = False
        self.lock = threading.Lock()  # held by the fault that is at work on this member
        self.exits: Counter[int] = Counter()
        self.started = 0
        self.is_stopped = False
        self._command = [sys.executable, "-m", "tests.chaos.worker", str(file)]
        self._command += ["--plant", plant] if plant else []
        self._env = {**os.environ, **env}
        self._fired: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._process: subprocess.Popen[str] | None = None
        self._sweeper: Sweeper | None = None
        self._started_s = 0.0
        self._ended_s = 0.0

    @property
    def is_running(self) -> bool:
        """Whether its process is there, stopped or not."""
        return self._process is not None and self._process.poll() is None

    def look(self) -> None:
        """Note an exit, and start again what is wanted; the supervisor calls it."""
        if self._process is not None and self._process.poll() is not None:
            self.exits[self._process.returncode] += 1
            self._ended_s = time.monotonic()
            self._let_go()
        if self.is_wanted and self._process is None:
            lived_s = self._ended_s - self._started_s
            pause_s = BACK_OFF_S if self.started and lived_s < 5.0 else RESTART_AFTER_S
            if not self.started or time.monotonic() - self._ended_s >= pause_s:
                self._start()

    def arm(self, point: str, passing: int, do: str) -> None:
        """Have the worker `kill` or `stop` itself at the given passing of a fail point."""
        while not self._fired.empty():
            self._fired.get()
        self._order({"at": point, "passing": passing, "do": do})

    def fired(self, timeout_s: float) -> str | None:
        """What was done and where, once it was; None when it was not in time."""
        with contextlib.suppress(queue.Empty):
            return self._fired.get(timeout=timeout_s)
        return None

    def disarm(self) -> None:
        """Forget what is armed."""
        self._order({"do": "disarm"})

    def step_clock(self, by_s: float) -> None:
        """Set the worker's wall clock off by so much."""
        self._order({"do": "clock", "by_s": by_s})

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if there is a process."""
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(number)
            self.is_stopped = number == signal.SIGSTOP or (self.is_stopped and number != signal.SIGCONT)

    def left(self) -> int | None:
        """Wait for a process that was asked to go; None when there is none, -9 when it had to be killed."""
        process = self._process
        if process is None:
            return None
        try:
            code = process.wait(LEAVE_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait(10)
        self._let_go()
        return code

    def tail(self, lines: int = 12) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _start(self) -> None:
        read_fd, write_fd = os.pipe()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=ROOT,
                env={**self._env, REPORT_FD: str(write_fd)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                pass_fds=(write_fd,),
                start_new_session=True,
            )
        os.close(write_fd)
        self._sweeper = Sweeper(["kill", "-s", "KILL", "--", str(self._process.pid)])
        self._started_s = time.monotonic()
        self.started += 1
        self.is_stopped = False
        threading.Thread(target=self._listen, args=(read_fd,), daemon=True).start()

    def _listen(self, read_fd: int) -> None:
        with os.fdopen(read_fd) as reports:
            for line in reports:
                self.is_stopped = line.startswith("stop ")
                self._fired.put(line.strip())

    def _order(self, order: Mapping[str, Any]) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        with contextlib.suppress(OSError, ValueError):  # it has just ended
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()

    def _let_go(self) -> None:
        process, self._process = self._process, None
        sweeper, self._sweeper = self._sweeper, None
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        if sweeper is not None:
            sweeper.dismiss()


class Fleet:
    """Members and the thread that looks after them."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()

    def want(self, names: set[str]) -> None:
        """Have exactly these members run from now on; others are left as they are until they end."""
        for member in self.members:
            member.is_wanted = member.name in names

    @property
    def exits(self) -> Counter[int]:
        """How often a worker ended with which code; negative: killed by that signal."""
        return sum((member.exits for member in self.members), Counter[int]())

    def leave(self) -> dict[str, int]:
        """Ask every worker to go; exit code by member."""
        self._stop.set()
        self._thread.join(10)
        for member in self.members:
            member.is_wanted = False
            member.send(signal.SIGCONT)
            member.send(signal.SIGTERM)
        codes = {member.name: member.left() for member in self.members}
        return {name: code for name, code in codes.items() if code is not None}

    def _supervise(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            for member in self.members:
                member.look()
