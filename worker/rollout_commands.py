"""`penstock models list`, `promote`, `rollback`, `pin`, `history`: which version serves, on every worker."""

from __future__ import annotations

import argparse
import getpass
import json
import socket
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from worker.config import Pipeline, load_pipeline
from worker.control import (
    Change,
    ControlError,
    ControlLog,
    ControlWriter,
    Decided,
    Routing,
    create_control_topic,
    describe,
    history,
    next_change,
)
from worker.exits import Exit
from worker.repository import RepositoryError, versions

_ALIVE_MS = 30_000  # a worker that has said nothing for so long is not waited for
_COME_BACK = ("promote", "canary", "shadow")  # taken back for all where one worker refuses them
EXAMPLES = """examples:
  penstock models list pipelines/fraud.yaml                     versions, and who serves what
  penstock models promote pipelines/fraud.yaml 3                on every worker, between two batches
  penstock models promote pipelines/fraud.yaml 3 --canary 10    on 10 % of the keys, always the same ones
  penstock models promote pipelines/fraud.yaml 3 --shadow       beside the one that serves, deciding nothing
  penstock models rollback pipelines/fraud.yaml --why "too many alerts"
  penstock models pin pipelines/fraud.yaml                      no poll of the repository changes it
  penstock models unpin pipelines/fraud.yaml
  penstock models history pipelines/fraud.yaml                  who changed what, when and why
"""


def add_commands(commands: Any) -> None:
    """Add the commands to those under `penstock models`."""

    def command(name: str, about: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
        parser.add_argument("file", type=Path, metavar="FILE", help="pipeline file")
        parser.add_argument("--json", action="store_true", help="for machines")
        parser.set_defaults(command=lambda arguments: _run(arguments, name))
        return parser

    command("list", "the versions of a pipeline's model, and what each worker serves")
    command("history", "who changed what, when and why")
    promote = command("promote", "let a version serve, on all workers")
    promote.add_argument("version", metavar="VERSION", help="folder of the version in the repository")
    how = promote.add_mutually_exclusive_group()
    how.add_argument("--canary", type=_percent, metavar="PERCENT", help="on so many of the keys only")
    how.add_argument("--shadow", action="store_true", help="beside the one that serves, deciding nothing")
    others = [
        promote,
        command("rollback", "take a canary or shadow back, or the last promotion"),
        command("pin", "let no poll of the repository change the version"),
        command("unpin", "let it again"),
    ]
    for parser in others:
        parser.add_argument("--why", default="", metavar="TEXT", help="for the history")
        parser.add_argument(
            "--wait",
            type=float,
            default=30.0,
            metavar="SECONDS",
            help="for the workers to take it up, default %(default)g",
        )


def _percent(text: str) -> float:
    value = float(text)
    if not 0 < value <= 100:
        raise argparse.ArgumentTypeError(f"found {text}, expected more than 0 and at most 100")
    return value / 100


def _run(arguments: argparse.Namespace, name: str) -> int:
    pipeline = load_pipeline(arguments.file)
    if pipeline.model is None or (pipeline.rollout is None and name != "list"):
        missing = "rollout" if pipeline.model else "model"
        print(f"{arguments.file}: found no section {missing}, which `models {name}` needs", file=sys.stderr)
        return Exit.CONFIG
    try:
        if name == "list":
            return _list(pipeline, as_json=arguments.json)
        if name == "history":
            return _history(pipeline, as_json=arguments.json)
        return _change(pipeline, name, arguments)
    except ControlError as error:
        print(error, file=sys.stderr)
        return Exit.KAFKA


def _list(pipeline: Pipeline, *, as_json: bool) -> int:
    ref = pipeline.model
    assert ref is not None
    try:
        found = versions(ref.repository, ref.name)
    except RepositoryError as error:  # a web server need not list what it has
        print(error, file=sys.stderr)
        found = [ref.version]
    decided = Decided({}, {})
    if pipeline.rollout is not None:
        decided = _read(pipeline)
    routing = _routing(pipeline, decided)
    workers = [status for (name, _), status in sorted(decided.statuses.items()) if name == pipeline.name]
    if as_json:
        print(
            json.dumps(
                {
                    "model": ref.name,
                    "versions": found,
                    "routing": asdict(routing),
                    "workers": [asdict(status) for status in workers],
                },
                indent=2,
            )
        )
        return Exit.OK
    roles = dict.fromkeys(routing.before[-1:], "before it: where a rollback goes")
    roles[routing.champion] = "serves"
    if routing.challenger is not None:
        what = "is shadowed on" if routing.is_shadow else "scores"
        roles[routing.challenger] = f"{what} {routing.share * 100:g} % of the keys"
    for version in found:
        print(f"{ref.name} {version:<12} {roles.get(version, '')}".rstrip())
    for version, role in roles.items():
        if version not in found:
            print(f"{ref.name} {version:<12} {role}; it is not in the repository")
    for status in workers:
        age_s = (time.time_ns() // 1_000_000 - status.at_ms) / 1000
        serves = status.champion + (f" and {status.challenger}" if status.challenger else "")
        refused = f"; refused {status.refused}" if status.refused else ""
        print(f"worker {status.worker}: {serves}, revision {status.revision}, {age_s:.0f} s ago{refused}")
    return Exit.OK


def _history(pipeline: Pipeline, *, as_json: bool) -> int:
    changes = history(_read(pipeline), pipeline.name)
    if as_json:
        print(json.dumps([asdict(change) for change in changes], indent=2))
        return Exit.OK
    if not changes:
        print(f"{pipeline.name}: nothing was changed; {describe(_routing(pipeline, Decided({}, {})))}")
    for change in changes:
        at = datetime.fromtimestamp(change.at_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        why = f": {change.why}" if change.why else ""
        print(f"{change.revision:>4}  {at}  {change.by}  {change.action}{why}")
        print(f"      {describe(change.routing)}")
    return Exit.OK


def _change(pipeline: Pipeline, name: str, arguments: argparse.Namespace) -> int:
    assert pipeline.model is not None
    assert pipeline.rollout is not None
    action, new = name, {}
    if name == "promote":
        new = {"version": arguments.version}
        if arguments.canary is not None:
            action, new["share"] = "canary", arguments.canary
        elif arguments.shadow:
            action = "shadow"
            if pipeline.rollout.shadow is None:
                print(f"{arguments.file}: rollout.shadow: found nothing, expected a topic", file=sys.stderr)
                return Exit.CONFIG
    properties, topic = pipeline.kafka.client_properties(), pipeline.rollout.control
    try:
        create_control_topic(properties, topic)
    except ControlError as error:
        print(f"{error}; going on, as it may be there", file=sys.stderr)
    log = ControlLog(properties, topic)
    try:
        decided = log.read_to_end()
        change = next_change(
            decided,
            pipeline.name,
            pipeline.model.version,
            action,
            by=f"{getpass.getuser()}@{socket.gethostname()}",
            why=arguments.why,
            **new,
        )
        ControlWriter(properties, topic).change(change)
        return _wait(log, change, arguments.wait, as_json=arguments.json)
    finally:
        log.close()


def _wait(log: ControlLog, change: Change, wait_s: float, *, as_json: bool) -> int:
    """Until every worker that was there has taken the change up; one that refuses takes it back for all."""
    give_up_s = time.monotonic() + max(wait_s, 1.0)
    alive_ms = time.time_ns() // 1_000_000 - _ALIVE_MS
    expected = {
        worker
        for (name, worker), status in log.decided.statuses.items()
        if name == change.pipeline and status.at_ms >= alive_ms
    }
    while True:
        log.poll(0.1)
        taken = [each for each in history(log.decided, change.pipeline) if each.revision == change.revision]
        if taken and taken[0] != change:
            other = taken[0]
            raise ControlError(f"{other.by} was faster ({other.action}): look at it, and try again")
        workers = [
            status
            for (name, worker), status in sorted(log.decided.statuses.items())
            if name == change.pipeline and worker in expected
        ]
        open_ones = [
            w for w in workers if w.revision < change.revision and not _has_refused(w.refused, change)
        ]
        refused = [w for w in workers if _has_refused(w.refused, change)]
        # A worker that refused says so only until it has read that its refusal took the change back.
        back = _taken_back(log, change)
        is_decided = back is not None or not refused or change.action not in _COME_BACK
        if (taken and not open_ones and is_decided) or time.monotonic() > give_up_s:
            break
    if as_json:
        said: dict[str, Any] = {"change": asdict(change), "workers": [asdict(w) for w in workers]}
        said |= {"waiting_for": [w.worker for w in open_ones], "taken_back": back and asdict(back)}
        print(json.dumps(said, indent=2))
    else:
        done = len(workers) - len(refused) - len(open_ones)
        print(
            f"revision {change.revision}: {describe(change.routing)}; {done} of {len(workers)} workers do so"
        )
        for worker in refused:
            print(f"worker {worker.worker} refused {worker.refused}", file=sys.stderr)
        if back is not None:
            print(f"taken back for all by {back.by}: {back.why}; {describe(back.routing)}", file=sys.stderr)
        for worker in open_ones:
            print(f"worker {worker.worker} has not answered yet", file=sys.stderr)
    if refused or back:
        return Exit.MODEL
    return Exit.UNHEALTHY if open_ones else Exit.OK


def _has_refused(refused: str, change: Change) -> bool:
    return refused.startswith(f"revision {change.revision}:")


def _taken_back(log: ControlLog, change: Change) -> Change | None:
    """What undid this change right after it: a worker that refused it, a guard or somebody else."""
    if change.action not in _COME_BACK:
        return None
    after = [each for each in history(log.decided, change.pipeline) if each.revision == change.revision + 1]
    return after[0] if after and after[0].action == "rollback" else None


def _read(pipeline: Pipeline) -> Decided:
    assert pipeline.rollout is not None
    log = ControlLog(pipeline.kafka.client_properties(), pipeline.rollout.control)
    try:
        return log.read_to_end()
    finally:
        log.close()


def _routing(pipeline: Pipeline, decided: Decided) -> Routing:
    assert pipeline.model is not None
    return decided.in_force(pipeline.name, pipeline.model.version)
