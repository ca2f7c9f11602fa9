"""A mistake in a pipeline file is one line: file, line, key, what was found, what was expected."""

import copy
import json
import re
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.config import ConfigError, load_pipeline

ROOT = Path(__file__).parent.parent.parent
FREE = {  # their keys are names
    ("features",),
    ("decision", "severities"),
    ("decision", "rules"),
    ("kafka", "properties"),
}
FULL: dict[str, Any] = {
    "name": "cards",
    "policy_version": "1",
    "kafka": {
        "bootstrap": "localhost:9092",
        "group": "cards",
        "protocol": "classic",
        "properties": {"client.rack": "a"},
    },
    "source": {
        "topic": "transactions",
        "schema": "transaction.avsc",
        "wire": "single_object",
        "writer_schemas": ["transaction.avsc"],
        "registry": "http://localhost:8081",
        "key": "customer_id",
        "event_id": "transaction_id",
        "event_time": "event_time",
        "max_future": "1h",
        "partitioner": "murmur2",
        "start": "earliest",
        "max_record_bytes": "1MiB",
        "max_key_bytes": "1KiB",
    },
    "features": {
        "amount": {"kind": "field", "field": "amount"},
        "weekend": {"kind": "calendar", "is": "weekend"},
        "night": {"kind": "calendar", "hours": [0, 7]},
        "customer": {
            "kind": "window",
            "over": "amount",
            "windows": ["1d", "7d"],
            "aggregates": ["count", "mean"],
            "capacity": 512,
            "allowed_lateness": "1h",
        },
        "last": {
            "kind": "sequence",
            "fields": ["amount"],
            "length": 30,
            "capacity": 40,
            "warm_up": "pad",
        },
        "terminal": {
            "kind": "lookup",
            "pipeline": str(ROOT / "pipelines" / "terminal-risk.yaml"),
            "group": "risk",
            "key": "terminal_id",
            "max_age": "1d",
            "when_behind": "use",
            "wait_at_most": "30s",
            "default": 0.0,
        },
    },
    "model": {
        "name": "fraud",
        "version": "1",
        "repository": str(ROOT / "models"),
        "device": "auto",
        "when_device_fails": "cpu",
        "when_model_fails": "rules",
        "rules": "amount > 220 or customer.count_1d > 20",
        "rules_score": [0.0, 1.0],
    },
    "decision": {
        "alert_when": "above",
        "severities": {"warning": 0.5, "critical": 0.9},
        "cooldown": "1h",
        "on": "score",
        "needs_complete": False,
        "rules": {
            "many": {"when": "customer.count_1d > 20", "combine": "or", "severity": "critical"},
            "small": {"when": "amount < 5 and score < 0.95", "combine": "override", "severity": "none"},
        },
    },
    "outputs": {
        "scores": "cards.scores",
        "alerts": "cards.alerts",
        "dead_letters": "cards.dead-letters",
        "wire": "single_object",
        "registry": "http://localhost:8081",
    },
    "batching": {
        "max_rows": 1024,
        "max_bytes": "1MiB",
        "max_wait": "5ms",
        "eager": True,
        "latency_slo": "50ms",
    },
    "delivery": {
        "mode": "exactly_once",
        "commit_interval": "100ms",
        "transaction_timeout": "10s",
        "worker_id": "a",
    },
    "state": {"store": "memory://", "hot_rows": 100000, "write_interval": "1s"},
    "dead_letters": {"stop_share": 0.5, "min_events": 1000},
    "admin": {"host": "127.0.0.1", "port": 8080},
}
REQUIRED = [
    ("name",),
    ("source",),
    ("features",),
    ("outputs",),
    *(("source", key) for key in ("topic", "schema", "key", "event_id", "event_time")),
    ("features", "amount", "kind"),
    ("features", "amount", "field"),
    *(("features", "customer", key) for key in ("over", "windows", "aggregates")),
    *(("features", "last", key) for key in ("fields", "length")),
    *(("features", "terminal", key) for key in ("pipeline", "group", "key")),
    ("model", "name"),
    ("model", "version"),
    ("decision", "severities"),
    *(("decision", "rules", "many", key) for key in ("when", "combine", "severity")),
    ("outputs", "dead_letters"),
    ("outputs", "scores"),
    ("outputs", "alerts"),
]

Path_ = tuple[str, ...]


def emit(content: Mapping[str, Any], path: Path_ = ()) -> list[tuple[Path_, str]]:
    """The lines of the file, each with the key it is about: mappings in blocks, all else as JSON."""
    lines: list[tuple[Path_, str]] = []
    for key, value in content.items():
        at = (*path, key)
        indent = "  " * len(path)
        if isinstance(value, Mapping) and value:
            lines.append((at, f"{indent}{json.dumps(key)}:"))
            lines += emit(value, at)
        else:
            lines.append((at, f"{indent}{json.dumps(key)}: {json.dumps(value)}"))
    return lines


def sections(content: Mapping[str, Any], path: Path_ = ()) -> list[Path_]:
    """The paths of all mappings."""
    inner = [sections(value, (*path, key)) for key, value in content.items() if isinstance(value, Mapping)]
    return [path, *(section for found in inner for section in found)]


def part(content: dict[str, Any], path: Path_) -> dict[str, Any]:
    for key in path:
        content = content[key]
    return content


def error_of(content: Mapping[str, Any] | str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """The line the error names, and what follows it; the message must be one line, the file first."""
    text = content if isinstance(content, str) else "\n".join(line for _, line in emit(content)) + "\n"
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        file.write_bytes(text.encode("utf-8", errors="surrogateescape"))
        with pytest.raises(ConfigError) as caught:
            load_pipeline(file, env or {})
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    match = re.fullmatch(r"(?P<line>\d+): (?P<rest>.+)", message.removeprefix(f"{file}:"))
    assert match is not None, message
    return int(match["line"]), match["rest"]


def line_of(content: Mapping[str, Any], path: Path_) -> int:
    return [at for at, _ in emit(content)].index(path) + 1


LEAVES = [path for path, _ in emit(FULL) if not isinstance(part(FULL, path), dict)]
MAPPINGS = [path for path in sections(FULL) if path not in FREE]
wrong_anywhere = st.sampled_from([[[]], [{"a": 1}], {"a": {"b": 1}}, [None]])
not_a_mapping = st.sampled_from([3, "text", True, [], ["a"], 0.5])
keys_nobody_knows = st.from_regex(r"x[a-z_\n\u2028é]{0,12}", fullmatch=True)


def test_the_example_itself_loads() -> None:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "pipeline.yaml"
        file.write_text("\n".join(line for _, line in emit(FULL)))

        assert load_pipeline(file, {}).name == "cards"


@given(path=st.sampled_from(LEAVES), wrong=wrong_anywhere)
@settings(max_examples=40, deadline=None)
def test_a_wrong_value_is_named_with_its_line(path: Path_, wrong: Any) -> None:
    content = copy.deepcopy(FULL)
    part(content, path[:-1])[path[-1]] = wrong

    line, rest = error_of(content)

    assert line == line_of(content, path)
    assert rest.startswith(".".join(path))
    assert ", expected " in rest


@given(path=st.sampled_from([path for path in sections(FULL) if path]), wrong=not_a_mapping)
@settings(max_examples=30, deadline=None)
def test_a_section_that_is_no_mapping_is_named_with_its_line(path: Path_, wrong: Any) -> None:
    content = copy.deepcopy(FULL)
    part(content, path[:-1])[path[-1]] = wrong

    line, rest = error_of(content)

    assert line == line_of(content, path)
    assert rest.startswith(".".join(path) + ": found ")
    assert rest.endswith("expected a mapping")


@given(path=st.sampled_from(MAPPINGS), key=keys_nobody_knows, at=st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_an_unknown_key_is_named_with_its_line(path: Path_, key: str, at: int) -> None:
    content = copy.deepcopy(FULL)
    section = part(content, path)
    items = list(section.items())
    items.insert(at, (key, 1))
    section.clear()
    section.update(items)

    line, rest = error_of(content)

    assert line == line_of(content, (*path, key))
    assert "found an unknown key, expected " in rest


@pytest.mark.parametrize("path", REQUIRED, ids=".".join)
def test_a_missing_key_is_named_with_the_line_of_its_section(path: Path_) -> None:
    content = copy.deepcopy(FULL)
    del part(content, path[:-1])[path[-1]]

    line, rest = error_of(content)

    assert line == (line_of(content, path[:-1]) if path[:-1] else 1)
    assert rest.startswith(".".join(path) + ": found nothing, expected ")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("name", "Fraud!", 'found "Fraud!", expected lower-case letters, digits and dashes'),
        ("policy_version", 1, "found 1, expected text (quote it"),
        ("policy_version", "", 'found "", expected text that is not empty'),
        ("source.wire", "avro", 'found "avro", expected one of single_object, confluent, raw'),
        ("source.topic", "a b", 'found "a b", expected a topic name'),
        ("source.key", "customer", 'found "customer", which the schema does not have, expected customer_id'),
        (
            "source.key",
            "amount",
            'found "amount" of type double, expected a field of type string, int or long',
        ),
        ("source.event_time", "amount", "expected a field of type timestamp-millis"),
        ("source.schema", "nowhere.avsc", 'found "nowhere.avsc" ('),
        ("source.max_future", "1 hour", 'found "1 hour", expected a duration such as 500ms, 1s or 2h'),
        ("source.max_future", 60, "found 60, expected a duration"),
        ("source.max_record_bytes", "1MB", 'found "1MB", expected a size such as 64KiB or 1MiB'),
        ("source.max_record_bytes", "0B", 'found "0B", expected at least 1'),
        ("features.amount.kind", "fields", 'found "fields", expected one of calendar, field, lookup'),
        (
            "features.amount.field",
            "terminal_id",
            'found "terminal_id" of type string, expected a numeric field',
        ),
        ("features.amount.field", "channel", 'found "channel" of type enum, expected a numeric field'),
        ("features.weekend.is", "monday", 'found "monday", expected weekend'),
        ("features.night.hours", [7, 3], "found [7, 3], expected the first hour before the second"),
        ("features.customer.windows", [], "found an empty list, expected at least 1 item"),
        ("features.customer.windows", ["1d", "24h"], "found the same window twice"),
        ("features.customer.capacity", 0, "found 0, expected at least 1"),
        ("features.customer.capacity", True, "found true, expected a whole number"),
        ("features.customer.capacity", 2.5, "found 2.5, expected a whole number"),
        ("features.last.capacity", 20, "found 20, expected at least the length, 30"),
        ("features.last.every", "0s", 'found "0s", expected at least 1'),
        ("features.last.every", 10, "found 10, expected a duration such as 500ms, 1s or 2h"),
        ("features.last.fill", "mean", "found mean without every, expected last, or every beside it"),
        ("features.last.fill", "cubic", 'found "cubic", expected one of last, linear, mean'),
        ("features.last.warm_up", "wait", 'found "wait", expected one of pad, zero, nan'),
        ("features.last.complete_from", 31, "found 31, expected at most the length, 30"),
        ("features.terminal.pipeline", "/nowhere.yaml", 'found "/nowhere.yaml", expected a pipeline file'),
        (
            "features.terminal.group",
            "risks",
            'found "risks", expected a window feature of terminal-risk.yaml: risk',
        ),
        ("model.version", "99", "model: found no "),
        ("model.device", "gpu", 'found "gpu", expected one of auto, cpu, cuda:N, tensorrt:N'),
        ("model.when_device_fails", "gpu", 'found "gpu", expected one of stop, cpu'),
        (
            "model.rules",
            None,
            "found nothing, expected the rules that stand in, as when_model_fails is rules",
        ),
        (
            "model.rules",
            "amount > 1 or custmer.count_1d > 1",
            "found `custmer.count_1d`, expected a feature, ",
        ),
        ("model.rules", "amount", "found `amount`, expected a comparison, such as amount > 220"),
        ("model.rules", "amount > 220 or", "found invalid syntax at character 1, expected a rule of"),
        ("model.rules_score", [0.0], "model.rules_score[1]: found nothing, expected a value"),
        (
            "model.rules_score",
            [0.5, 1.0],
            "found [0.5, 1], expected [no alert, alert]: below 0.5, and at or above",
        ),
        ("model.rules_score", [0.0, 0.4], "found [0, 0.4], expected [no alert, alert]: below 0.5, and at or"),
        ("decision.severities.critical", 0.4, "found 0.4, expected a threshold above 0.5"),
        ("decision.severities.critical", float("nan"), "expected a"),
        ("decision.cooldown", None, "found neither of cooldown and clear_margin, expected exactly one"),
        ("decision.clear_margin", 0.1, "found both of cooldown and clear_margin, expected exactly one"),
        ("decision.on", "middle", 'found "middle", expected one of score, low, high'),
        (
            "decision.rules.many.when",
            "customer.count_2d > 20",
            "found `customer.count_2d`, expected a feature, such as customer.count_",
        ),
        ("decision.rules.many.when", "score", "found `score`, expected a comparison, such as amount > 220"),
        ("decision.rules.many.when", "exec('1') > 0", "found `exec('1')`, expected a feature, a number, or"),
        ("decision.rules.many.combine", "xor", 'found "xor", expected one of and, or, override'),
        ("decision.rules.many.severity", "urgent", 'found "urgent", expected one of warning, critical'),
        ("decision.rules.many.severity", "none", 'found "none", expected one of warning, critical'),
        ("decision.rules.small.severity", "no", 'found "no", expected one of warning, critical, none'),
        ("outputs.alerts", "cards.scores", "expected a topic other than that of outputs.scores"),
        ("outputs.scores", "transactions", "expected a topic other than that of source.topic"),
        ("batching.eager", "yes", 'found "yes", expected true or false'),
        ("delivery.commit_interval", "1500us", "expected a duration such as 500ms, 1s or 2h, in whole milli"),
        (
            "delivery.commit_interval",
            "10s",
            "found 10s, expected less than the time-out of a transaction, 10s",
        ),
        ("state.store", "localhost:6379", 'found "localhost:6379", expected redis://HOST:PORT/DB'),
        ("dead_letters.stop_share", 1.5, "found 1.5, expected at most 1"),
        ("admin.port", 65536, "found 65536, expected at most 65535"),
        ("admin.port", "8080", 'found "8080", expected a whole number'),
        (
            "kafka.properties",
            {"group.id": "x"},
            "found a setting that has a key of its own, expected kafka.group",
        ),
    ],
)
def test_what_was_found_and_expected_is_said(path: str, value: Any, message: str) -> None:
    content = copy.deepcopy(FULL)
    *parents, key = path.split(".")
    part(content, tuple(parents))[key] = value

    _, rest = error_of(content)

    assert message in rest
    assert rest.startswith(path.split(".", maxsplit=1)[0])


@pytest.mark.parametrize(
    ("path", "key", "near"),
    [
        ((), "feature", "features"),
        (("batching",), "max_row", "max_rows"),
        (("batching",), "max_wait_ms", "max_wait"),
        (("source",), "schema_ref", "schema"),
        (("features", "customer"), "window", "windows"),
        (("features", "customer"), "windows_us", "windows"),
        (("model",), "repo", "one of name, version, repository, device"),
        ((), "path", "one of name, policy_version, kafka, source"),
        ((), "secrets", "one of name, policy_version, kafka, source"),
    ],
)
def test_an_unknown_key_comes_with_the_nearest_name(path: Path_, key: str, near: str) -> None:
    content = copy.deepcopy(FULL)
    part(content, path)[key] = "1"

    line, rest = error_of(content)

    assert line == line_of(content, (*path, key))
    assert rest.startswith(f"{'.'.join((*path, key))}: found an unknown key, expected {near}")


@pytest.mark.parametrize("wire_of", ["source", "outputs"])
def test_the_confluent_wire_needs_a_registry(wire_of: str) -> None:
    content = copy.deepcopy(FULL)
    content[wire_of] |= {"wire": "confluent", "registry": None}

    line, rest = error_of(content)

    assert line == line_of(content, (wire_of, "registry"))
    assert rest == f"{wire_of}.registry: found nothing, expected the registry's URL, as wire is confluent"


def test_a_decision_needs_a_model() -> None:
    content = copy.deepcopy(FULL)
    del content["model"]

    line, rest = error_of(content)

    assert line == line_of(content, ("decision",))
    assert rest == "decision: found a decision without a model, expected a model section"


def test_of_several_mistakes_the_first_in_the_file_is_named() -> None:
    content = copy.deepcopy(FULL)
    content["admin"]["port"] = "x"
    content["source"]["wire"] = "x"
    content["batching"]["max_rows"] = "x"

    assert error_of(content)[1].startswith("source.wire: ")


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("", 1, "found an empty file, expected a mapping"),
        ("# nothing\n", 1, "found an empty file, expected a mapping"),
        ("- a\n- b\n", 1, "found a list, expected a mapping"),
        ("name: a\nname: b\n", 2, "name: found the key twice, expected one entry (the first is on line 1)"),
        ("name: a\nsource:\n\tkey: b\n", 3, "expected valid YAML"),
        ("name: a\nsource: [b\n", 3, "expected valid YAML"),
        ("name: a\n---\nname: b\n", 2, "expected valid YAML"),
        ("name: a\nsource: *nowhere\n", 2, "expected valid YAML"),
        ("name: a\nsource: !!python/object:os.system {}\n", 2, "found the tag"),
        ("name: a\nsource: !secret x\n", 2, "source: found the tag !secret, expected a plain value"),
        ("name: a\nsource: &a [*a]\n", 2, "found endless nesting"),
        ("name: a\n[a, b]: 1\n", 2, "found a list or mapping as a key, expected text as a key"),
        ("name: a\nsource: \udcff\n", 2, "found byte 0xff, expected UTF-8 text"),
        ("name: a\nsource: \x07\n", 2, "expected printable text"),
        ("name: ${PENSTOCK_NAME}\n", 1, "name: found ${PENSTOCK_NAME}, expected the environment variable"),
        ("name: a\npolicy_version: ${}\n", 2, "expected ${VAR}, ${VAR:-default} or ${file:PATH}"),
        ("name: a\npolicy_version: ${file:nowhere}\n", 2, "found ${file:nowhere}, expected a readable file"),
        ("[" * 500 + "]" * 500, 1, "levels"),
    ],
)
def test_text_that_is_no_pipeline_at_all_is_one_line_too(text: str, line: int, message: str) -> None:
    found_line, rest = error_of(text)

    assert found_line == line
    assert message in rest


@given(text=st.text(max_size=60) | st.text(alphabet="ab:-[]{}#&*!|>'\"%@ \n${}", max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_text_is_refused_with_one_line(text: str) -> None:
    error_of(text)


def test_ten_lines_of_aliases_do_not_become_billions_of_values(tmp_path: Path) -> None:
    file = tmp_path / "bomb.yaml"
    lines = [
        "a0: &a0 [x, x, x, x]",
        *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]" for n in range(1, 25)),
    ]
    file.write_text("\n".join(lines))

    with pytest.raises(ConfigError, match="found too many values, expected at most 20,000, aliases repeated"):
        load_pipeline(file, {})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/dev/zero", "it is not a file"),
        ("..", "it is not a file"),
        ("big", "it is longer than 1,048,576 bytes"),
        ("binary", "it is not UTF-8 text"),
        ("missing", "No such file or directory"),
    ],
)
def test_a_secret_is_read_from_a_file_of_bounded_size_and_never_from_a_device(
    tmp_path: Path, path: str, message: str
) -> None:
    (tmp_path / "big").write_bytes(b"x" * ((1 << 20) + 1))
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    file = tmp_path / "p.yaml"
    file.write_text(f"name: ${{file:{path}}}\n")

    with pytest.raises(ConfigError) as refused:
        load_pipeline(file, {})

    assert f"expected a readable file ({message})" in str(refused.value)


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigError, match="found a longer file, expected at most"):
        load_pipeline(Path("/dev/zero"), {})


def test_a_secret_in_the_wrong_place_is_not_shown_either(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2-but-long\n")
    file = tmp_path / "p.yaml"
    document = {**FULL, "model": {**FULL["model"], "repository": "${file:secret}"}}
    file.write_text(json.dumps(document))

    with pytest.raises(ConfigError) as refused:
        load_pipeline(file, {})

    assert "hunter2" not in str(refused.value)


def test_a_file_that_is_not_there_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^/nowhere/pipeline\.yaml:1: found .+, expected a readable file$"):
        load_pipeline(Path("/nowhere/pipeline.yaml"), {})


def test_a_mistake_in_the_file_of_a_lookup_names_that_file(tmp_path: Path) -> None:
    risk = (ROOT / "pipelines" / "terminal-risk.yaml").read_text().replace("over: fraud", "over: frauds")
    (tmp_path / "risk.yaml").write_text(risk)
    content = copy.deepcopy(FULL)
    content["features"]["terminal"]["pipeline"] = "risk.yaml"
    file = tmp_path / "pipeline.yaml"
    file.write_text("\n".join(line for _, line in emit(content)))

    with pytest.raises(ConfigError) as caught:
        load_pipeline(file, {})

    line = risk[: risk.index("over:")].count("\n") + 1
    expected = (
        f'{tmp_path}/risk.yaml:{line}: features.risk.over: found "frauds", which the schema does not have'
    )
    assert str(caught.value).startswith(expected)


def test_a_secret_is_not_shown_in_the_error_about_it(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("hunter2")
    content = copy.deepcopy(FULL)
    content["state"]["store"] = "${file:store}"
    file = tmp_path / "pipeline.yaml"
    file.write_text("\n".join(line for _, line in emit(content)))

    with pytest.raises(ConfigError) as caught:
        load_pipeline(file, {})

    assert "hunter2" not in str(caught.value)
    assert "state.store: found '**********', expected redis://" in str(caught.value)


def test_a_feature_may_not_be_called_score_beside_rules() -> None:
    content = copy.deepcopy(FULL)
    content["features"]["score"] = {"kind": "field", "field": "amount"}

    line, rest = error_of(content)

    assert line == line_of(content, ("features", "score"))
    assert rest == 'features.score: found "score", expected another name: rules call the score so'


def test_a_cadence_needs_to_know_how_many_readings_to_remember() -> None:
    content = copy.deepcopy(FULL)
    content["features"]["last"] = {"kind": "sequence", "fields": ["amount"], "length": 30, "every": "10s"}

    line, rest = error_of(content)

    assert line == line_of(content, ("features", "last"))
    assert rest == (
        "features.last.capacity: found nothing, expected how many readings to remember, as every is given: "
        "all that come in length steps"
    )
