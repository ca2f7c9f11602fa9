"""librdkafka's mock cluster in this process, told to answer requests with errors."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from enum import IntEnum
from typing import cast

import pytest

from loadgen.bus import start_cluster

_pointer, _text, _integer = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int


class Api(IntEnum):
    """Kafka's numbers of the requests that tests interfere with."""

    PRODUCE = 0
    OFFSET_COMMIT = 8
    FIND_COORDINATOR = 10
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS = 24
    ADD_OFFSETS = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28
    CONSUMER_GROUP_HEARTBEAT = 68


class MockCluster:
    """One broker that accepts transactions but neither fences nor hides anything; it lives as we do."""

    def __init__(self, topics: Mapping[str, int]) -> None:
        self.bootstrap, kept = start_cluster(topics)
        if not isinstance(kept, tuple):
            pytest.skip("this librdkafka does not show its mock cluster")
        self._library, self._handle, cluster = cast("tuple[ctypes.CDLL, int, int]", kept)
        self._cluster = _pointer(cluster)
        arguments = {
            "push_request_errors_array": [_pointer, ctypes.c_int16, ctypes.c_size_t, _pointer],
            "clear_request_errors": [_pointer, ctypes.c_int16],
            "broker_set_down": [_pointer, ctypes.c_int32],
            "broker_set_up": [_pointer, ctypes.c_int32],
            "partition_delete_records": [_pointer, _text, ctypes.c_int32, ctypes.c_int64],
        }
        for name, kinds in arguments.items():
            getattr(self._library, f"rd_kafka_mock_{name}").argtypes = kinds

    def answer(self, api: Api, *codes: int) -> None:
        """Answer the next requests of this kind with these errors, one each."""
        array = (_integer * len(codes))(*codes)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, api, len(codes), array)

    def answer_late(self, api: Api, after_ms: int) -> None:
        """Answer the next request of this kind well, but only after a while."""
        counted = [ctypes.c_size_t(1), _integer(0), _integer(after_ms)]
        self._library.rd_kafka_mock_broker_push_request_error_rtts(
            self._cluster, ctypes.c_int32(1), ctypes.c_int16(api), *counted
        )

    def answer_well(self) -> None:
        """Forget the errors that were not used up."""
        for api in Api:
            self._library.rd_kafka_mock_clear_request_errors(self._cluster, api)

    def down(self) -> None:
        """Break every connection and accept none."""
        self._library.rd_kafka_mock_broker_set_down(self._cluster, 1)

    def up(self) -> None:
        """Accept connections again."""
        self._library.rd_kafka_mock_broker_set_up(self._cluster, 1)

    def delete_records(self, topic: str, partition: int, before: int) -> None:
        """Remove the oldest records of a partition, as retention does."""
        self._library.rd_kafka_mock_partition_delete_records(self._cluster, topic.encode(), partition, before)
