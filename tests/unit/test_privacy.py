"""Personal fields leave the worker as keyed hashes where the file says so, and only those."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from pathlib import Path
from typing import Any

import pytest

from schemas.schema import load_schema
from tests.builders import EVENT_AVSC, pipeline
from worker.config import ConfigError, Pipeline, load_pipeline
from worker.plan import feature_plan
from worker.privacy import HEX_DIGITS, Privacy, hashed, hide, key_headers, privacy_of
from worker.validate import describe

KEY = "a key that nobody guesses"
PERSONAL = {"card", "id", "amount"}
FEATURES = """
  amount: {kind: field, field: amount}
  speed: {kind: field, field: speed}
  spent: {kind: window, over: amount, windows: [1h], aggregates: [mean, last], capacity: 8}
  fast: {kind: window, over: speed, windows: [1h], aggregates: [mean], capacity: 8}
"""
ALERT: dict[str, Any] = {
    "key": "C1",
    "event_id": "e1",
    "alert_id": "in-0-7",
    "score": 0.9,
    "features": {
        "amount": 9.0,
        "speed": 1.0,
        "spent.mean_1h": 9.0,
        "spent.last_1h": 9.0,
        "fast.mean_1h": 1.0,
    },
    "reasons": [{"feature": "amount", "value": 9.0}, {"feature": "speed", "value": 1.0}],
}


def made(folder: Path, privacy: str, personal: set[str] = PERSONAL) -> Pipeline:
    """A pipeline over events with these personal fields."""
    file = pipeline(folder, FEATURES).path
    given: Any = EVENT_AVSC["fields"]
    fields = [{**f, "pii": f["name"] in personal} for f in given]
    (folder / "event.avsc").write_text(json.dumps({**EVENT_AVSC, "fields": fields}))
    file.write_text(file.read_text() + f"privacy: {privacy}\n")
    return load_pipeline(file, {"HASH_KEY": KEY})


def asked(folder: Path, privacy: str, personal: set[str] = PERSONAL) -> Privacy | None:
    loaded = made(folder, privacy, personal)
    schema = load_schema(loaded.source.schema_ref, loaded.base)
    return privacy_of(loaded, schema, feature_plan(loaded).names)


def test_key_and_id_are_hashed_and_features_that_would_tell_are_left_out(tmp_path: Path) -> None:
    hidden = hide(ALERT, asked(tmp_path, "{hash_key: '${HASH_KEY}', in: [alerts]}"))

    assert hidden["key"] == hmac.new(KEY.encode(), b"C1", hashlib.sha256).hexdigest()[:HEX_DIGITS]
    assert hidden["event_id"] == hashed(b"e1", KEY.encode())
    assert hidden["features"] == {"speed": 1.0, "fast.mean_1h": 1.0}
    assert [reason["feature"] for reason in hidden["reasons"]] == ["speed"]
    assert (hidden["alert_id"], hidden["score"]) == ("in-0-7", 0.9)
    assert ALERT["key"] == "C1", "the alert itself stays as it was"


def test_only_marked_fields_are_hashed(tmp_path: Path) -> None:
    hidden = hide(ALERT, asked(tmp_path, "{hash_key: '${HASH_KEY}'}", {"terminal"}))

    assert hidden == ALERT


def test_nothing_is_hashed_unless_asked_for_or_where_not_asked_for(tmp_path: Path) -> None:
    assert hide(ALERT, None) is ALERT
    assert hide(ALERT, asked(tmp_path, "{hash_key: '${HASH_KEY}', in: [dead_letters]}")) is ALERT
    assert key_headers(b"C1", None) == {}


def test_a_dead_letter_says_whose_it_is_by_the_same_hash_as_an_alert(tmp_path: Path) -> None:
    privacy = asked(tmp_path, "{hash_key: '${HASH_KEY}'}")

    assert key_headers(b"C1", privacy) == {"key_hash": hide(ALERT, privacy)["key"]}
    assert key_headers(None, privacy) == {}


def test_another_key_gives_other_hashes_and_the_hash_alone_tells_nothing() -> None:
    first, second = hashed(b"C1", KEY.encode()), hashed(b"C1", b"another key, also long")

    assert first != second
    assert re.fullmatch(r"[0-9a-f]{32}", first)
    assert first not in hashlib.sha256(b"C1").hexdigest()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{hash_key: short}", "privacy.hash_key: found 5 characters, expected at least 16"),
        ("{in: [alerts]}", "privacy.hash_key: found nothing, expected a value, the key is required"),
        ("{hash_key: '${HASH_KEY}', in: []}", "privacy.in: found an empty list, expected at least 1 item"),
        ("{hash_key: '${HASH_KEY}', in: [scores]}", 'privacy.in[0]: found "scores", expected one of alerts'),
    ],
)
def test_a_wrong_section_is_one_line_that_does_not_show_the_key(
    tmp_path: Path, section: str, message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        made(tmp_path, section)

    assert message in str(refused.value)
    assert "short" not in str(refused.value)
    assert KEY not in str(refused.value)


def test_a_schema_without_personal_fields_is_no_place_for_the_section(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='privacy: found no field marked "pii": true in the schema'):
        made(tmp_path, "{hash_key: '${HASH_KEY}'}", set())


@pytest.mark.parametrize(
    ("section", "place"),
    [
        (f"privacy: {{hash_key: '{KEY}'}}", "privacy.hash_key"),
        ("kafka: {properties: {sasl.password: hunter2-long}}", "kafka.properties.sasl.password"),
        ("state: {store: 'redis://u:pw-of-redis@localhost/0'}", "state.store"),
    ],
)
def test_a_secret_that_the_file_itself_holds_is_refused_and_not_shown(
    tmp_path: Path, section: str, place: str
) -> None:
    file = pipeline(tmp_path, FEATURES).path
    file.write_text(f"{file.read_text()}{section}\n")

    with pytest.raises(ConfigError, match=rf":\d+: {place}: found a secret written in the file") as refused:
        load_pipeline(file)

    assert not [secret for secret in (KEY, "hunter2", "pw-of") if secret in str(refused.value)]


def test_what_comes_from_outside_or_is_no_secret_may_stand_in_the_file(tmp_path: Path) -> None:
    file = pipeline(tmp_path, FEATURES).path
    file.write_text(
        file.read_text()
        + "kafka: {properties: {sasl.oauthbearer.client.secret: '${HASH_KEY}',\n"
        + "  sasl.oauthbearer.token.endpoint.url: 'https://issuer/token'}}\n"
        + "state: {store: 'redis://u:${HASH_KEY}@localhost/0'}\n"
    )

    assert KEY not in describe(load_pipeline(file, {"HASH_KEY": KEY}))


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ("{security.protocol: SASL_PLAINTEXT}", "WARNING: security.protocol is SASL_PLAINTEXT"),
        (
            "{security.protocol: SASL_SSL, enable.ssl.certificate.verification: false}",
            "WARNING: the broker's certificate is not verified",
        ),
        (
            "{security.protocol: ssl, ssl.endpoint.identification.algorithm: none}",
            "WARNING: the broker's host name is not verified",
        ),
        ("{security.protocol: SASL_SSL}", ""),
        ("{}", ""),
    ],
)
def test_validate_warns_of_doors_that_the_file_leaves_open(
    tmp_path: Path, properties: str, said: str
) -> None:
    loaded = pipeline(tmp_path, FEATURES, rest=f"kafka: {{properties: {properties}}}")

    text = describe(loaded, {})

    assert said in text
    assert said or "WARNING" not in text


def test_a_channel_of_a_personal_field_is_no_reason_that_is_told(tmp_path: Path) -> None:
    file = pipeline(tmp_path, "  last: {kind: sequence, fields: [amount, speed], length: 4}").path
    given: Any = EVENT_AVSC["fields"]
    fields = [{**f, "pii": f["name"] in PERSONAL} for f in given]
    (tmp_path / "event.avsc").write_text(json.dumps({**EVENT_AVSC, "fields": fields}))
    file.write_text(file.read_text() + "privacy: {hash_key: '${HASH_KEY}', in: [alerts]}\n")
    loaded = load_pipeline(file, {"HASH_KEY": KEY})
    privacy = privacy_of(
        loaded, load_schema(loaded.source.schema_ref, loaded.base), feature_plan(loaded).names
    )

    reasons = [{"feature": "last.amount"}, {"feature": "last.speed"}]

    assert hide({**ALERT, "reasons": reasons}, privacy)["reasons"] == [{"feature": "last.speed"}]
