"""`penstock topics create`: the topics of a pipeline as they have to be, where they are not there yet."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic

from worker.config import Pipeline
from worker.dlq import client_config
from worker.exits import Exit, StopWorker
from worker.replay_arguments import guarded, positive
from worker.terminal import Paint, painter
from worker.topics import (
    AHEAD,
    DEFAULT_PARTITIONS,
    POLICY,
    RETENTION,
    Difference,
    Wanted,
    differences,
    shown_setting,
    wanted_topics,
)
from worker.topics_reader import topics_there

EXAMPLES = """examples:
  penstock topics create pipelines/fraud.yaml --dry-run               what is missing, and what differs
  penstock topics create pipelines/fraud.yaml --partitions 12 --replication 3
  penstock topics create pipelines/fraud.yaml --json

A topic that is there is compared and never changed; 10 where one breaks what the pipeline promises."""
_ANSWER_S = 10.0
_STYLES = {"created": "green", "missing": "yellow", "exists": "dim", "differs": "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One topic, and what became of it."""

    wanted: Wanted
    state: str  # created, missing (in a dry run), exists, differs
    partitions: int
    differs: tuple[Difference, ...] = ()


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `penstock topics` its commands."""
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    create = commands.add_parser(
        "create", help="Create the topics that a pipeline names, as they have to be."
    )
    create.add_argument("file", type=Path, metavar="FILE", help="pipeline file")
    create.add_argument(
        "--partitions", type=positive, metavar="N",
        help="of the input, and of what is written beside it; default: as many as the input has, or "
        f"{DEFAULT_PARTITIONS}",
    )  # fmt: skip
    create.add_argument("--replication", type=positive, metavar="N", help="copies; default: the broker's")
    create.add_argument("--dry-run", action="store_true", help="create nothing, say what would be")
    create.add_argument("--json", action="store_true", help="for machines")
    create.set_defaults(command=guarded(_create))


def _create(pipeline: Pipeline, arguments: argparse.Namespace) -> int:
    found = create_topics(pipeline, arguments.partitions, arguments.replication, dry_run=arguments.dry_run)
    print(as_json(found) if arguments.json else as_text(found, painter(sys.stdout)))
    return Exit.UNHEALTHY if any(d.breaks for each in found for d in each.differs) else Exit.OK


def create_topics(
    pipeline: Pipeline, partitions: int | None, replication: int | None, *, dry_run: bool
) -> list[Found]:
    """Create what is missing and compare the rest.

    Args:
        pipeline: whose topics.
        partitions: of the input; None: as it is, or the default.
        replication: copies; None: the broker's default.
        dry_run: let the broker check only.

    Raises:
        StopWorker: Kafka does not answer, or refuses.
    """
    admin = AdminClient({"socket.timeout.ms": 5000, **client_config(pipeline)})
    wanted = wanted_topics(pipeline)
    there = topics_there(admin, pipeline)
    width = partitions or there.get(wanted[0].name, DEFAULT_PARTITIONS)
    missing = [each for each in wanted if each.name not in there]
    _make(admin, missing, width, replication, dry_run=dry_run)
    settings = _settings(admin, [each for each in wanted if each.name in there])
    found = []
    for each in wanted:
        count = each.partitions or width
        if each.name not in there:
            state = "missing" if dry_run else "created"
            found.append(Found(wanted=each, state=state, partitions=count))
            continue
        # An input that another pipeline owns is as wide as its owner likes.
        expected = None if each.use == "lookup" and partitions is None else count
        differs = tuple(differences(each, there[each.name], settings.get(each.name, {}), expected))
        state = "differs" if differs else "exists"
        found.append(Found(wanted=each, state=state, partitions=there[each.name], differs=differs))
    return found


def _make(
    admin: AdminClient, wanted: Sequence[Wanted], width: int, replication: int | None, *, dry_run: bool
) -> None:
    if not wanted:
        return
    copies = -1 if replication is None else replication
    safe = {"min.insync.replicas": "2"} if copies >= 3 else {}

    def ask(topics: Sequence[Wanted]) -> dict[str, KafkaError]:
        new = [
            NewTopic(each.name, each.partitions or width, copies, config={**each.config, **safe})
            for each in topics
        ]
        refused = {}
        asked = admin.create_topics(new, request_timeout=_ANSWER_S, validate_only=dry_run)
        for name, answer in asked.items():
            try:
                answer.result(_ANSWER_S + 1)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:  # somebody was faster
                    refused[name] = error.args[0]
        return refused

    refused = ask(wanted)
    # Before Kafka 3.6 no broker knows how far ahead records may be dated.
    older = [each for each in wanted if each.name in refused and AHEAD in each.config]
    if any(refused[each.name].code() == KafkaError.INVALID_CONFIG for each in older):
        known = [replace(each, config={k: v for k, v in each.config.items() if k != AHEAD}) for each in older]
        refused = {k: v for k, v in refused.items() if k not in {each.name for each in older}} | ask(known)
    if refused:
        name, error = next(iter(refused.items()))
        raise StopWorker(Exit.KAFKA, f"topic {name} cannot be created: {_said(error)}")
    if not dry_run:
        _wait(admin, {each.name for each in wanted})


def _said(error: KafkaError) -> str:
    if error.code() in (KafkaError._UNSUPPORTED_FEATURE, KafkaError._TIMED_OUT):
        return f"{error.str()}; the Kafka of `python -m loadgen.bus` makes them by its option --topic"
    if error.code() == KafkaError.INVALID_REPLICATION_FACTOR:
        return f"{error.str()}: are there so many brokers? Say --replication"
    return str(error.str())


def _wait(admin: AdminClient, names: set[str]) -> None:
    """Until the brokers tell each other: a client that asks too early finds nothing."""
    give_up_s = time.monotonic() + _ANSWER_S
    while time.monotonic() < give_up_s:
        topics = admin.list_topics(timeout=_ANSWER_S).topics
        if all(name in topics and topics[name].partitions for name in names):
            return
        time.sleep(0.05)


def _settings(admin: AdminClient, topics: Sequence[Wanted]) -> dict[str, dict[str, str]]:
    if not topics:
        return {}
    resources = [ConfigResource(ConfigResource.Type.TOPIC, each.name) for each in topics]
    found = {}
    for resource, answer in admin.describe_configs(resources, request_timeout=_ANSWER_S).items():
        try:
            entries = answer.result(_ANSWER_S + 1)
        except KafkaException as error:  # no right to look, or a broker without settings
            print(
                f"topic {resource.name}: its settings are not known: {error.args[0].str()}", file=sys.stderr
            )
            continue
        found[resource.name] = {
            name: entry.value for name, entry in entries.items() if entry.value is not None
        }
    return found


def as_json(found: Sequence[Found]) -> str:
    """The topics as one JSON list."""
    said: list[dict[str, Any]] = [
        {
            "topic": each.wanted.name,
            "use": each.wanted.use,
            "state": each.state,
            "partitions": each.partitions,
            "config": dict(each.wanted.config),
            "differences": [asdict(difference) for difference in each.differs],
        }
        for each in found
    ]
    return json.dumps(said, indent=2)


def as_text(found: Sequence[Found], paint: Paint) -> str:
    """A line a topic, and what differs below it."""
    width = max(len(each.wanted.name) for each in found)
    lines = []
    for each in found:
        count = f"{each.partitions} partition{'s' if each.partitions != 1 else ''}"
        kept = each.wanted.config.get(RETENTION)
        how = (
            "compacted"
            if each.wanted.config.get(POLICY) == "compact"
            else f"kept {shown_setting(RETENTION, kept)}"
            if kept
            else ""
        )
        state = paint(f"{each.state:<8}", _STYLES[each.state])
        said = f"{count}, {how}" if each.state in ("created", "missing") else count
        lines.append(f"{state} {each.wanted.name:<{width}}  {each.wanted.use:<12}  {said}")
        for d in each.differs:
            mark = paint("FAIL", "red") if d.breaks else paint("note", "yellow")
            why = f" ({each.wanted.why})" if each.wanted.why and d.breaks and d.what != "partitions" else ""
            lines.append(f"         {mark}  {d.what}: found {d.found}, expected {d.wanted}{why}")
            lines.append(f"               -> {d.do}")
    return "\n".join(lines)
