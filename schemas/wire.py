"""The bytes in front of an Avro payload that say which schema wrote it."""

from typing import Final, Literal

Wire = Literal["single_object", "confluent", "raw"]

SINGLE_OBJECT_MAGIC: Final = b"\xc3\x01"
CONFLUENT_MAGIC: Final = b"\x00"
PREFIX_BYTES: Final[dict[Wire, int]] = {"single_object": 10, "confluent": 5, "raw": 0}
MAGIC: Final[dict[Wire, bytes]] = {
    "single_object": SINGLE_OBJECT_MAGIC,
    "confluent": CONFLUENT_MAGIC,
    "raw": b"",
}


def single_object_prefix(fingerprint: int) -> bytes:
    """Return the ten bytes of the Avro single-object encoding for a CRC-64-AVRO fingerprint."""
    return SINGLE_OBJECT_MAGIC + fingerprint.to_bytes(8, "little")


def confluent_prefix(schema_id: int) -> bytes:
    """Return the five bytes of the Confluent format for the id that a registry gave."""
    return CONFLUENT_MAGIC + schema_id.to_bytes(4, "big")
