"""How records are written: the keys that say it, for events, labels and outputs."""

from __future__ import annotations

from typing import Any, Final, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from worker.feature_types import SECTION
from worker.key_types import PathInFile, Text

Format = Literal["avro", "json", "protobuf"]
Wire = Literal["single_object", "confluent", "raw"]
UNSAID: Final[Any] = ""  # the framing that a file does not say, until it is known: `default_wire`
FORMAT: Final = "What a record is: `avro`, `json` or `protobuf`; see [wire.md](wire.md)."


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class Protobuf:
    """Which message the records of a Protobuf topic are."""

    descriptors: PathInFile = Field(
        description="FileDescriptorSet, relative to this file: "
        "`protoc --include_imports --descriptor_set_out=FILE`."
    )
    message: Text = Field(description="Full name of the message; its fields are found by name.")


def default_wire(format: Format) -> Wire:
    """What stands in front of a record where the file does not say it."""
    return "single_object" if format == "avro" else "raw"
