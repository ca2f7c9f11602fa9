"""A pipeline under load is the same pipeline, on nothing that the real one uses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from schemas.schema import load_schema
from schemas.spans import spans_of
from worker.capacity_apart import PREFIX, apart, topics_of
from worker.capacity_rig import row_names
from worker.capacity_values import generated
from worker.codecs import input_codec
from worker.config import LookupFeature, Pipeline, load_pipeline
from worker.format_types import Format
from worker.plan import decision_policy, feature_plan

ROOT = Path(__file__).parents[2]
RUN = f"{PREFIX}run."
TOKEN = "0123456789abcdef"
EVERYTHING = """
rollout: {control: fraud.control, shadow: fraud.shadow}
truth:
  topic: fraud.truth
  labels: {topic: labels, schema: label.avsc, event_id: event_id, label: fraud, time: event_time}
"""


@pytest.fixture(params=["fraud.yaml", "maintenance.yaml", "terminal-risk.yaml", "skab/pump.yaml", "all"])
def pipeline(request: pytest.FixtureRequest, tmp_path: Path) -> Pipeline:
    if request.param != "all":
        return load_pipeline(ROOT / "pipelines" / request.param, {})
    text = (ROOT / "pipelines" / "fraud.yaml").read_text()
    for line in ("rollout: null", "truth: null"):
        text = "\n".join(part for part in text.splitlines() if not part.startswith(line))
    text = text.replace("../models", str(ROOT / "models")).replace(
        "pipeline: terminal-risk.yaml", f"pipeline: {ROOT / 'pipelines' / 'terminal-risk.yaml'}"
    )
    text = text.replace("static_membership: false", "static_membership: true")
    text = text.replace("worker_id: null", "worker_id: w1").replace("when_behind: use", "when_behind: wait")
    text = text.replace("watch: null                    # a topic", "watch: fraud.watch  # a topic")
    text = text.replace("watch: null                      # or {drift", "watch: {drift: {}}  # or {drift")
    path = tmp_path / "all.yaml"
    path.write_text(text + EVERYTHING)
    found = load_pipeline(path, {})
    assert None not in (
        found.rollout,
        found.truth,
        found.watch,
        found.outputs.watch,
        found.delivery.worker_id,
    )
    assert found.kafka.static_membership
    return found


def test_every_topic_and_the_group_are_its_own(pipeline: Pipeline) -> None:
    loaded = apart(pipeline, RUN, TOKEN)

    assert topics_of(loaded)
    assert all(topic.startswith(RUN) for topic in [*topics_of(loaded), loaded.kafka.group])
    assert len(topics_of(loaded)) == len(topics_of(pipeline)) == len(set(topics_of(loaded)))
    # What would tell or ask other workers, or wait for them, is left out.
    assert (loaded.rollout, loaded.truth, loaded.delivery.worker_id) == (None, None, None)
    assert not loaded.kafka.static_membership
    waiting = [f for f in loaded.features.values() if isinstance(f, LookupFeature) and f.when_behind != "use"]
    assert waiting == []
    assert (loaded.source.registry, loaded.outputs.registry) == (None, None)


def test_every_row_that_it_may_store_has_its_group_in_its_name(pipeline: Pipeline) -> None:
    loaded = apart(pipeline, RUN, TOKEN)
    keys = [b"C%d" % i for i in range(100)]

    lanes = row_names(loaded, spans_of(keys), 4)

    assert len(lanes) == 4
    names = [name for lane in lanes for name in lane]
    assert all(name.startswith(b"ps:{" + RUN.encode()) for name in names)
    assert len(set(names)) == len(names) == 4 + len(keys)
    assert {name.rpartition(b"}:")[2] for lane in lanes for name in lane[1:]} == set(keys)


def test_the_work_is_the_same(pipeline: Pipeline) -> None:
    loaded = apart(pipeline, RUN, TOKEN)

    assert (loaded.model, loaded.decision, loaded.watch) == (
        pipeline.model,
        pipeline.decision,
        pipeline.watch,
    )
    assert (loaded.batching, loaded.state) == (pipeline.batching, pipeline.state)
    assert replace(loaded.delivery, worker_id=pipeline.delivery.worker_id) == pipeline.delivery
    assert feature_plan(loaded).names == feature_plan(pipeline).names
    assert feature_plan(loaded).layout == feature_plan(pipeline).layout
    assert decision_policy(loaded) == decision_policy(pipeline)
    assert loaded.kafka.properties == pipeline.kafka.properties


@pytest.mark.parametrize("format", ["avro", "json", "protobuf"])
def test_records_keep_their_format_without_the_framing_of_a_registry(format: Format, tmp_path: Path) -> None:
    text = (ROOT / "examples" / "logins" / "logins.yaml").read_text()
    assert "\nsource:\n" in text
    wanted = f"\nsource:\n  format: {format}\n  wire: confluent\n  registry: http://localhost:1\n"
    lines = text.replace("\nsource:\n", wanted).splitlines()
    own = [n for n, line in enumerate(lines) if line.lstrip().startswith("wire:") and "confluent" not in line]
    path = tmp_path / "logins.yaml"
    path.write_text("\n".join(line for n, line in enumerate(lines) if n not in own))
    for name in ("login.avsc", "models"):
        (tmp_path / name).symlink_to(ROOT / "examples" / "logins" / name)

    loaded = apart(load_pipeline(path, {}), RUN, TOKEN)
    schema = load_schema(loaded.source.schema_ref, loaded.base)
    rows = generated(loaded, schema, 5).slice(0, 50)
    codec = input_codec(loaded, schema)  # and no registry is asked

    assert loaded.source.format == format
    assert codec.decode(codec.encode(rows)).table.to_pylist() == rows.to_pylist()
