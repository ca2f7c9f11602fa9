"""What `penstock models promote` answers, when all workers have said what they make of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from worker import versions
from worker.control import Change, Decided, Routing, Status, next_change
from worker.exits import Exit
from worker.rollout_commands import _wait
from worker.session import ModelError
from worker.versions import check_latency


class Log:
    """A control topic that was read, and one more record of which comes with every look."""

    def __init__(self, decided: Decided, coming: list[Change | Status]) -> None:
        self.decided, self._coming = decided, coming

    def poll(self, _: float) -> None:
        """The next record, if there is one."""
        if self._coming:
            self.decided.take(b"", self._coming.pop(0).encode())


def status(worker: str, revision: int, champion: str, refused: str = "") -> Status:
    return Status(
        pipeline="p",
        worker=worker,
        revision=revision,
        champion=champion,
        challenger=None,
        refused=refused,
        at_ms=2**53,  # never too old to be waited for
    )


@pytest.fixture
def decided() -> Decided:
    return Decided({}, {("p", name): status(name, 0, "2") for name in ("one", "two")})


@pytest.fixture
def promoted(decided: Decided) -> Change:
    return next_change(decided, "p", "2", "promote", by="us", why="", version="1")


@pytest.fixture
def back(promoted: Change) -> Change:
    return replace(
        promoted,
        revision=2,
        action="rollback",
        routing=Routing(champion="2"),
        by="worker two",
        why="refused: slow",
    )


def test_a_change_that_all_have_taken_up_is_done(
    decided: Decided, promoted: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log(decided, [promoted, status("two", 1, "1"), status("one", 1, "1")])

    assert _wait(log, promoted, 5.0, as_json=True) == Exit.OK  # type: ignore[arg-type]

    assert json.loads(capsys.readouterr().out)["taken_back"] is None


def test_a_change_that_one_refused_is_not_done_though_that_one_has_moved_on(
    decided: Decided, promoted: Change, back: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    """A refusal is a status until its rollback is read: whoever looks too late sees only the rollback."""
    log = Log(decided, [promoted, back, status("two", 2, "2"), status("one", 1, "1")])

    assert _wait(log, promoted, 5.0, as_json=True) == Exit.MODEL  # type: ignore[arg-type]

    assert json.loads(capsys.readouterr().out)["taken_back"]["why"] == "refused: slow"


def test_who_took_a_change_back_is_told_and_what_serves_now(
    decided: Decided, promoted: Change, back: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = status("two", 0, "2", refused="revision 1: slow")
    log = Log(decided, [promoted, refusal, status("one", 1, "1"), back])

    assert _wait(log, promoted, 5.0, as_json=False) == Exit.MODEL  # type: ignore[arg-type]

    said = capsys.readouterr().err
    assert "worker two refused revision 1: slow" in said
    assert "taken back for all by worker two: refused: slow; version 2 serves" in said


def test_a_worker_that_says_nothing_is_named(
    decided: Decided, promoted: Change, capsys: pytest.CaptureFixture[str]
) -> None:
    log = Log(decided, [promoted, status("one", 1, "1")])

    assert _wait(log, promoted, 1.0, as_json=False) == Exit.UNHEALTHY  # type: ignore[arg-type]

    assert "worker two has not answered yet" in capsys.readouterr().err


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], None]:
    """Let the new version take these times, one a look and the last one for ever, and the old one 1 ms."""

    def take(times_s: list[float]) -> None:
        left = list(times_s)

        def seconds(loaded: str, *_: object) -> float:
            if loaded == "old":
                return 0.001
            return left.pop(0) if len(left) > 1 else left[0]

        monkeypatch.setattr(versions, "seconds_of", seconds)
        monkeypatch.setattr(versions, "_BETWEEN_LOOKS_S", 0.0)

    return take


class Opened:
    """What is asked of a scorer: what was loaded, and its version."""

    def __init__(self, loaded: str) -> None:
        self.loaded, self.card = loaded, self
        self.version = loaded


def test_a_version_that_was_slow_once_on_a_busy_machine_may_serve(
    measured: Callable[[list[float]], None],
) -> None:
    measured([0.1, 0.1, 0.001])

    check_latency(None, 64, 5.0, Opened("new"), Opened("old"))  # type: ignore[arg-type]


def test_a_version_that_is_slow_whenever_it_is_asked_may_not(
    measured: Callable[[list[float]], None],
) -> None:
    measured([0.1])

    with pytest.raises(ModelError, match=r"version new takes 100 ms for 1 events, version old 1 ms"):
        check_latency(None, 64, 5.0, Opened("new"), Opened("old"))  # type: ignore[arg-type]
