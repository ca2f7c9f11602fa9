"""Lanes: an event is applied once or not at all, whoever owned them and however often they crashed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.lane import Offsets, Packed, committed_offset, lane_name
from feature_cache.lanes import Lanes
from feature_cache.layout import NEVER_US, Layout, WindowGroup
from feature_cache.packing import CorruptRowError, pack
from feature_cache.recent import apply_windows
from feature_cache.rows import HotRows, RowsFullError
from feature_cache.store import (
    NOTHING,
    FencedError,
    LaneMeta,
    MemoryStore,
    Stored,
    StoreRefusedError,
    StoreUnavailableError,
)

GROUP = WindowGroup(
    name="w", over="x", windows_us=(10,), window_labels=("10us",), aggregates=("count", "sum"), capacity=64
)
LAYOUT = Layout(groups=(GROUP,))
OTHER_LAYOUT = Layout(groups=(replace(GROUP, capacity=32),))
PARTITION = 3
LANE = lane_name("g", "t", PARTITION)


def lanes(store: MemoryStore, *, hot_rows: int = 64, layout: Layout = LAYOUT) -> Lanes:
    """A worker's lanes, owning none yet."""
    return Lanes(HotRows(layout, hot_rows), store, "g", "t")


def apply(owner: Lanes, log: list[tuple[bytes, int, float]], begin: int, end: int) -> list[float]:
    """Apply the events log[begin:end] as enrich does; the sum over the window as of each."""
    part = log[begin:end]
    n = len(part)
    slots, _, _ = owner.load([key for key, _, _ in part], np.full(n, PARTITION, np.int32))
    event_us = np.array([t for _, t, _ in part], np.int64)
    out = np.zeros((n, 2))
    apply_windows(
        owner.rows.groups[0],
        slots,
        event_us,
        np.array([x for _, _, x in part], np.float64),
        np.zeros(n, np.bool_),
        np.full(n, NEVER_US, np.int64),
        out,
        np.zeros(n, np.bool_),
        np.zeros(n, np.bool_),
    )
    owner.rows.is_dirty[slots] = True
    owner.advance(PARTITION, end, int(event_us.max()), int(event_us[0]))
    return [float(v) for v in out[:, 1]]


def take(owner: Lanes, *, committed: int | None, start: int = 0, low: int = 0, now_ms: int = 1000) -> int:
    """Take the lane of these tests."""
    return owner.take(PARTITION, committed=committed, start=start, low=low, high=2**40, now_ms=now_ms)


def stored(store: MemoryStore, log: list[tuple[bytes, int, float]], until: int) -> None:
    """Let an undisturbed owner apply and write the log up to here, and leave."""
    owner = lanes(store)
    take(owner, committed=0)
    if until:
        apply(owner, log, 0, until)
    owner.write(PARTITION)
    owner.drop(PARTITION)


LOG = [(b"ab"[i % 2 : i % 2 + 1], i, float(i + 1)) for i in range(12)]


def test_a_lane_never_seen_begins_where_a_new_group_begins() -> None:
    owner = lanes(MemoryStore())

    assert take(owner, committed=None, start=0) == 0
    assert owner[PARTITION].mute_until == 0
    assert not owner[PARTITION].starts_blind
    assert PARTITION in owner
    assert owner.partitions() == [PARTITION]


def test_a_new_group_that_begins_in_the_middle_of_a_topic_is_blind_for_what_was_before() -> None:
    owner = lanes(MemoryStore())

    assert take(owner, committed=None, start=7) == 7
    assert owner[PARTITION].mute_until == 7
    assert owner[PARTITION].starts_blind


def test_a_lane_without_state_is_rebuilt_from_the_topic_without_publishing_again() -> None:
    owner = lanes(MemoryStore())

    assert take(owner, committed=9, start=0, low=2) == 2
    assert owner[PARTITION].mute_until == 9
    assert owner[PARTITION].starts_blind


def test_state_behind_the_commit_is_brought_up_to_it_in_silence() -> None:
    store = MemoryStore()
    stored(store, LOG, 5)
    owner = lanes(store)

    assert take(owner, committed=9) == 5
    assert owner[PARTITION].mute_until == 9
    assert apply(owner, LOG, 5, 7) == [2.0 + 4 + 6, 1.0 + 3 + 5 + 7]
    assert owner[PARTITION].watermark == 7


def test_state_at_the_commit_goes_on_at_once() -> None:
    store = MemoryStore()
    stored(store, LOG, 5)
    owner = lanes(store)

    assert take(owner, committed=5) == 5
    assert owner[PARTITION].mute_until == 5
    assert apply(owner, LOG, 5, 6) == [2.0 + 4 + 6]


def test_state_ahead_of_the_commit_is_never_used() -> None:
    """Somebody set the group's offsets back: the rows have seen what will be read again."""
    store = MemoryStore()
    stored(store, LOG, 9)
    owner = lanes(store)

    assert take(owner, committed=4, now_ms=2000) == 0
    assert owner[PARTITION].mute_until == 4
    assert apply(owner, LOG, 0, 2) == [1.0, 2.0]


def test_rows_of_before_a_rebuild_are_not_read_after_its_first_write_either() -> None:
    store = MemoryStore()
    stored(store, LOG, 9)
    owner = lanes(store)
    take(owner, committed=4, now_ms=2000)
    apply(owner, [(b"a", 0, 1.0)], 0, 1)
    owner.write(PARTITION)

    # b was not written again: its old row still lies in the store.
    slots, loaded, new = owner.load([b"b"], np.array([PARTITION], np.int32))

    assert (loaded, new) == (0, 1)
    assert owner.rows.groups[0].length[slots[0]] == 0


def test_rows_of_before_a_rebuild_are_not_read_even_if_the_clock_stands_still() -> None:
    store = MemoryStore()
    stored(store, LOG, 9)  # generation 1000
    owner = lanes(store)

    take(owner, committed=4, now_ms=1000)

    assert owner[PARTITION].generation != store._meta[LANE].generation
    assert not owner[PARTITION].has_rows


def test_another_layout_means_rebuilding() -> None:
    store = MemoryStore()
    stored(store, LOG, 5)
    owner = lanes(store, layout=OTHER_LAYOUT)

    assert take(owner, committed=5, now_ms=2000) == 0
    _, loaded, new = owner.load([b"a", b"b"], np.full(2, PARTITION, np.int32))

    assert (loaded, new) == (0, 2)


def test_a_gap_cut_by_retention_means_rebuilding_and_saying_so() -> None:
    store = MemoryStore()
    stored(store, LOG, 5)
    owner = lanes(store)

    assert take(owner, committed=9, low=6, now_ms=2000) == 6
    assert owner[PARTITION].mute_until == 9
    assert owner[PARTITION].starts_blind

    owner.advance(PARTITION, 7, 100, 77)

    assert owner[PARTITION].forgotten_us == 77
    assert not owner[PARTITION].starts_blind


def test_when_the_groups_offsets_have_expired_the_rows_say_what_was_done() -> None:
    store = MemoryStore()
    stored(store, LOG, 5)
    owner = lanes(store)

    assert take(owner, committed=None, start=12) == 5
    assert owner[PARTITION].mute_until == 5


def test_what_is_stored_of_a_topic_says_nothing_of_one_made_anew() -> None:
    offsets = Offsets(committed=None, start=0, low=0, high=100, topic_id="new")
    stored = LaneMeta(epoch=1, generation=1, watermark=40, layout=LAYOUT.fingerprint, topic_id="new")
    owner = lanes(MemoryStore())

    assert committed_offset(stored, offsets) == 40
    assert owner.is_usable(stored, offsets)
    old = replace(stored, topic_id="old")
    assert committed_offset(old, offsets) is None
    assert not owner.is_usable(old, offsets)
    assert owner.begin(PARTITION, old, offsets, 1000) == 0
    for known, asked in (("", "new"), ("old", "")):  # of 0.1.0, or of a broker that knows no ids
        assert owner.is_usable(replace(stored, topic_id=known), replace(offsets, topic_id=asked))


def test_the_topic_that_rows_were_made_from_is_stored_with_them() -> None:
    store = MemoryStore()
    owner = lanes(store)
    offsets = Offsets(committed=0, start=0, low=0, high=100, topic_id="id-7_x")
    owner.begin(PARTITION, owner.claim(PARTITION, 1), offsets, 1)
    apply(owner, [(b"a", 5, 1.0)], 0, 1)
    owner.write(PARTITION)

    meta = store.meta(LANE)
    assert meta is not None
    assert meta.topic_id == "id-7_x"
    assert LaneMeta.decode(meta.encode()) == meta


def test_when_the_offsets_have_expired_a_rebuild_skips_nothing_that_had_no_outcome() -> None:
    """start: latest is for new groups; this one had got to offset 5."""
    store = MemoryStore()
    stored(store, LOG, 5)
    owner = lanes(store, layout=OTHER_LAYOUT)

    begin = take(owner, committed=None, start=12, low=0, now_ms=2000)

    assert begin <= 5
    assert owner[PARTITION].mute_until == 5


def test_a_write_makes_rows_and_watermark_durable_together_and_only_once() -> None:
    store = MemoryStore()
    owner = lanes(store)
    take(owner, committed=0)
    apply(owner, LOG, 0, 4)

    assert owner.write(PARTITION) == 2
    assert owner.write(PARTITION) == 0

    meta, rows = store.read([(LANE, [b"a", b"b"])])[0]
    assert meta is not None
    assert (meta.watermark, meta.complete_us, meta.layout) == (4, 3, LAYOUT.fingerprint)
    assert None not in rows


def test_a_watermark_moves_on_without_rows_so_that_rejected_records_are_not_read_again() -> None:
    store = MemoryStore()
    owner = lanes(store)
    take(owner, committed=0)

    owner.advance(PARTITION, 6, NEVER_US, NEVER_US)

    assert owner.write(PARTITION) == 0
    meta = store.meta(LANE)
    assert meta is not None
    assert meta.watermark == 6


def test_a_former_owner_can_neither_write_nor_read() -> None:
    store = MemoryStore()
    former, owner = lanes(store), lanes(store)
    take(former, committed=0)
    apply(former, LOG, 0, 3)
    former.write(PARTITION)
    apply(former, LOG, 3, 6)
    take(owner, committed=3)

    with pytest.raises(FencedError):
        former.write(PARTITION)
    with pytest.raises(FencedError):
        former.load([b"new"], np.array([PARTITION], np.int32))
    meta = store.meta(LANE)
    assert meta is not None
    assert meta.watermark == 3


def test_a_store_that_lost_its_data_is_noticed_at_the_next_row_read() -> None:
    """Else a row that left memory would come back empty, and its entity's scores be silently wrong."""
    store = MemoryStore()
    owner = lanes(store)
    take(owner, committed=0)
    apply(owner, LOG, 0, 4)
    owner.write(PARTITION)
    store._meta.clear()
    store._rows.clear()

    with pytest.raises(FencedError):
        owner.load([b"not in memory"], np.array([PARTITION], np.int32))


def test_a_store_that_lost_its_data_is_noticed_at_the_next_write() -> None:
    store = MemoryStore()
    owner = lanes(store)
    take(owner, committed=0)
    apply(owner, LOG, 0, 4)
    owner.write(PARTITION)
    store._meta.clear()
    store._rows.clear()
    apply(owner, LOG, 4, 6)

    with pytest.raises(FencedError):
        owner.write(PARTITION)


def test_a_lane_that_started_blind_still_is_after_a_restart_before_its_first_event() -> None:
    store = MemoryStore()
    former = lanes(store)
    take(former, committed=None, start=7)
    former.advance(PARTITION, 8, 500, NEVER_US)  # a time marker, no event
    former.write(PARTITION)

    owner = lanes(store)
    take(owner, committed=8)
    owner.advance(PARTITION, 9, 600, 555)  # the first event

    assert owner[PARTITION].forgotten_us == 555


def test_taking_a_lane_back_without_dropping_it_keeps_no_row_from_before() -> None:
    store = MemoryStore()
    owner = lanes(store)
    take(owner, committed=0)
    apply(owner, LOG, 0, 4)
    owner.drop(PARTITION)

    assert take(owner, committed=4, low=0) == 0
    assert len(owner.rows) == 0
    assert apply(owner, LOG, 0, 4) == [1.0, 2.0, 4.0, 6.0]


class LosesAnswers(MemoryStore):
    """A store in memory that can do a write, or not do it, and lose the answer either way, or refuse it."""

    def __init__(self) -> None:
        super().__init__()
        self.next_write = "answered"

    def write(
        self, lane: str, expected: LaneMeta, new: LaneMeta, keys: Sequence[bytes], rows: Sequence[bytes]
    ) -> bool:
        how, self.next_write = self.next_write, "answered"
        if how == "refused":
            raise StoreRefusedError("NOPERM")
        if how == "lost before":
            raise StoreUnavailableError("away")
        done = super().write(lane, expected, new, keys, rows)
        if how == "lost after":
            raise StoreUnavailableError("away")
        if how == "sent twice":
            done = super().write(lane, expected, new, keys, rows)
        return done


@pytest.mark.parametrize("how", ["lost before", "lost after", "sent twice"])
def test_a_write_whose_answer_was_lost_is_no_reason_to_drop_the_lane(how: str) -> None:
    store = LosesAnswers()
    owner = lanes(store)
    take(owner, committed=0)
    apply(owner, LOG, 0, 4)
    store.next_write = how

    if how == "sent twice":
        owner.write(PARTITION)
    else:
        with pytest.raises(StoreUnavailableError):
            owner.write(PARTITION)
    apply(owner, LOG, 4, 8)
    owner.load([b"never seen"], np.array([PARTITION], np.int32))
    owner.write(PARTITION)

    meta = store.meta(LANE)
    assert meta is not None
    assert meta.watermark == 8
    fresh = lanes(store)
    take(fresh, committed=8)
    assert apply(fresh, LOG, 8, 9) == [1.0 + 3 + 5 + 7 + 9]


def test_a_write_that_is_refused_leaves_its_rows_changed() -> None:
    store = LosesAnswers()
    owner = lanes(store)
    take(owner, committed=0)
    apply(owner, LOG, 0, 4)
    store.next_write = "refused"

    with pytest.raises(StoreRefusedError):
        owner.write(PARTITION)

    assert len(owner.rows.dirty(PARTITION)) == 2


def test_a_lost_answer_does_not_hide_a_new_owner() -> None:
    store = LosesAnswers()
    former, owner = lanes(store), lanes(store)
    take(former, committed=0)
    apply(former, LOG, 0, 4)
    store.next_write = "lost before"
    with pytest.raises(StoreUnavailableError):
        former.write(PARTITION)
    take(owner, committed=0)

    with pytest.raises(FencedError):
        former.write(PARTITION)


class AwayForReads(MemoryStore):
    """A store in memory whose rows can be out of reach."""

    is_away = False

    def read(self, wanted: Sequence[tuple[str, Sequence[bytes]]]) -> list[Stored]:
        if self.is_away:
            raise StoreUnavailableError("away")
        return super().read(wanted)


def test_rows_of_a_lane_that_guesses_stay_in_memory_until_their_batch_is_scored() -> None:
    """Else their slots could be another lane's by the time that decide() notes an alert there."""
    store = AwayForReads()
    owner = Lanes(HotRows(LAYOUT, 2), store, "g", "t", may_guess=True)
    for partition in (0, 1):
        owner.take(partition, committed=0, start=0, low=0, high=9, now_ms=1)
    owner.changed(owner.load([b"stored"], np.zeros(1, np.int32))[0])
    owner.advance(0, 1, 1, 1)
    owner.write(0)
    store.is_away = True
    waiting = owner.load([b"guessed"], np.zeros(1, np.int32))[0]
    owner.changed(waiting)
    two_more = [b"x", b"y"], np.ones(2, np.int32)  # of a lane that has stored nothing: the store is not asked

    with pytest.raises(RowsFullError):
        owner.load(*two_more)
    owner.rows.alert_level[waiting] = 2
    owner.release()
    slots, _, _ = owner.load(*two_more)

    assert owner.guessing() == [0]
    assert owner.rows.alert_level[slots].tolist() == [0, 0]


class AwayForWrites(MemoryStore):
    """A store in memory that goes away between a read and a write."""

    is_away = False

    def write(
        self, lane: str, expected: LaneMeta, new: LaneMeta, keys: Sequence[bytes], rows: Sequence[bytes]
    ) -> bool:
        if self.is_away:
            raise StoreUnavailableError("away")
        return super().write(lane, expected, new, keys, rows)


@pytest.mark.parametrize("may_guess", [False, True])
def test_a_corrupt_row_is_never_gone_on_with_even_when_the_store_goes_away_then(may_guess: bool) -> None:
    """Waiting for the store would be wrong: the rows are in memory already, and empty."""
    store = AwayForWrites()
    stored(store, [(b"k", 1, 1.0)], 1)
    store._rows[LANE][b"k"] = store._rows[LANE][b"k"][:-8]
    owner = Lanes(HotRows(LAYOUT, 8), store, "g", "t", may_guess=may_guess)
    take(owner, committed=1)
    store.is_away = True

    with pytest.raises(CorruptRowError):
        owner.load([b"k"], np.array([PARTITION], np.int32))


def test_a_corrupt_row_gives_up_its_own_lane_and_no_other() -> None:
    store = MemoryStore()
    owner = lanes(store)
    for partition in (0, 1):
        owner.take(partition, committed=0, start=0, low=0, high=100, now_ms=1)
        owner.load([b"k%d" % partition], np.array([partition], np.int32))
        owner.changed(owner.rows.find([b"k%d" % partition]))
        owner.advance(partition, 1, 1, 1)
        owner.write(partition)
    broken, whole = owner[1].name, owner[0].name
    store._rows[broken][b"k1"] = store._rows[broken][b"k1"][:-8]
    again = lanes(store)
    for partition in (0, 1):
        again.take(partition, committed=1, start=0, low=0, high=100, now_ms=1)

    with pytest.raises(CorruptRowError, match=broken):
        again.load([b"k1", b"k0"], np.array([1, 0], np.int32))

    assert [store.meta(name).watermark for name in (broken, whole)] == [NOTHING, 1]  # type: ignore[union-attr]


# The reference model.


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing that happens to a worker."""

    what: str
    count: int = 1


STEPS = st.lists(
    st.one_of(
        st.builds(Step, what=st.just("apply"), count=st.integers(1, 6)),
        st.builds(
            Step,
            what=st.sampled_from(
                [
                    *("commit", "commit, write", "write", "lose answer", "pack", "land", "land, lose answer"),
                    *("crash", "pause", "crash and flush"),
                ]
            ),
        ),
    ),
    max_size=40,
)
EVENTS = st.lists(
    st.tuples(st.sampled_from([b"%d" % i for i in range(12)]), st.integers(0, 3), st.integers(1, 9)),
    min_size=60,
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(EVENTS, STEPS, st.sampled_from([6, 8, 64]))
def test_no_sequence_of_crashes_doubles_or_loses_an_event(  # noqa: PLR0912, PLR0915 one story
    drawn: list[tuple[bytes, int, int]], steps: list[Step], hot_rows: int
) -> None:
    """Rows, features and what is published equal those of a worker that nothing ever happened to."""
    now = 0
    log = []
    for key, gap_us, value in drawn:
        now += gap_us
        log.append((key, now, float(value)))
    expected = slow_sums(log)
    store = LosesAnswers()
    published: dict[int, float] = {}
    committed, clock_ms = 0, 1000
    owner = lanes(store, hot_rows=hot_rows)
    at = take(owner, committed=None, now_ms=clock_ms)
    unsent: dict[int, float] = {}

    def commit() -> None:
        nonlocal committed, unsent
        assert not unsent.keys() & published.keys(), "an outcome was published twice"
        published.update(unsent)
        unsent, committed = {}, max(committed, at)

    # What is packed while a commit begins, and up to where its events must be committed before it is written.
    packed: Packed | None = None
    covers = 0

    def land(how: str = "answered") -> None:
        nonlocal packed
        landing, packed = packed, None
        if landing is None:
            return
        if committed < covers:  # the commit was not done
            owner.not_written(landing)
            return
        landing.lane.uncertain, store.next_write = landing.new, how
        try:
            owner.store(landing)
        except StoreUnavailableError:
            owner.not_written(landing)
        else:
            owner.written(landing)

    for step in steps:
        clock_ms += 1
        end = min(len(log), at + step.count)
        if step.what == "apply" and at < end:
            try:
                sums = apply(owner, log, at, end)
            except RowsFullError:  # as the worker does: make every row clean, so that some can leave
                commit()
                land()
                owner.write(PARTITION)
                sums = apply(owner, log, at, end)
            assert sums == expected[at:end]
            mute_until = owner[PARTITION].mute_until
            unsent |= {at + i: s for i, s in enumerate(sums) if at + i >= mute_until}
            at = end
        if "commit" in step.what:
            commit()
        if step.what == "pack" and packed is None:
            packed, covers = owner.pack(PARTITION), at
        if "land" in step.what:
            land("lost after" if "lose" in step.what else "answered")
        if "write" in step.what or step.what == "lose answer":
            land()
            if committed >= at:
                store.next_write = "lost after" if step.what == "lose answer" else "answered"
                with suppress(StoreUnavailableError):
                    owner.write(PARTITION)
                store.next_write = "answered"  # also when there was nothing to write
        elif step.what in ("crash", "pause", "crash and flush"):
            former, late, packed = owner, packed, None
            if step.what == "crash and flush":
                store._meta.clear()
                store._rows.clear()
            owner = lanes(store, hot_rows=hot_rows)
            at, unsent = take(owner, committed=committed, now_ms=clock_ms), {}
            if step.what == "pause" and len(former.rows.dirty(PARTITION)):
                with pytest.raises(FencedError):
                    former.write(PARTITION)
            if late is not None:  # under way when its worker was
                with pytest.raises(FencedError):
                    former.store(late)
        meta = store.meta(LANE)
        assert meta is not None
        assert meta.watermark in range(NOTHING, committed + 1), "stored rows ran ahead of the commit"
    assert published == dict(enumerate(expected[: len(published)]))
    land()
    if committed >= at:
        final_rows_equal_those_of_one_undisturbed_worker(owner, log[:at])


def slow_sums(log: list[tuple[bytes, int, float]]) -> list[float]:
    """The definition: the sum over (t - 10, t] of the same key, up to and including each event."""
    past: dict[bytes, list[tuple[int, float]]] = defaultdict(list)
    sums = []
    for key, t, value in log:
        past[key].append((t, value))
        sums.append(sum(v for u, v in past[key] if u > t - 10))
    return sums


def final_rows_equal_those_of_one_undisturbed_worker(
    owner: Lanes, log: list[tuple[bytes, int, float]]
) -> None:
    """Byte by byte, for every entity."""
    alone = lanes(MemoryStore())
    take(alone, committed=None)
    if log:
        apply(alone, log, 0, len(log))
    keys = sorted({key for key, _, _ in log})
    for key in keys:  # one at a time: they need not all fit
        if owner.rows.find([key])[0] < 0 and len(owner.rows.dirty(PARTITION)):
            owner.write(PARTITION)
        slots, _, _ = owner.load([key], np.full(1, PARTITION, np.int32))
        assert pack(owner.rows, slots, 0) == pack(alone.rows, alone.rows.find([key]), 0), key
