"""`penstock init`: a pipeline file and a model folder from an Avro schema and an ONNX file."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas.schema import Schema, load_schema
from schemas.tree import SchemaError
from worker.config import load_pipeline
from worker.exits import Exit
from worker.infer import scores_of
from worker.init_feeds import Fed, feeds_of, made_up, read_typical, rows_of, some
from worker.init_files import VERSION, Draft, decision_of, pipeline_text, relative, write_model
from worker.init_onnx import MEANINGS, Inspected, Meaning, Output, inspect_onnx, output_of
from worker.init_schema import Ask, InitError, Roles, roles_of
from worker.key_types import NAME, TOPIC
from worker.terminal import painter
from worker.validate import plan

EXAMPLES = """examples:
  penstock init reading.avsc model.onnx
  penstock init reading.avsc model.onnx --rows training.csv     thresholds and reasons from real rows
  penstock init login.avsc model.onnx --key account --event-id login_id --topic logins
  penstock init reading.avsc lstm.onnx --features pressure,flow --length 30 --meaning remaining_life

It writes NAME.yaml and models/NAME/1 beside it; `penstock validate NAME.yaml` takes them as they are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `penstock init` its arguments."""
    parser.add_argument("schema", metavar="SCHEMA", help="Avro schema of the events, .avsc")
    parser.add_argument("model", type=Path, metavar="MODEL", help="ONNX file")
    parser.add_argument("--name", help="of pipeline and model; default: that of the ONNX file")
    parser.add_argument("--topic", help="that events come from; default: NAME.events")
    parser.add_argument("--key", metavar="FIELD", help="that equals the record key")
    parser.add_argument("--event-id", metavar="FIELD", help="that names the event")
    parser.add_argument("--event-time", metavar="FIELD", help="that says when it happened")
    parser.add_argument("--features", metavar="F1,F2", help="fields in the order of the model's input")
    parser.add_argument("--length", type=int, metavar="N", help="readings that a model of sequences sees")
    parser.add_argument("--output", metavar="NAME[:COLUMN]", help="of the model, that is the score")
    parser.add_argument("--meaning", choices=MEANINGS, help="of the score")
    parser.add_argument(
        "--threshold", type=float, action="append", default=[], metavar="SCORE",
        help="of a warning; given twice, the second is critical",
    )  # fmt: skip
    parser.add_argument(
        "--rows", type=Path, metavar="FILE",
        help="typical rows, such as those of the training: .csv or .parquet with a column a field, "
        ".npz with an array an input",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path(), metavar="DIR", help="where to write; default: here"
    )
    parser.add_argument("--force", action="store_true", help="write over files that are there")
    parser.add_argument("--json", action="store_true", help="for machines; asks nothing")
    parser.set_defaults(command=_init)


def _init(arguments: argparse.Namespace) -> int:
    is_asked = sys.stdin.isatty() and sys.stderr.isatty() and not arguments.json
    try:
        done = init(arguments, _asked if is_asked else _nobody)
    except (InitError, SchemaError) as error:
        print(f"penstock init: {error}", file=sys.stderr)
        return Exit.CONFIG
    print(json.dumps(done) if arguments.json else _told(done))
    return Exit.OK


def init(arguments: argparse.Namespace, ask: Ask) -> dict[str, Any]:
    """Write the files; returns what was written and chosen.

    Raises:
        InitError, SchemaError, ConfigError: nothing was written, and why.
    """
    schema = load_schema(arguments.schema)
    model = inspect_onnx(arguments.model)
    name = _name(arguments.name or arguments.model.stem, is_said=arguments.name is not None)
    topic = arguments.topic or f"{name}.events"
    if not re.fullmatch(TOPIC, topic):
        raise InitError(f"--topic: found {topic!r}, expected letters, digits, dots, _ and -")
    roles = roles_of(
        schema, ask, key=arguments.key, event_id=arguments.event_id, event_time=arguments.event_time
    )
    typical = None if arguments.rows is None else read_typical(arguments.rows)
    features = None if arguments.features is None else [f.strip() for f in arguments.features.split(",")]
    fed = feeds_of(model, roles, ask, features=features, typical=typical, length=arguments.length)
    output = output_of(model, ask, said=arguments.output, meaning=arguments.meaning)
    rows = rows_of(fed, typical)
    golden = made_up(fed) if rows is None else some(rows)
    scores = _scores(model, output, golden if rows is None else rows)
    meaning = output.meaning or _guessed(scores)
    decided = decision_of(meaning, output, None if rows is None else scores, arguments.threshold)

    file, folder = arguments.out / f"{name}.yaml", arguments.out / "models" / name / VERSION
    _refuse_existing([file, folder], force=arguments.force)
    origin = "unknown; golden rows are made up" if typical is None else f"see {typical.file}"
    try:
        judged = None if rows is None else scores
        written = write_model(folder, model, output, meaning, fed, golden, rows, judged, origin)
        ref = _schema_ref(arguments.schema, arguments.out)
        draft = Draft(name=name, topic=topic, schema_ref=ref, roles=roles, fed=fed, decided=decided)
        file.write_text(pipeline_text(draft))
        written.append(file)
        notes = [*plan(load_pipeline(file)).notes, *_notes(schema, roles, output, meaning, fed)]
    except Exception:
        if not arguments.force:  # then neither was there before
            file.unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
        raise
    return {
        "pipeline": str(file),
        "files": [str(path) for path in written],
        "topic": topic,
        "key": roles.key,
        "event_id": roles.event_id,
        "event_time": roles.event_time,
        "why": dict(roles.why),
        "features": [field for each in fed for field in each.fields],
        "features_why": fed[0].why,
        "output": {"tensor": output.tensor, "column": output.column, "meaning": meaning, "why": output.why},
        "decision": {"alert_when": decided.alert_when, **decided.severities, "why": decided.why},
        "notes": notes,
    }


def _scores(model: Inspected, output: Output, rows: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    card: Any = SimpleNamespace(output=output, name=model.path.name, version="")
    try:
        scores = scores_of(model.session, card, rows)
    except Exception as error:
        raise InitError(f"{model.path}: the model does not run on such rows: {error}") from error
    count = len(next(iter(rows.values())))
    if scores.shape != (count,):
        raise InitError(
            f"{model.path}: output {output.tensor} gives {scores.shape}, expected one score a row"
        )
    return scores


def _guessed(scores: NDArray[np.float32]) -> Meaning:
    return "probability" if ((scores >= 0) & (scores <= 1)).all() else "anomaly_score"


def _notes(schema: Schema, roles: Roles, output: Output, meaning: Meaning, fed: Sequence[Fed]) -> list[str]:
    notes = []
    if output.meaning is None:
        notes.append(f"the score is taken for a {meaning.replace('_', ' ')} by its values: --meaning says it")
    read = {field for each in fed for field in each.fields}
    if nullable := sorted(roles.nullable & read):
        notes.append(f"may be null: {', '.join(nullable)}; an event with a null there is a dead letter")
    if unread := [name for name in roles.numbers if name not in read]:
        notes.append(f"{schema.name} has numbers that the model does not read: {', '.join(unread)}")
    return notes


def _told(done: dict[str, Any]) -> str:
    paint = painter(sys.stdout)
    file, output, decision = done["pipeline"], done["output"], done["decision"]
    column = "" if output["column"] is None else f", column {output['column']}"
    levels = ", ".join(f"{k} {v:g}" for k, v in decision.items() if k not in ("alert_when", "why"))
    rows = [
        ("key", f"{done['key']} ({done['why']['key']})"),
        ("event id", f"{done['event_id']} ({done['why']['event_id']})"),
        ("event time", f"{done['event_time']} ({done['why']['event_time']})"),
        ("features", f"{', '.join(done['features'])} ({done['features_why']})"),
        ("score", f"{output['tensor']}{column}: {output['meaning'].replace('_', ' ')} ({output['why']})"),
        ("alerts", f"at or {decision['alert_when']} {levels} ({decision['why']})"),
    ]
    lines = [paint("wrote", "bold"), *(f"  {path}" for path in done["files"])]
    lines += [paint("chose", "bold"), *(f"  {what:<11} {said}" for what, said in rows)]
    if done["notes"]:
        lines += [paint("note", "yellow"), *(f"  {note}" for note in done["notes"])]
    lines += [
        paint("next", "bold"),
        f"  penstock validate {file}",
        f"  penstock topics create {file}",
        f"  penstock run {file}",
        f"  penstock send {file} --example",
        f"  penstock tail alerts {file}",
    ]
    return "\n".join(lines)


def _asked(question: str, choices: Sequence[str]) -> str | None:
    """An answer from the terminal: one of the choices, or any text where there are none."""
    shown = "".join(f"\n  {at}  {choice}" for at, choice in enumerate(choices, 1))
    while True:
        print(f"{question}{shown}\n> ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline()
        if not answer:
            return None
        said = answer.strip()
        if not choices or said in choices:
            return said or None
        if said.isdecimal() and 1 <= int(said) <= len(choices):
            return choices[int(said) - 1]


def _nobody(_question: str, _choices: Sequence[str]) -> None:
    return None


def _name(text: str, *, is_said: bool) -> str:
    if is_said:
        if not re.fullmatch(NAME, text):
            raise InitError(f"--name: found {text!r}, expected lower-case letters, digits and -")
        return text
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63]
    return name if re.fullmatch(NAME, name) else f"model-{name}".strip("-")[:63]


def _schema_ref(ref: str, out: Path) -> str:
    return relative(Path(ref), out) if Path(ref).is_file() else ref  # a bundled one is called by its name


def _refuse_existing(paths: Sequence[Path], *, force: bool) -> None:
    there = [str(path) for path in paths if path.exists()]
    if there and not force:
        raise InitError(
            f"{' and '.join(there)} exist: name another --name or --out, or write over with --force"
        )
