"""Every kind of damage does what its name says, and only to the records that were chosen."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from loadgen.events import Events, numbered_names, reading_events, transaction_events
from loadgen.mutate import FAR_FUTURE_MS, KINDS, Kind, Mutator
from loadgen.transactions import World, days
from loadgen.turbofan import Fleet, cycles
from schemas.codec import Codec
from schemas.schema import load_schema
from schemas.wire import PREFIX_BYTES, Wire

TRANSACTION = load_schema("transaction")


@pytest.fixture(scope="module")
def events() -> Events:
    day = next(days(World(customers=400, terminals=800, radius=15.0)))
    return transaction_events(day, numbered_names("C", 400), numbered_names("T", 800), TRANSACTION)


def damaged(
    events: Events, kind: Kind, wire: Wire = "single_object"
) -> tuple[list[bytes | None], list[bytes | None], np.ndarray, list[bytes]]:
    codec = Codec(TRANSACTION, wire)
    mutator = Mutator(0.3, prefix_bytes=PREFIX_BYTES[wire], kinds=(kind,), seed=1)
    chosen = mutator.choose(events.table)
    assert 0 < (chosen > 0).sum() < len(events)
    values = codec.encode(mutator.in_columns(events.table, chosen))
    return *mutator.in_records(values, events.key, chosen), chosen > 0, codec.encode(events.table)


@pytest.mark.parametrize("kind", KINDS)
def test_records_that_were_not_chosen_stay_as_they_are(events: Events, kind: Kind) -> None:
    values, keys, chosen, original = damaged(events, kind)

    for row in np.flatnonzero(~chosen):
        assert values[row] == original[row]
        assert keys[row] == events.key[row]


@pytest.mark.parametrize("kind", KINDS)
def test_every_chosen_record_differs(events: Events, kind: Kind) -> None:
    values, keys, chosen, original = damaged(events, kind)

    for row in np.flatnonzero(chosen):
        assert (values[row], keys[row]) != (original[row], events.key[row])


@pytest.mark.parametrize("wire", ["single_object", "raw"])
@pytest.mark.parametrize(
    ("kind", "reasons"),
    [
        ("null_value", {"null_value"}),
        ("truncated", {"truncated", "bad_magic"}),
        ("trailing_bytes", {"trailing_bytes"}),
        ("invalid_utf8", {"invalid_utf8"}),
        ("bad_enum", {"bad_enum"}),
        ("empty", {"truncated", "bad_magic"}),
    ],
)
def test_the_codec_names_the_damage(events: Events, kind: Kind, reasons: set[str], wire: Wire) -> None:
    values, _, chosen, _ = damaged(events, kind, wire)

    rejects = Codec(TRANSACTION, wire).decode(values).rejects

    assert [reject.row for reject in rejects] == np.flatnonzero(chosen).tolist()
    assert {reject.reason for reject in rejects} <= reasons


def test_a_wrong_magic_is_seen_as_one(events: Events) -> None:
    values, _, chosen, _ = damaged(events, "wrong_magic")

    rejects = Codec(TRANSACTION, "single_object").decode(values).rejects

    assert {reject.reason for reject in rejects} == {"bad_magic"}
    assert len(rejects) == chosen.sum()


@pytest.mark.parametrize(("kind", "is_bad"), [("not_a_number", np.isnan), ("infinite", np.isinf)])
def test_impossible_amounts_decode_and_are_impossible(events: Events, kind: Kind, is_bad: np.ufunc) -> None:
    values, _, chosen, _ = damaged(events, kind)

    decoded = Codec(TRANSACTION, "single_object").decode(values)

    assert decoded.rejects == ()
    assert np.array_equal(is_bad(decoded.table["amount"].to_numpy()), chosen)


def test_a_far_future_is_far(events: Events) -> None:
    values, _, chosen, _ = damaged(events, "far_future")

    time_ms = (
        Codec(TRANSACTION, "single_object").decode(values).table["event_time"].cast(pa.int64()).to_numpy()
    )

    assert np.array_equal(time_ms == FAR_FUTURE_MS, chosen)


def test_a_missing_key_is_missing(events: Events) -> None:
    values, keys, chosen, original = damaged(events, "missing_key")

    assert values == original
    assert [key is None for key in keys] == chosen.tolist()


def test_about_the_asked_share_is_damaged_and_every_kind_occurs(events: Events) -> None:
    chosen = Mutator(0.5, prefix_bytes=10, seed=3).choose(events.table)

    assert (chosen > 0).mean() == pytest.approx(0.5, abs=0.06)
    assert set(np.unique(chosen)) == set(range(len(KINDS) + 1))


def test_kinds_that_a_schema_cannot_have_are_left_out() -> None:
    readings = next(cycles(Fleet(machines=3000)))
    table = reading_events(readings, "M", load_schema("sensor_reading")).table

    chosen = {KINDS[code - 1] for code in np.unique(Mutator(1.0, prefix_bytes=0).choose(table)).tolist()}

    assert chosen == set(KINDS) - {"bad_enum", "wrong_magic"}


def test_the_same_seed_does_the_same_damage(events: Events) -> None:
    def once(seed: int) -> list[bytes | None]:
        mutator = Mutator(0.5, prefix_bytes=10, seed=seed)
        chosen = mutator.choose(events.table)
        codec = Codec(TRANSACTION, "single_object")
        return mutator.in_records(codec.encode(mutator.in_columns(events.table, chosen)), events.key, chosen)[
            0
        ]

    assert once(7) == once(7)
    assert once(7) != once(8)


def test_a_share_above_one_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        Mutator(1.5, prefix_bytes=10)


def test_damage_never_stops_the_codec(events: Events) -> None:
    codec = Codec(TRANSACTION, "single_object")
    for seed, kind in itertools.product(range(5), KINDS):
        mutator = Mutator(0.9, prefix_bytes=10, kinds=(kind,), seed=seed)
        chosen = mutator.choose(events.table)
        values, _ = mutator.in_records(
            codec.encode(mutator.in_columns(events.table, chosen)), events.key, chosen
        )

        decoded = codec.decode(values)

        assert len(decoded.rows) + len(decoded.rejects) == len(values)
