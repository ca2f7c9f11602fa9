"""A pipeline file becomes exactly the settings it states."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.redis_address import parse_address
from worker.config import (
    CalendarFeature,
    ConfigError,
    LookupFeature,
    SequenceFeature,
    WindowFeature,
    feature_names,
    load_pipeline,
    sequence_names,
)
from worker.key_types import parse_duration_us, parse_size_bytes, write_duration, write_size
from worker.plan import feature_plan
from worker.secret import STARS, redact
from worker.validate import settings as written_settings

ROOT = Path(__file__).parent.parent.parent
MODELS = str(ROOT / "models")
AGGREGATES = ["count", "sum", "mean", "min", "max", "std", "last", "since_last", "distinct"]
SHIPPED = ["fraud", "terminal-risk", "maintenance"]

names = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
feature_keys = st.from_regex(r"[a-z][a-z0-9_]{0,20}", fullmatch=True)
topics = st.from_regex(r"[a-z][a-z0-9._-]{0,20}", fullmatch=True)
durations = st.builds(
    lambda n, unit: f"{n}{unit}", st.integers(0, 900), st.sampled_from(["us", "ms", "s", "m", "h", "d"])
)
whole_ms = st.builds(lambda n, unit: f"{n}{unit}", st.integers(1, 59), st.sampled_from(["ms", "s", "m"]))
sizes = st.builds(lambda n, unit: f"{n}{unit}", st.integers(1, 900), st.sampled_from(["B", "KiB", "MiB"]))
NUMBER_OF_YAML_1_2 = re.compile(r"[-+]?[0-9.]+[eE][-+]?[0-9]+")  # 0E0: PyYAML does not quote it
texts = st.text(min_size=1, max_size=20).filter(
    lambda text: (
        "${" not in text
        and "://" not in text
        and text.isprintable()
        and not NUMBER_OF_YAML_1_2.fullmatch(text)
    )
)
numbers = st.floats(allow_nan=False, allow_infinity=False, width=32) | st.integers(-1000, 1000)


def keys(required: Mapping[str, Any], optional: Mapping[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(dict(required), optional=dict(optional))


windows = st.lists(
    st.integers(1, 500).map(lambda n: f"{n}h"), min_size=1, max_size=4, unique_by=parse_duration_us
)
features = st.one_of(
    keys({"kind": st.just("field"), "field": st.just("amount")}, {}),
    keys({"kind": st.just("calendar"), "is": st.just("weekend")}, {}),
    st.tuples(st.integers(0, 23), st.integers(1, 24))
    .filter(lambda hours: hours[0] < hours[1])
    .map(lambda hours: {"kind": "calendar", "hours": list(hours)}),
    keys(
        {
            "kind": st.just("window"),
            "over": st.just("amount"),
            "windows": windows,
            "aggregates": st.lists(st.sampled_from(AGGREGATES), min_size=1, unique=True),
        },
        {"capacity": st.integers(1, 5000), "allowed_lateness": durations},
    ),
    keys(
        {"kind": st.just("sequence"), "fields": st.just(["amount"]), "length": st.integers(1, 100)},
        {"capacity": st.integers(100, 200)},
    ),
    keys(
        {
            "kind": st.just("lookup"),
            "pipeline": st.just(str(ROOT / "pipelines" / "terminal-risk.yaml")),
            "group": st.just("risk"),
            "key": st.just("terminal_id"),
        },
        {
            "max_age": durations,
            "when_behind": st.sampled_from(["use", "wait"]),
            "wait_at_most": whole_ms,
            "default": numbers,
        },
    ),
)
rising = st.lists(st.integers(0, 1000), min_size=1, max_size=3, unique=True).map(sorted)
decisions = st.one_of(
    st.tuples(rising, whole_ms).map(
        lambda drawn: {
            "severities": {f"s{i}": value / 1000 for i, value in enumerate(drawn[0])},
            "cooldown": drawn[1],
        }
    ),
    st.tuples(rising, st.integers(0, 9)).map(
        lambda drawn: {
            "alert_when": "below",
            "severities": {f"s{i}": value for i, value in enumerate(reversed(drawn[0]))},
            "clear_margin": drawn[1],
        }
    ),
)


@st.composite
def pipelines(draw: st.DrawFn) -> dict[str, Any]:
    """A valid pipeline over the transaction schema, as the file holds it."""
    source_topic, scores, alerts, dead_letters = draw(
        st.lists(topics, min_size=4, max_size=4, unique=True).map(tuple)
    )
    source = keys(
        {
            "topic": st.just(source_topic),
            "schema": st.just("transaction.avsc"),
            "key": st.sampled_from(["customer_id", "terminal_id"]),
            "event_id": st.just("transaction_id"),
            "event_time": st.just("event_time"),
        },
        {
            "wire": st.sampled_from(["single_object", "raw"]),
            "max_future": st.none() | durations,
            "partitioner": st.sampled_from(["murmur2", "crc32"]),
            "start": st.sampled_from(["earliest", "latest"]),
            "max_record_bytes": sizes,
            "max_key_bytes": sizes,
        },
    )
    kafka_keys = {
        "bootstrap": texts,
        "group": names,
        "protocol": st.sampled_from(["classic", "consumer"]),
        "properties": st.dictionaries(names, texts | st.integers(0, 9999) | st.booleans(), max_size=3),
    }
    optional = {
        "policy_version": texts,
        "kafka": keys({}, kafka_keys),
        "batching": keys(
            {},
            {
                "max_rows": st.integers(1, 5000),
                "max_bytes": sizes,
                "max_wait": durations,
                "eager": st.booleans(),
                "latency_slo": st.none() | st.integers(1, 1000).map("{}ms".format),
            },
        ),
        "delivery": keys(
            {"commit_interval": st.integers(1, 9_999).map("{}ms".format)},
            {
                "transaction_timeout": st.sampled_from([None, "10s", "14s"]),
                "mode": st.sampled_from(["exactly_once", "at_least_once"]),
                "worker_id": st.none() | texts,
            },
        ),
        "state": keys(
            {},
            {
                "store": st.sampled_from(
                    ["memory://", "redis://cache:6379/1", "rediss+cluster://cache:6379"]
                ),
                "hot_rows": st.integers(1, 10**6),
                "write_interval": whole_ms,
            },
        ),
        "dead_letters": keys({}, {"stop_share": st.floats(0.01, 1.0), "min_events": st.integers(1, 10**6)}),
        "admin": keys({}, {"host": texts, "port": st.none() | st.integers(0, 65535)}),
    }
    pipeline = {
        "name": draw(names),
        "source": draw(source),
        "features": draw(st.dictionaries(feature_keys, features, min_size=1, max_size=3)),
        "outputs": {"dead_letters": dead_letters, "scores": scores, "alerts": alerts},
        **draw(keys({}, optional)),
    }
    if draw(st.booleans()):
        pipeline["model"] = {"name": "fraud", "version": "1", "repository": MODELS}
        if draw(st.booleans()):
            pipeline["decision"] = draw(decisions)
    return pipeline


SMALL: dict[str, Any] = {
    "name": "cards",
    "source": {
        "topic": "transactions",
        "schema": "transaction.avsc",
        "key": "customer_id",
        "event_id": "transaction_id",
        "event_time": "event_time",
    },
    "features": {"amount": {"kind": "field", "field": "amount"}},
    "outputs": {"dead_letters": "cards.dead-letters"},
}


def save(folder: Path, content: Mapping[str, Any] | str) -> Path:
    file = folder / "pipeline.yaml"
    text = content if isinstance(content, str) else yaml.safe_dump(dict(content), sort_keys=False)
    file.write_text(text, encoding="utf-8")
    return file


def block(content: Mapping[str, Any], indent: str = "") -> str:
    """The content as YAML with every key on a line of its own and values as JSON."""
    lines = []
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            lines.append(f"{indent}{key}:\n{block(value, indent + '  ')}")
        else:
            text = value if isinstance(value, str) and value.startswith("${") else json.dumps(value)
            lines.append(f"{indent}{key}: {text}\n")
    return "".join(lines)


@given(content=pipelines())
@settings(max_examples=30, deadline=None)
def test_settings_written_out_and_read_again_are_the_same(content: dict[str, Any]) -> None:
    with TemporaryDirectory() as folder:
        file = save(Path(folder), content)
        first = load_pipeline(file, {})
        save(Path(folder), written_settings(first))

        assert load_pipeline(file, {}) == first


@given(content=pipelines())
@settings(max_examples=25, deadline=None)
def test_what_the_file_says_is_what_the_settings_say(content: dict[str, Any]) -> None:
    with TemporaryDirectory() as folder:
        pipeline = load_pipeline(save(Path(folder), content), {})

    written = written_settings(pipeline)
    for section, value in content.items():
        if section in ("features", "kafka"):
            continue
        for key, said in value.items() if isinstance(value, dict) else ((None, value),):
            shown = written[section] if key is None else written[section][key]
            assert in_units(shown) == in_units(said)
    assert list(pipeline.features) == list(content["features"])
    for name, text in content.get("kafka", {}).get("properties", {}).items():
        said = text if isinstance(text, str) else json.dumps(text)
        assert pipeline.kafka.client_properties()[name] == said


def in_units(value: object) -> object:
    for parse in (parse_duration_us, parse_size_bytes):
        try:
            return parse(str(value))
        except ValueError:
            continue
    return value


@given(value_us=st.integers(0, 10**15), value_bytes=st.integers(0, 10**12))
def test_durations_and_sizes_survive_being_written(value_us: int, value_bytes: int) -> None:
    if len(write_duration(value_us)) <= 10:
        assert parse_duration_us(write_duration(value_us)) == value_us
    if len(write_size(value_bytes)) <= 10:
        assert parse_size_bytes(write_size(value_bytes)) == value_bytes


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_pipelines_load_without_any_environment(name: str) -> None:
    file = ROOT / "pipelines" / f"{name}.yaml"
    if name == "maintenance" and not (ROOT / "models" / "rul" / "1" / "model.yaml").is_file():
        pytest.skip("the model rul version 1 is not there")

    pipeline = load_pipeline(file, {})

    assert pipeline.name == name
    assert pipeline.kafka.group == f"penstock-{name}"
    assert pipeline.base == file.parent


def test_the_shipped_pipelines_take_every_address_from_the_environment() -> None:
    env = {
        "PENSTOCK_KAFKA": "kafka:9092",
        "PENSTOCK_STORE": "memory://",
        "PENSTOCK_DELIVERY": "at_least_once",
        "PENSTOCK_DEVICE": "cuda:1",
        "PENSTOCK_REGISTRY": "http://registry:8081",
        "PENSTOCK_ADMIN_HOST": "0.0.0.0",
        "PENSTOCK_ADMIN_PORT": "0",
    }

    pipeline = load_pipeline(ROOT / "pipelines" / "fraud.yaml", env)

    assert pipeline.kafka.bootstrap == "kafka:9092"
    assert pipeline.state.store == "memory://"
    assert pipeline.delivery.mode == "at_least_once"
    assert pipeline.model is not None
    assert pipeline.model.device == "cuda:1"
    assert pipeline.source.registry == pipeline.outputs.registry == "http://registry:8081"
    assert (pipeline.admin.host, pipeline.admin.port) == ("0.0.0.0", 0)


def test_the_fraud_pipeline_computes_the_fifteen_columns_in_order() -> None:
    pipeline = load_pipeline(ROOT / "pipelines" / "fraud.yaml", {})
    windows = [f"{kind}_{window}" for window in ("1d", "7d", "30d") for kind in ("count", "mean")]

    assert feature_names(pipeline, {}) == [
        "amount",
        "weekend",
        "night",
        *(f"customer.{name}" for name in windows),
        *(f"terminal.{name}" for name in windows),
    ]
    assert sequence_names(pipeline) == []


def test_the_names_are_those_of_the_computed_columns(tmp_path: Path) -> None:
    window = {"kind": "window", "over": "amount", "windows": ["7d", "24h"], "aggregates": ["mean", "count"]}
    pipeline = load_pipeline(save(tmp_path, {**SMALL, "features": {"past": window}}), {})

    assert feature_names(pipeline, {}) == list(feature_plan(pipeline).names)
    assert feature_names(pipeline, {})[0] == "past.mean_24h"


def test_values_carry_the_unit_of_their_name(tmp_path: Path) -> None:
    content = {
        **SMALL,
        "features": {
            "night": {"kind": "calendar", "hours": [0, 7]},
            "past": {"kind": "window", "over": "amount", "windows": ["1d", "2h"], "aggregates": ["sum"]},
            "last": {"kind": "sequence", "fields": ["amount"], "length": 30},
            "risk": {
                "kind": "lookup",
                "pipeline": str(ROOT / "pipelines" / "terminal-risk.yaml"),
                "group": "risk",
                "key": "terminal_id",
                "wait_at_most": "2m",
            },
        },
        "batching": {"max_wait": "500us", "max_bytes": "64KiB"},
    }

    pipeline = load_pipeline(save(tmp_path, content), {})
    night, past, last, risk = pipeline.features.values()

    assert isinstance(night, CalendarFeature)
    assert night.hours == (0, 7)
    assert isinstance(past, WindowFeature)
    assert past.windows == ("1d", "2h")
    assert past.windows_us == (86_400_000_000, 7_200_000_000)
    assert past.allowed_lateness_us == 3_600_000_000
    assert isinstance(last, SequenceFeature)
    assert last.capacity == 38
    assert isinstance(risk, LookupFeature)
    assert (risk.max_age_us, risk.wait_at_most_ms) == (86_400_000_000, 120_000)
    assert (pipeline.batching.max_wait_ms, pipeline.batching.max_bytes) == (0.5, 65_536)
    assert pipeline.source.max_future_us == 3_600_000_000


@pytest.mark.parametrize(
    ("written", "env", "means"),
    [
        ("${PORT}", {"PORT": "9000"}, 9000),
        ("${PORT:-9001}", {}, 9001),
        ("${PORT:-9001}", {"PORT": ""}, 9001),
        ('"${PORT:-9001}"', {"PORT": "9002"}, 9002),
        ("9${TAIL}", {"TAIL": "3"}, 93),
        ("${PORT:-}", {}, None),
        ("${PORT:-null}", {}, None),
    ],
)
def test_a_number_may_come_from_the_environment(
    tmp_path: Path, written: str, env: dict[str, str], means: int | None
) -> None:
    file = save(tmp_path, block(SMALL) + f"admin:\n  port: {written}\n")

    assert load_pipeline(file, env).admin.port == means


def test_text_from_the_environment_stays_text_where_text_belongs(tmp_path: Path) -> None:
    file = save(
        tmp_path,
        block(SMALL) + "policy_version: ${V}\nkafka:\n  properties:\n    sasl.username: ${USER_ID}\n",
    )

    pipeline = load_pipeline(file, {"V": "007", "USER_ID": "0042"})

    assert pipeline.policy_version == "007"
    assert pipeline.kafka.client_properties()["sasl.username"] == "0042"


def test_a_doubled_dollar_is_a_dollar(tmp_path: Path) -> None:
    file = save(tmp_path, block(SMALL) + 'policy_version: "$${V} and ${V}"\n')

    assert load_pipeline(file, {"V": "x"}).policy_version == "${V} and x"


def test_secrets_never_show_in_the_settings(tmp_path: Path) -> None:
    (tmp_path / "kafka-password").write_text("hunter2-from-file\n")
    file = save(
        tmp_path,
        block(SMALL)
        + """
kafka:
  properties:
    sasl.password: ${file:kafka-password}
    ssl.key.password: ${KEY_PASSWORD}
    ssl.truststore.password: ${TRUST_PASSWORD:-by-default}
    sasl.username: penstock
state:
  store: redis://user:${STORE_PASSWORD}@cache:6379/0
""",
    )

    pipeline = load_pipeline(file, {"KEY_PASSWORD": "31415926", "STORE_PASSWORD": "store-password"})
    secrets = ["hunter2-from-file", "31415926", "by-default", "store-password"]
    client = pipeline.kafka.client_properties()

    for shown in (repr(pipeline), json.dumps(written_settings(pipeline))):
        assert not [secret for secret in secrets if secret in shown]
        assert "redis://user:**********@cache:6379/0" in shown
        assert "penstock" in shown
    assert client["sasl.password"] == "hunter2-from-file"
    assert client["ssl.key.password"] == "31415926"
    assert "store-password" in pipeline.state.store
    assert pipeline.secrets >= set(secrets)
    assert redact(f"cannot log in with {secrets[0]}", pipeline.secrets) == f"cannot log in with {STARS}"


@pytest.mark.parametrize(
    ("store", "secret"),
    [
        ("redis://user:${file:redis-password}@cache:6379/0", "pa/ss@word:#1"),
        ("redis://user:${PASSWORD}@cache:6379/0", "pa/ss@word:#1"),
        ("rediss+cluster://:${file:redis-password}@a:1,b:2?ssl_ca_certs=/etc/ca.pem", "pa/ss@word:#1"),
        ("redis+sentinel://u:${FIRST}@s:26379/main?sentinel_password=${file:redis-password}", "pa/ss:word"),
        ("redis+sentinel://u:${FIRST}@s:26379/main?sentinel_password=${PASSWORD}&timeout=1s", "pa/ss:word"),
    ],
)
def test_the_passwords_of_a_store_never_show_wherever_they_come_from(
    tmp_path: Path, store: str, secret: str
) -> None:
    (tmp_path / "redis-password").write_text(f"{secret}\n")
    file = save(tmp_path, block(SMALL) + f"state: {{store: '{store}'}}\n")

    pipeline = load_pipeline(file, {"PASSWORD": secret, "FIRST": "wilma-1"})

    for shown in (repr(pipeline), json.dumps(written_settings(pipeline))):
        assert secret not in shown
        assert "wilma-1" not in shown
        assert STARS in shown
    address = parse_address(str(pipeline.state.store))
    assert secret in (address.password, address.sentinel_password)
    assert secret not in redact(f"cannot log in with {secret}", pipeline.secrets)


def test_paths_count_from_the_folder_of_the_file(tmp_path: Path) -> None:
    folder = tmp_path / "deep"
    folder.mkdir()
    (tmp_path / "own.avsc").write_text((ROOT / "schemas" / "transaction.avsc").read_text())
    content = {**SMALL, "source": {**SMALL["source"], "schema": "../own.avsc"}}

    assert load_pipeline(save(folder, content), {}).source.schema_ref == "../own.avsc"


def test_a_pipeline_that_looks_itself_up_is_refused(tmp_path: Path) -> None:
    lookup = {"kind": "lookup", "pipeline": "pipeline.yaml", "group": "past", "key": "terminal_id"}
    file = save(tmp_path, {**SMALL, "features": {"risk": lookup}})

    with pytest.raises(
        ConfigError,
        match=r"features\.risk\.pipeline: found .*, expected a pipeline that does not look things up here",
    ):
        load_pipeline(file, {})
