"""A backtest by a group: members divide the partitions, and each is done once, whoever comes and goes."""

from __future__ import annotations

import argparse
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from confluent_kafka import TopicPartition

from benchmarks.workers import create_topics, topics_of
from tests.pipeline.streams import PARTITIONS, alone, fill, transactions
from worker.backtest_commands import add_arguments
from worker.backtest_group import Member, found_parts, in_group
from worker.cli import main
from worker.config import ConfigError, Pipeline, load_pipeline
from worker.exits import Exit
from worker.published import SCORES_FILE

pytestmark = pytest.mark.kafka
EVENTS = 3000
WITHIN_S = 60.0


@pytest.fixture(scope="module")
def file(kafka_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A pipeline that looks nothing up, and its log."""

    prefix, folder = f"g{uuid.uuid4().hex[:12]}.", tmp_path_factory.mktemp("group")
    create_topics(kafka_bootstrap, topics_of(prefix, PARTITIONS))
    keys, values = transactions(EVENTS, seed=7)
    fill(kafka_bootstrap, f"{prefix}transactions", keys, values)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "PENSTOCK_KAFKA": kafka_bootstrap,
            "PENSTOCK_STORE": "memory://",
            "PENSTOCK_DEVICE": "cpu",
        }.items():
            patch.setenv(name, value)
        yield str(alone(folder, prefix, model={"device": "cpu"}))


@pytest.fixture
def group() -> str:
    return uuid.uuid4().hex[:8]


def arguments(file: str, group: str, *words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([file, "--group", group, "--against", "none", *words])


def member(file: str, group: str, out: Path, show: Callable[[int, int], None] = lambda *_: None) -> Member:
    out.mkdir(exist_ok=True)
    return Member(load_pipeline(Path(file)), arguments(file, group), out, show)


def turns(each: Member, is_over: Callable[[], bool]) -> None:
    """Let a member go on until it is over, or much too late."""
    give_up_s = time.monotonic() + WITHIN_S
    while not is_over() and time.monotonic() < give_up_s:
        each.turn()


def report(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["backtest", *words, "--against", "none", "--json"]) == Exit.OK
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_members_divide_the_partitions_and_together_give_the_outcomes_of_one(
    file: str, group: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / name for name in ("here", "there")]
    members = [member(file, group, folder) for folder in folders]
    give_up_s = time.monotonic() + WITHIN_S
    while not all(each._mine for each in members):  # both have something to do before either begins
        assert time.monotonic() < give_up_s
        for each in members:
            each._consumer.poll(0.1)
    give_up_s = time.monotonic() + WITHIN_S
    while any([each.turn() for each in members]):  # a list: each has its turn
        assert time.monotonic() < give_up_s
    for each in members:
        each.close()

    done = [found_parts(folder) for folder in folders]
    assert all(done)
    assert sorted([*done[0], *done[1]]) == list(range(PARTITIONS))
    assert main(["backtest", file, "--out", str(folders[0]), "--join"]) == Exit.USAGE
    assert "bring all folders" in capsys.readouterr().err
    for folder in done[1].values():
        folder.rename(folders[0] / folder.name)
    joined = report(capsys, file, "--out", str(folders[0]), "--join")
    whole = report(capsys, file, "--out", str(tmp_path / "whole"))
    assert joined["engine"]["scored"] == whole["engine"]["scored"] == EVENTS
    assert joined["volume"] == whole["volume"]
    parts = [pq.read_table(folder / SCORES_FILE) for folder in found_parts(folders[0]).values()]
    expected = pq.read_table(tmp_path / "whole" / SCORES_FILE)
    scores = {
        (row["source_partition"], row["source_offset"]): row["score"]
        for part in parts
        for row in part.to_pylist()
    }
    assert scores == {
        (row["source_partition"], row["source_offset"]): row["score"] for row in expected.to_pylist()
    }


def test_what_a_member_left_unfinished_or_had_to_give_away_another_begins_anew(
    file: str, group: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Died(Exception):
        pass

    def die(*_: int) -> None:
        raise Died

    with closing(member(file, group, tmp_path, die)) as first, pytest.raises(Died):
        turns(first, lambda: False)
    assert found_parts(tmp_path) == {}
    assert not list(tmp_path.iterdir())

    given: list[int] = []

    def give_away(*_: int) -> None:
        if not given:
            given.extend(second._mine)
            second._gave(None, [TopicPartition("", partition) for partition in given])

    with closing(member(file, group, tmp_path, give_away)) as second:
        turns(second, lambda: bool(given))
        assert given
        assert found_parts(tmp_path) == {}

    said = report(capsys, file, "--group", group, "--out", str(tmp_path))
    assert said["engine"]["scored"] == EVENTS
    # Those who come when all is done have nothing to do, and say the same.
    again = report(capsys, file, "--group", group, "--out", str(tmp_path))
    assert again["volume"] == said["volume"]
    assert again["engine"] == said["engine"]


def test_a_group_is_of_one_backtest(file: str, group: str, tmp_path: Path) -> None:
    pipeline = load_pipeline(Path(file))
    in_group(pipeline, arguments(file, group), tmp_path, lambda *_: None)

    with pytest.raises(ConfigError, match="found a backtest with other arguments"):
        in_group(pipeline, arguments(file, group, "--to", "2030-01-01"), tmp_path, lambda *_: None)
    with pytest.raises(ConfigError, match="found --partitions as well, expected the log"):
        in_group(pipeline, arguments(file, group, "--partitions", "0"), tmp_path, lambda *_: None)
    assert _committed(pipeline, pipeline.kafka.group) == []


def _committed(pipeline: Pipeline, group: str) -> list[int]:
    """Partitions with an offset of this group."""
    from confluent_kafka import Consumer

    with closing(Consumer({**pipeline.kafka.client_properties(), "group.id": group})) as consumer:
        wanted = [TopicPartition(pipeline.source.topic, partition) for partition in range(PARTITIONS)]
        return [mark.partition for mark in consumer.committed(wanted, timeout=10) if mark.offset >= 0]
