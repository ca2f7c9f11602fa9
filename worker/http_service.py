"""Workers, and the servers of those whose files ask for scores over HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from feature_cache.store import Store
from worker.assemble import assemble
from worker.config import Pipeline
from worker.desk import open_desk
from worker.http_server import HttpServer
from worker.run import Worker


def open_workers(
    pipelines: Sequence[Pipeline], open_store: Callable[[str], Store]
) -> tuple[list[Worker], list[HttpServer]]:
    """A worker a pipeline, and the servers, which listen already: what they are asked waits for the loops.

    Raises:
        ConfigError, ModelError, SchemaError, StopWorker: see `assemble` and HttpServer.
    """
    workers, servers = [], []
    for pipeline in pipelines:
        line = assemble(pipeline, open_store)
        desk = open_desk(pipeline, line, open_store)
        worker = Worker(line, answers=desk.answers if desk else None)
        workers.append(worker)
        if desk is not None:
            server = HttpServer(desk, worker.is_reading)
            servers.append(server)
            at = f"http://{desk.options.host}:{server.port}"
            structlog.get_logger().info("http", pipeline=pipeline.name, at=at)
    return workers, servers
