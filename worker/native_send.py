"""Records to Kafka through librdkafka's own functions, without a Python object for each.

The Python client takes one record a call, and keeps an object for each until it is acknowledged: three times
what librdkafka itself takes for it (docs/decisions/0025).
"""

from __future__ import annotations

import ctypes
import time
from typing import Any

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Producer
from numpy.typing import NDArray

from schemas.spans import spans_of
from worker import send_kernels as kernels
from worker.commits import QUEUE_FULL_WAIT_S, Sent, full
from worker.librdkafka import POINTER, Signatures, addresses, handle_of, is_wanted, library
from worker.patience import ENDLESS, Patience
from worker.plain_send import PlainSend

_SIGNATURES: Signatures = {
    "rd_kafka_topic_new": (POINTER, [POINTER, ctypes.c_char_p, POINTER]),
    "rd_kafka_topic_destroy": (None, [POINTER]),
    "rd_kafka_conf": (POINTER, [POINTER]),
    "rd_kafka_conf_set": (ctypes.c_int, [POINTER, *[ctypes.c_char_p] * 3, ctypes.c_size_t]),
    "rd_kafka_conf_set_dr_msg_cb": (None, [POINTER, POINTER]),
}
_NO_HEADERS = spans_of([])
# What delivery reports write to. It stays until the process ends: an abandoned client may report at any time.
_noted: list[NDArray[np.int64]] = []


class NativeSend:
    """Like PlainSend; what fails is noted by topic."""

    def __init__(self, config: dict[str, Any]) -> None:
        # The client's own of each; and on either side of the last mark, its error and how many are under way.
        self._topics: dict[str, tuple[int, NDArray[np.int64]]] = {}
        self._side = 0
        self.client = Producer(config)
        self._lib = library(_SIGNATURES)
        self._calls = addresses(kernels.CALLS)
        self._handle = handle_of(self.client)
        running = self._lib.rd_kafka_conf(self._handle)
        # Both are read at each report. The Python client's own callback would pass over our records.
        self._lib.rd_kafka_conf_set_dr_msg_cb(running, kernels.note_report.address)
        # In a transaction too: a flush, and so a commit, waits for reports in steps of 10 ms.
        self._lib.rd_kafka_conf_set(running, b"delivery.report.only.error", b"false", None, 0)
        self._hand_over(0, 0, Sent("", spans_of([]), spans_of([]), None), 0)  # compiles

    def send(self, records: Sent, within_s: float, patience: Patience = ENDLESS) -> None:
        """See PlainSend."""
        topic, sides = self._topic(records.topic)
        noted = sides[self._side]
        done, give_up_s = 0, 0.0
        while done < len(records.values):
            first = done
            done, error = self._hand_over(first, topic, records, noted.ctypes.data)
            noted[1] += done - first  # reports come in poll, and that is called in this thread alone
            if error == KafkaError._QUEUE_FULL:
                now_s = time.monotonic()
                give_up_s = now_s + within_s if done > first else give_up_s or now_s + within_s
                if not patience.left_s(give_up_s):
                    raise full()
                self.client.poll(QUEUE_FULL_WAIT_S)
            elif error:
                raise KafkaException(KafkaError(error))
        self.client.poll(0)

    def failed(self) -> list[tuple[KafkaError, str]]:
        """See PlainSend."""
        return [
            (KafkaError(int(error.astype(np.int32))), topic)
            for topic, (_, sides) in self._topics.items()
            for error in sides[:, 0]
            if error
        ]

    def mark(self) -> None:
        """See PlainSend."""
        self._side = 1 - self._side

    def under_way(self) -> int:
        """See PlainSend."""
        return sum(int(sides[1 - self._side, 1]) for _, sides in self._topics.values())

    def _topic(self, name: str) -> tuple[int, NDArray[np.int64]]:
        if name not in self._topics:
            sides = np.zeros((2, 2), np.int64)
            _noted.append(sides)
            self._topics[name] = self._lib.rd_kafka_topic_new(self._handle, name.encode(), None), sides
        return self._topics[name]

    def _hand_over(self, first: int, topic: int, records: Sent, noted_at: int) -> tuple[int, int]:
        values, keys = records.values, records.keys
        headers = _NO_HEADERS if records.headers is None else records.headers
        done, error = kernels.hand_over(
            first,
            self._handle,
            topic,
            values.data,
            values.starts,
            values.ends,
            keys.data,
            keys.starts,
            keys.ends,
            headers.data,
            headers.starts,
            headers.ends,
            noted_at,
            self._calls,
        )
        return int(done), int(np.uint32(error).astype(np.int32))

    def __del__(self) -> None:
        for topic, _ in self._topics.values():
            self._lib.rd_kafka_topic_destroy(topic)


def send_of(config: dict[str, Any]) -> PlainSend | NativeSend:
    """How records are sent: natively where we know the client, and nobody has asked for its own calls."""
    return NativeSend(config) if is_wanted() else PlainSend(config)
