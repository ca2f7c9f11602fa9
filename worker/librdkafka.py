"""librdkafka under its Python client: the functions that the client does not pass on, and their handle."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

import confluent_kafka
import numpy as np
from confluent_kafka import cimpl
from numpy.typing import NDArray

_KNOWN = ("2.16.",)  # versions of the Python client for which the contract tests hold
_ASKED_FOR = "PENSTOCK_CLIENT"  # an environment variable; plain: only what the Python client passes on
POINTER = ctypes.c_void_p
Signatures = dict[str, tuple[Any, list[Any]]]  # result and arguments by name


class Place(ctypes.Structure):
    """Its rd_kafka_topic_partition_t."""

    _fields_ = [
        ("topic", ctypes.c_char_p),
        ("partition", ctypes.c_int32),
        ("offset", ctypes.c_int64),
        ("metadata", POINTER),
        ("metadata_size", ctypes.c_size_t),
        ("opaque", POINTER),
        ("err", ctypes.c_int),
        ("private", POINTER),
    ]


def is_known() -> bool:
    """Whether we know where this version of the Python client keeps its rd_kafka_t."""
    return str(confluent_kafka.__version__).startswith(_KNOWN)


def is_wanted() -> bool:
    """Whether to go past the Python client: where we know it, and nobody has asked otherwise."""
    return is_known() and os.environ.get(_ASKED_FOR) != "plain"


def handle_of(client: Any) -> int:
    """The rd_kafka_t of a client; only where `is_known`."""
    # The client's object begins, after Python's own part of it, with its rd_kafka_t.
    return int(POINTER.from_address(id(client) + object.__basicsize__).value or 0)


def library(signatures: Signatures) -> Any:
    """librdkafka as the Python client has loaded it, with these functions declared."""
    loaded = ctypes.CDLL(cimpl.__file__)  # finds the functions of what that is linked to
    for name, (result, arguments) in signatures.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def addresses(names: Sequence[str]) -> NDArray[np.int64]:
    """Where these functions are, for compiled code to call."""
    loaded = ctypes.CDLL(cimpl.__file__)
    return np.array([ctypes.cast(getattr(loaded, name), POINTER).value for name in names], np.int64)
