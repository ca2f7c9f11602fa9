"""What a pipeline file may say of the console, one field a key."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from worker.feature_types import SECTION
from worker.key_types import Topic


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class ConsoleOptions:
    """What the web page on the admin port knows, and who may look at it."""

    topic: Topic | None = Field(
        default=None,
        description="Small topic on which workers tell each other how they are; without it the page shows "
        "one process alone.",
    )
    readers: Literal["loopback", "anyone"] = Field(
        default="loopback",
        description="Who needs no token to look: requests from this host, or `anyone` who reaches the port.",
    )
