"""One turn of the join: facts go to their shards, and the marks of the shards move with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from feature_cache.cases import Applied, Cases, Fact, Mark, shard_of

Partition = tuple[str, int]  # topic and partition
Marks = dict[Partition, list[int]]  # (SHARDS,) of each partition: all before it was given to the shard


def by_shard(
    facts: Sequence[tuple[Partition, Fact]],
) -> Iterator[tuple[int, list[Partition], list[Fact]]]:
    """Facts by shard, and the partitions that they came from; the order within a shard stays."""
    shards: dict[int, list[tuple[Partition, Fact]]] = {}
    for partition, fact in facts:
        shards.setdefault(shard_of(fact.event_id), []).append((partition, fact))
    for shard, part in shards.items():
        yield shard, sorted({partition for partition, _ in part}), [fact for _, fact in part]


def apply_facts(
    cases: Cases,
    facts: Sequence[tuple[Partition, Fact]],
    marks: Marks,
    ends: Mapping[Partition, int],
    name: Callable[[Partition], str],
    on_applied: Callable[[Applied], None] = lambda _: None,
) -> bool:
    """Give facts to the cases, and move `marks`, in place, with what was given.

    Doing it again after an error does no harm: a fact that was taken is no newer than itself.

    Args:
        cases: where to.
        facts: of records that follow what was read before, in the order of their partitions.
        marks: of these partitions.
        ends: for each partition the offset after its last record.
        name: of a partition, as the cases know it.

    Returns:
        False: a shard has lost something; read again from the marks that the cases have.

    Raises:
        StoreUnavailableError: not all of them were given; call again with the same.
    """
    for shard, partitions, part in by_shard(facts):
        moved = [Mark(name(p), marks[p][shard], ends[p]) for p in partitions]
        done = cases.apply(shard, moved, part)
        if done is None:
            return False
        on_applied(done)
        for partition in partitions:
            marks[partition][shard] = max(marks[partition][shard], ends[partition])
    return True
