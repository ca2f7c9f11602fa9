"""Every kind of feature is a sentence that a person can read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schemas.schema import load_schema
from tests.builders import pipeline
from worker.config import load_pipeline
from worker.plan import feature_plan
from worker.sentences import Sentence, in_sequence, noun, number, plural, sentences

EVERY = ["count", "sum", "mean", "min", "max", "std", "last", "since_last", "distinct"]
FEATURES = f"""
  speed: {{kind: field, field: speed}}
  weekend: {{kind: calendar, is: weekend}}
  night: {{kind: calendar, hours: [0, 7]}}
  lunch: {{kind: calendar, hours: [12, 13]}}
  hour: {{kind: calendar, number: hour}}
  weekday: {{kind: calendar, number: weekday}}
  spent: {{kind: window, over: amount, windows: [7d, 1d, 5m], aggregates: [{", ".join(EVERY)}], capacity: 8}}
  last: {{kind: sequence, fields: [speed, amount], length: 4}}
  card: {{kind: profile, fields: [age_days], prefix: "x:", key: card}}
"""
SAID = {
    ("speed", 250.0, 44.51): "speed is 250; usually 44.51",
    ("weekend", 1.0, 0.0): "at the weekend (UTC); usually not",
    ("weekend", 0.0, 1.0): "not at the weekend (UTC); usually then",
    ("night", 1.0, 0.0): "at night, between 00:00 and 07:00 UTC; usually not",
    ("lunch", 1.0, 0.0): "between 12:00 and 13:00 UTC; usually not",
    ("hour", 3.0, 14.0): "in the hour from 03:00 UTC; usually in the hour from 14:00 UTC",
    ("weekday", 6.0, 2.0): "on a Sunday; usually on a Wednesday",
    ("spent.count_1d", 7.0, 1.0): "7 events in the last day; usually 1",
    ("spent.count_7d", 1.0, 3.0): "1 event in the last 7 days; usually 3",
    ("spent.sum_5m", 12345.6, 10.0): "total amount in the last 5 minutes is 12,346; usually 10",
    ("spent.mean_1d", 98.25, 53.6): "mean amount in the last day is 98.25; usually 53.6",
    ("spent.min_1d", 1.0, 2.0): "lowest amount in the last day is 1; usually 2",
    ("spent.max_1d", 1.0, 2.0): "highest amount in the last day is 1; usually 2",
    ("spent.std_1d", 1.0, 2.0): "standard deviation of amount in the last day is 1; usually 2",
    ("spent.last_1d", 1.0, 2.0): "amount of the event before is 1; usually 2",
    ("spent.since_last_1d", 40.0, 9000.0): "40 s since the event before; usually 2.5 h",
    ("spent.distinct_1d", 5.0, 1.0): "5 different values of amount in the last day; usually 1",
    ("last.speed", 1405.2, 1398.0): "speed is 1405; usually 1398",
    ("card.age_days", 2.0, 800.0): "card age_days is 2; usually 800",
}


def made(folder: Path, usual: dict[str, float]) -> dict[str, Sentence]:
    loaded = pipeline(folder, FEATURES)
    schema = load_schema(loaded.source.schema_ref, loaded.base)
    return sentences(feature_plan(loaded), schema, usual)


@pytest.mark.parametrize(("name", "value", "usual"), SAID)
def test_a_feature_is_said_in_words(tmp_path: Path, name: str, value: float, usual: float) -> None:
    assert made(tmp_path, {name: usual})[name](value, usual) == SAID[name, value, usual]


def test_without_anything_usual_the_value_is_said_alone(tmp_path: Path) -> None:
    assert made(tmp_path, {})["spent.count_1d"](7.0, float("nan")) == "7 events in the last day"


def test_every_column_of_every_shipped_pipeline_has_a_sentence() -> None:
    for file in sorted((Path(__file__).parents[2] / "pipelines").glob("*.yaml")):
        loaded = load_pipeline(file, {})
        plan = feature_plan(loaded)
        schema = load_schema(loaded.source.schema_ref, loaded.base)
        said = sentences(plan, schema, dict.fromkeys(plan.names, 1.0))
        channels = [f"{s.name}.{field}" for s in plan.sequences for field in s.fields]
        assert set(said) == {*plan.names, *channels}, file
        assert all(sentence(2.0, 1.0) for sentence in said.values())


def test_the_transactions_of_the_fraud_pipeline_are_called_so() -> None:
    loaded = load_pipeline(Path(__file__).parents[2] / "pipelines" / "fraud.yaml", {})
    schema = load_schema(loaded.source.schema_ref, loaded.base)
    usual = {"customer.count_1d": 1.0, "terminal.mean_7d": 0.0, "terminal.count_1d": 1.0}

    said = sentences(feature_plan(loaded), schema, usual)

    assert said["customer.count_1d"](7, 1) == "7 transactions in the last day; usually 1"
    assert said["terminal.count_1d"](4, 1) == "terminal: 4 labels in the last day; usually 1"
    mean = said["terminal.mean_7d"](1 / 3, 0)
    assert mean == "terminal: fraud in 33.3 % of the labels in the last 7 days; usually 0 %"


def test_a_field_that_is_true_or_false_is_said_so(tmp_path: Path) -> None:
    loaded = pipeline(tmp_path, "  speed: {kind: field, field: speed}")
    document = json.loads((tmp_path / "event.avsc").read_text())
    document["fields"][-1]["type"] = "boolean"
    (tmp_path / "event.avsc").write_text(json.dumps(document))
    schema = load_schema(loaded.source.schema_ref, loaded.base)

    said = sentences(feature_plan(loaded), schema, {"speed": 0.0})

    assert said["speed"](1.0, 0.0) == "speed is true; usually false"


def test_a_channel_is_said_with_as_many_digits_as_tell_its_end_from_its_beginning() -> None:
    said = in_sequence("s04", 30)

    assert said(1405.234, 1398.1) == "s04 went from 1398 to 1405 within 30 readings"
    assert said(2388.06, 2388.01) == "s04 went from 2388.01 to 2388.06 within 30 readings"


def test_nouns_come_from_the_name_of_the_record() -> None:
    assert noun("penstock.Transaction") == "transaction"
    assert noun("com.bank.CardPayment_v2") == "card payment v2"
    assert noun("IoTReading") == "io t reading"
    assert noun("_") == "event"
    several = [plural(word) for word in ("label", "entry", "batch", "day")]
    assert several == ["labels", "entries", "batches", "days"]


def test_numbers_are_short() -> None:
    said = [number(value) for value in (0.0, 7.0, 0.12345, 1234.56, -98765.4, 1e15, float("nan"))]

    assert said == ["0", "7", "0.1235", "1235", "-98,765", "1e+15", "nan"]
