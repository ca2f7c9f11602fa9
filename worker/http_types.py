"""What a pipeline file may say of scoring over HTTP, one field a key."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from worker.feature_types import SECTION
from worker.key_types import DurationMs, Int, Secret, SizeBytes, Text, wrong


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class HttpOptions:
    """Where events are scored for callers that wait for the answer."""

    host: Text = Field(
        default="127.0.0.1", description="Address to listen on; one beyond this host takes a `token`."
    )
    port: Annotated[Int, Field(ge=0, le=65535)] = Field(
        default=8081, description="Port of `/score` and `/v2/…`; 0: any free one."
    )
    token: Secret | None = Field(
        default=None,
        description="Bearer token, at least 16 characters, that every request but for health then takes.",
    )
    queue: Annotated[Int, Field(ge=1, le=100_000)] = Field(
        default=1000, description="Requests that may wait at a time; a further one is sent away (503)."
    )
    timeout_ms: Annotated[DurationMs, Field(ge=1)] = Field(
        default=1_000, description="A request that has no answer after this long gets 504."
    )
    max_body_bytes: Annotated[SizeBytes, Field(ge=1024, le=64 << 20)] = Field(
        default=1 << 20, description="A longer request is refused (413)."
    )

    def __post_init__(self) -> None:
        if self.token is None and not is_loopback(self.host):
            raise wrong(
                f"{self.host!r} without a token", "http.token, or an address of this host alone", "host"
            )


def is_loopback(host: str) -> bool:
    """Whether nobody but this host can reach the address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
