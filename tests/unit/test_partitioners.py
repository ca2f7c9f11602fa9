"""A key is on the partition that the Kafka clients put it on."""

from __future__ import annotations

import pytest
from confluent_kafka import consistent, murmur2
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.spans import spans_of
from worker.partitioners import partitions

CLIENTS = {"murmur2": murmur2, "crc32": consistent}


@pytest.mark.parametrize("partitioner", CLIENTS)
@settings(deadline=None)  # the first one compiles
@given(keys=st.lists(st.binary(max_size=40), max_size=30), count=st.integers(1, 1000))
def test_a_partition_is_computed_as_the_client_does(partitioner: str, keys: list[bytes], count: int) -> None:
    found = partitions(spans_of(keys), count, partitioner)

    assert found.tolist() == [CLIENTS[partitioner](key, count) for key in keys]
