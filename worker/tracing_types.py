"""What a pipeline file may say of traces, one field a key."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic.dataclasses import dataclass

from worker.feature_types import SECTION
from worker.key_types import Number, Text, wrong


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class TracingOptions:
    """Spans of batches, to an OpenTelemetry collector; see docs/tracing.md."""

    endpoint: Text | None = Field(
        default=None,
        description="Collector that takes OTLP over HTTP. Default: `OTEL_EXPORTER_OTLP_ENDPOINT`, or "
        "`http://localhost:4318`.",
    )
    service_name: Text | None = Field(
        default=None, description="`service.name` of the spans. Default: `OTEL_SERVICE_NAME`, or `penstock`."
    )
    sample_ratio: Annotated[Number, Field(ge=0, le=1)] = Field(
        default=0.01,
        description="Share of the batches without a sampled record that have a span; all others have one.",
    )

    def __post_init__(self) -> None:
        if self.endpoint is not None and not str(self.endpoint).startswith(("http://", "https://")):
            raise wrong("another kind of address", "http://HOST:PORT or https://HOST:PORT", "endpoint")
