"""The files that `penstock init` writes: a commented pipeline, and a model folder that a worker takes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml
from numpy.typing import NDArray

from worker.init_feeds import SEQUENCE, Fed, feature_name
from worker.init_onnx import Inspected, Meaning, Output
from worker.init_schema import Roles
from worker.model_file import CARD_FILE
from worker.onnx_file import external_files
from worker.pack import pack
from worker.references import distribution

VERSION: Final = "1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """When a score becomes an alert, and how that was found."""

    alert_when: str
    severities: Mapping[str, float]
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """All that the pipeline file says."""

    name: str
    topic: str
    schema_ref: str
    roles: Roles
    fed: tuple[Fed, ...]
    decided: Decided


def decision_of(
    meaning: Meaning, output: Output, scores: NDArray[np.float32] | None, thresholds: Sequence[float]
) -> Decided:
    """When to alert: as said, by the rows' own scores, or by what such a score usually means.

    Args:
        meaning: of the score.
        output: whether it is that of an outlier detector.
        scores: (n,) of typical rows, where there are any.
        thresholds: warning, and critical where it is said.
    """
    below = meaning == "remaining_life" or output.is_outlier
    side = "below" if below else "above"
    if thresholds:
        names = ("warning", "critical")
        if len(thresholds) > 1:
            side = "above" if thresholds[1] > thresholds[0] else "below"
        return Decided(
            alert_when=side, severities=dict(zip(names, thresholds, strict=False)), why="as you said"
        )
    if meaning == "probability":
        return Decided(
            alert_when="above",
            severities={"warning": 0.5, "critical": 0.9},
            why="usual for a probability; yours to set",
        )
    if meaning == "anomaly_score" and scores is not None:
        shares = (0.01, 0.001) if below else (0.99, 0.999)
        warning, critical = (_digits(float(np.quantile(scores, share))) for share in shares)
        is_beyond = critical < warning if below else critical > warning
        severities = {"warning": warning} | ({"critical": critical} if is_beyond else {})
        return Decided(
            alert_when=side, severities=severities, why="1 and 0.1 % of the typical rows are beyond"
        )
    if output.is_outlier:
        return Decided(
            alert_when="below", severities={"warning": 0.0}, why="below 0 the detector says outlier"
        )
    if meaning == "remaining_life":
        return Decided(
            alert_when="below",
            severities={"warning": 50.0, "critical": 20.0},
            why="a guess: set it in the model's unit",
        )
    return Decided(
        alert_when="above", severities={"warning": 1.0}, why="a guess: set it, or give --rows or --threshold"
    )


def write_model(
    folder: Path,
    model: Inspected,
    output: Output,
    meaning: Meaning,
    fed: Sequence[Fed],
    golden: Mapping[str, NDArray[Any]],
    rows: Mapping[str, NDArray[Any]] | None,
    scores: NDArray[np.float32] | None,
    origin: str,
) -> list[Path]:
    """Write a version's folder; returns its files.

    Args:
        folder: models/NAME/VERSION.
        golden: rows of each input that are kept beside the model.
        rows: typical rows of each input, which the card describes.
        scores: (n,) of these.
        origin: where the rows come from, in words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = model.path.read_bytes()
    (folder / "model.onnx").write_bytes(data)
    written = [folder / "model.onnx"]
    external = {}
    for name in external_files(data):
        content = (model.path.parent / name).read_bytes()
        (folder / name).write_bytes(content)
        external[name] = hashlib.sha256(content).hexdigest()
        written.append(folder / name)
    card: dict[str, Any] = {
        "name": folder.parent.name,
        "version": folder.name,
        "description": f"{model.path.name}, as penstock init found it.",
        "file": "model.onnx",
        "sha256": "",
        **({"external_data": external} if external else {}),
        "inputs": [_input(each) for each in fed],
        "output": {"tensor": output.tensor, "column": output.column, "meaning": meaning},
    }
    reference = _reference(fed, rows or {})
    if reference:
        card["reference"] = reference
    if scores is not None:
        card["reference_score"] = distribution(scores)
    card["trained_on"] = origin
    text = yaml.safe_dump(card, sort_keys=False, width=110, default_flow_style=None)
    (folder / CARD_FILE).write_text(text)
    pack(folder, golden)
    return [*written, folder / CARD_FILE, folder / "golden.npz"]


def _input(each: Fed) -> dict[str, Any]:
    entry: dict[str, Any] = {"tensor": each.tensor.name, "dtype": each.dtype}
    if each.length is None:
        return {**entry, "shape": ["n", len(each.fields)], "features": [feature_name(f) for f in each.fields]}
    return {
        **entry,
        "shape": ["n", each.length, len(each.fields)],
        "sequence": SEQUENCE,
        "fields": list(each.fields),
    }


def _reference(fed: Sequence[Fed], rows: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in fed:
        if each.tensor.name not in rows:
            continue
        values = rows[each.tensor.name].reshape(-1, len(each.fields))
        for at, field in enumerate(each.fields):
            name = feature_name(field) if each.length is None else f"{SEQUENCE}.{field}"
            found[name] = distribution(values[:, at])
    return found


def pipeline_text(draft: Draft) -> str:
    """The pipeline file, commented."""
    roles, decided = draft.roles, draft.decided
    severities = "\n".join(f"    {name}: {value:g}" for name, value in decided.severities.items())
    return f"""\
# Written by `penstock init`: {draft.name} scores the events of the topic {draft.topic}.
# What is left out has its default. `penstock validate {draft.name}.yaml` says what the file would do, or what
# is wrong in which line; docs/pipeline-file.md describes every key.

name: {draft.name}
policy_version: "1"              # raise it with every change of `decision`: scores carry it

kafka:
  bootstrap: ${{PENSTOCK_KAFKA:-localhost:9092}}
  # properties:                  # any librdkafka setting, such as a login:
  #   security.protocol: SASL_SSL
  #   sasl.mechanism: SCRAM-SHA-512
  #   sasl.username: penstock
  #   sasl.password: ${{file:/run/secrets/kafka-password}}

source:
  topic: {draft.topic}
  schema: {_scalar(draft.schema_ref)}
  # wire: confluent              # with a schema registry; then also registry: http://localhost:8081
  key: {roles.key}{_because(roles, "key", "must equal the record key: it decides the partition")}
  event_id: {roles.event_id}{_because(roles, "event_id", "unique")}
  event_time: {roles.event_time}{_because(roles, "event_time", "when it happened")}
  # partitioner: crc32           # where producers are librdkafka with its own default, not Java clients

features:                        # what the model reads, computed for every event
{_features(draft.fed)}
  # What is known of the key's past can be a feature as well; the model then needs an input for it:
  # {roles.key}:
  #   kind: window
  #   over: {(roles.numbers or ("amount",))[0]}
  #   windows: [1h, 1d]
  #   aggregates: [count, mean]

model:
  name: {draft.name}
  version: "{VERSION}"
  repository: models             # models/{draft.name}/{VERSION} holds model.onnx, model.yaml, golden.npz
  device: ${{PENSTOCK_DEVICE:-auto}}         # or cpu, cuda:0

decision:                        # {decided.why}
  alert_when: {decided.alert_when}
  severities:
{severities}
  cooldown: 15m                  # one alert per {roles.key} and 15 minutes, unless the severity rises

outputs:
  scores: {draft.name}.scores
  alerts: {draft.name}.alerts
  dead_letters: {draft.name}.dead-letters

delivery:
  mode: ${{PENSTOCK_DELIVERY:-exactly_once}}

state:
  store: ${{PENSTOCK_STORE:-redis://localhost:6379/0}}

admin:
  port: ${{PENSTOCK_ADMIN_PORT:-8080}}       # /metrics, /healthz, /readyz
"""


def _features(fed: Sequence[Fed]) -> str:
    lines = []
    for each in fed:
        if each.length is None:
            lines += [f"  {feature_name(field)}: {{kind: field, field: {field}}}" for field in each.fields]
        else:
            lines += [
                f"  {SEQUENCE}:                      # the key's last readings, oldest first",
                "    kind: sequence",
                f"    fields: [{', '.join(each.fields)}]",
                f"    length: {each.length}",
            ]
    return "\n".join(lines)


def _because(roles: Roles, role: str, meaning: str) -> str:
    why = roles.why[role]
    return f"  # {meaning}" + (f" (chosen: {why})" if why != "as you said" else "")


def _scalar(text: str) -> str:
    written: str = yaml.safe_dump(text, width=1000, default_flow_style=True).splitlines()[0]
    return written


def _digits(value: float) -> float:
    return float(f"{value:.4g}")


def relative(path: Path, folder: Path) -> str:
    """A path as a file in that folder names it."""
    return Path(os.path.relpath(path, folder)).as_posix()
