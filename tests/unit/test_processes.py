"""Processes of one command live and end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.builders import pipeline
from worker.config import ConfigError, Pipeline
from worker.exits import Exit
from worker.member import member

WITHIN_S = 60.0
FEATURES = "  amount: {kind: field, field: amount}"
# Says when it is there, and leaves with the code it was given when it is asked to.
WORKS = """
import signal, sys, pathlib, os, time
from worker.processes import leave_with_parent
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
leave_with_parent()
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
while True: time.sleep(0.05)
"""
PARENT = """
import sys
from worker.processes import run_processes
files = sys.argv[1:]
sys.exit(run_processes([[sys.executable, "-c", {works!r}, file] for file in files]))
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A parent of two processes, both of them there."""
    files = [tmp_path / "0", tmp_path / "1"]
    code = PARENT.format(works=WORKS)
    started = subprocess.Popen([sys.executable, "-c", code, *map(str, files)])
    try:
        until(lambda: all(file.exists() and file.read_text() for file in files))
        yield started
    finally:
        started.kill()
        started.wait(WITHIN_S)


def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    deadline_s = time.monotonic() + WITHIN_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def children(folder: Path) -> list[int]:
    """Their process ids."""
    return [int((folder / name).read_text()) for name in ("0", "1")]


def is_gone(pid: int) -> bool:
    """Whether no such process runs any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_parent_that_is_asked_to_stop_stops_all(
    parent: subprocess.Popen[bytes], tmp_path: Path, number: signal.Signals
) -> None:
    parent.send_signal(number)

    assert parent.wait(WITHIN_S) == Exit.OK
    assert all(map(is_gone, children(tmp_path)))


def test_a_killed_process_ends_the_others_and_the_parent_says_which_signal(
    parent: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    os.kill(children(tmp_path)[1], signal.SIGKILL)

    assert parent.wait(WITHIN_S) == 128 + signal.SIGKILL
    assert all(map(is_gone, children(tmp_path)))


def test_a_parent_that_is_killed_leaves_no_process_behind(
    parent: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    parent.kill()

    until(lambda: all(map(is_gone, children(tmp_path))))


def test_a_process_leaves_with_a_parent_that_ignored_sigterm() -> None:
    works = (
        "from worker.processes import leave_with_parent; leave_with_parent(); import time; time.sleep(999)"
    )
    ignores = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    parent = f"{ignores}; import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {works!r}], "
    parent += "stdin=subprocess.PIPE, stdout=subprocess.DEVNULL).pid, flush=True); import os; os._exit(0)"

    child = int(subprocess.check_output([sys.executable, "-c", parent], timeout=WITHIN_S))

    until(lambda: is_gone(child))


def test_the_code_of_the_process_that_ended_is_the_code_of_all(tmp_path: Path) -> None:
    works = [sys.executable, "-c", WORKS, str(tmp_path / "0")]
    fails = [sys.executable, "-c", f"raise SystemExit({int(Exit.MODEL)})"]
    code = (
        f"import sys; from worker.processes import run_processes; sys.exit(run_processes({[works, fails]}))"
    )

    assert (
        subprocess.run([sys.executable, "-c", code], timeout=WITHIN_S, check=False).returncode == Exit.MODEL
    )


def test_members_have_worker_ids_and_ports_of_their_own(tmp_path: Path) -> None:
    one = with_admin(pipeline(tmp_path, FEATURES), port=9000, worker_id="a")

    members = [member(one, index) for index in range(3)]

    assert [m.delivery.worker_id for m in members] == ["a-0", "a-1", "a-2"]
    assert [m.admin.port for m in members] == [9000, 9001, 9002]


@pytest.mark.parametrize("port", [0, None])
def test_any_free_port_and_none_stay_so_and_no_worker_id_stays_host_and_process(
    tmp_path: Path, port: int | None
) -> None:
    second = member(with_admin(pipeline(tmp_path, FEATURES), port=port, worker_id=None), 1)

    assert second.admin.port == port
    assert second.delivery.worker_id is None


def test_a_port_beyond_the_last_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"admin\.port: found 65535, expected one that process 1"):
        member(with_admin(pipeline(tmp_path, FEATURES), port=65535, worker_id=None), 1)


def with_admin(given: Pipeline, *, port: int | None, worker_id: str | None) -> Pipeline:
    """The pipeline with this port and id."""
    return replace(
        given,
        admin=replace(given.admin, port=port),
        delivery=replace(given.delivery, worker_id=worker_id),
    )
