"""A pipeline as one of several processes of a command runs it."""

from __future__ import annotations

from dataclasses import replace

from worker.config import ConfigError, Pipeline


def member(pipeline: Pipeline, index: int) -> Pipeline:
    """The pipeline as the process of this index runs it: with a worker id and ports of its own.

    Raises:
        ConfigError: there is no such port.
    """
    delivery, admin, http = pipeline.delivery, pipeline.admin, pipeline.http
    if delivery.worker_id is not None:
        delivery = replace(delivery, worker_id=f"{delivery.worker_id}-{index}")
    if admin.port:
        if admin.port + index > 65535:
            raise ConfigError(
                f"{pipeline.path}: admin.port: found {admin.port}, expected one that process {index} can add "
                f"{index} to"
            )
        admin = replace(admin, port=admin.port + index)
    if http is not None and http.port:
        if http.port + index > 65535:
            raise ConfigError(
                f"{pipeline.path}: http.port: found {http.port}, expected one that process {index} can add "
                f"{index} to"
            )
        http = replace(http, port=http.port + index)
    return replace(pipeline, delivery=delivery, admin=admin, http=http)
