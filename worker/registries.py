"""The schema registries that a pipeline file names."""

from __future__ import annotations

from schemas.registry import Registry
from worker.config import Pipeline
from worker.plan import registry_settings


def open_registry(pipeline: Pipeline, url: str | None) -> Registry | None:
    """The registry at this address, by the pipeline's login; None without one."""
    return Registry(registry_settings(pipeline, url)) if url else None
