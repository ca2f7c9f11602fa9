"""A commit that comes too late is not done, and is not taken for one that was."""

from __future__ import annotations

import time

import pytest

from worker.commits import end_transaction


class _Producer:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def send_offsets_to_transaction(self, *_: object) -> None:
        self.asked.append("offsets")

    def commit_transaction(self) -> None:
        self.asked.append("commit")


def test_a_commit_in_time_is_done() -> None:
    producer = _Producer()

    end_transaction(producer, [], None, time.monotonic() + 60)

    assert producer.asked == ["offsets", "commit"]


def test_a_process_that_stood_still_commits_nothing_and_says_so() -> None:
    producer = _Producer()

    with pytest.raises(TimeoutError):
        end_transaction(producer, [], None, time.monotonic() - 1)

    assert producer.asked == ["offsets"]
