"""Personal fields as keyed hashes: one person is one hash, and only the key can tell whose it is."""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from schemas.schema import Schema
from worker.config import FieldFeature, Pipeline, SequenceFeature, WindowFeature

HEX_DIGITS = 32  # 128 bits: no two of 10^15 people share a hash by chance


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """What of an alert or a dead letter is personal, and the key of its hashes."""

    hash_key: bytes = field(repr=False)
    in_alerts: bool
    in_dead_letters: bool
    is_key_personal: bool
    is_event_id_personal: bool
    personal_columns: frozenset[str]  # features whose value is a personal field's, or an aggregate of it


def privacy_of(pipeline: Pipeline, schema: Schema, feature_names: Iterable[str]) -> Privacy | None:
    """Return what the pipeline's `privacy` section asks for, by the marks of its schema; None without one."""
    wanted, personal = pipeline.privacy, schema.personal_fields
    if wanted is None:
        return None
    groups = {
        name
        for name, feature in pipeline.features.items()
        if (isinstance(feature, FieldFeature) and feature.field in personal)
        or (isinstance(feature, WindowFeature) and feature.over in personal)
    }
    return Privacy(
        hash_key=wanted.hash_key.encode(),
        in_alerts="alerts" in wanted.in_,
        in_dead_letters="dead_letters" in wanted.in_,
        is_key_personal=pipeline.source.key in personal,
        is_event_id_personal=pipeline.source.event_id in personal,
        personal_columns=frozenset(name for name in feature_names if name.partition(".")[0] in groups)
        | {
            f"{name}.{field}"
            for name, feature in pipeline.features.items()
            if isinstance(feature, SequenceFeature)
            for field in feature.fields
            if field in personal
        },
    )


def hashed(text: bytes, hash_key: bytes) -> str:
    """Return 32 hexadecimal digits of HMAC-SHA-256; the same text gives the same, wherever it stands."""
    return hmac.digest(hash_key, text, "sha256").hex()[:HEX_DIGITS]


def hide(alert: dict[str, Any], privacy: Privacy | None) -> dict[str, Any]:
    """Return an alert with what is personal hashed, and with features that would tell it left out."""
    if privacy is None or not privacy.in_alerts:
        return alert
    hidden = dict(alert)
    if privacy.is_key_personal:
        hidden["key"] = hashed(alert["key"].encode(), privacy.hash_key)
    if privacy.is_event_id_personal:
        hidden["event_id"] = hashed(alert["event_id"].encode(), privacy.hash_key)
    telling = privacy.personal_columns
    hidden["features"] = {name: value for name, value in alert["features"].items() if name not in telling}
    hidden["reasons"] = [reason for reason in alert["reasons"] if reason["feature"] not in telling]
    return hidden


def key_headers(key: bytes | None, privacy: Privacy | None) -> dict[str, str]:
    """Return the headers that say whose record a dead letter is: the hash of its key, on request."""
    if privacy is None or not privacy.in_dead_letters or not privacy.is_key_personal or not key:
        return {}
    return {"key_hash": hashed(key, privacy.hash_key)}
