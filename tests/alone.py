"""Tests marked `alone` have the machine to themselves, however many run at a time."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Wait until the running tests allow it: the others share the room, a test alone empties it first.

    Whoever wants in passes the door, and a test alone keeps it shut while it waits for the room to
    empty; otherwise short tests would follow each other for ever.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:  # one after another: everybody is alone
        return (yield)
    folder = Path(tempfile.gettempdir(), f"penstock-tests-{run}")
    folder.mkdir(exist_ok=True)
    alone = item.get_closest_marker("alone") is not None
    with (folder / "room").open("w") as room:
        with (folder / "door").open("w") as door:
            fcntl.flock(door, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        try:
            return (yield)
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)  # also for forked children that hold the file open
