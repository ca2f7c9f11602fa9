"""`penstock console`: the console as a process of its own, which scores nothing."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from functools import partial
from pathlib import Path

import structlog

from worker.admin import Change, Switches, serve_admin
from worker.config import load_pipeline
from worker.console_http import Console
from worker.console_models import change
from worker.exits import Exit
from worker.logs import configure_logs

_LOOK_EVERY_S = 0.5

EXAMPLES = """examples:
  penstock console pipelines/fraud.yaml pipelines/maintenance.yaml
  penstock console pipelines/fraud.yaml --port 9000

Every worker serves the same page on its admin port; a process of its own is for a fleet whose ports nobody
reaches. The files must name a console.topic.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what `penstock console` takes."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="pipeline files to show")
    parser.add_argument("--host", default=None, help="address to listen on, instead of admin.host")
    parser.add_argument("--port", type=int, default=None, help="port, instead of admin.port; 0: any free one")
    parser.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    pipelines = [load_pipeline(file) for file in arguments.files]
    first = pipelines[0]
    if first.console.topic is None:
        print(
            f"{first.path}: console.topic: found nothing, expected a topic on which workers can be heard",
            file=sys.stderr,
        )
        return Exit.CONFIG
    port = first.admin.port if arguments.port is None else arguments.port
    host = str(arguments.host or first.admin.host)
    if port is None:
        print(f"{first.path}: admin.port: found null, expected a port, or --port", file=sys.stderr)
        return Exit.CONFIG
    configure_logs(
        {secret for p in pipelines for secret in p.secrets}, set(), is_terminal=sys.stderr.isatty()
    )
    log, stop = structlog.get_logger(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    console = Console(pipelines, server=f"penstock console on {host}:{port}")
    changes: dict[str, Change] = {"/rollout": partial(change, {p.name: p for p in pipelines})}
    switches = Switches(token=str(first.admin.token or ""), changes=changes)
    try:
        server = serve_admin(host, port, list, switches=switches, console=console.answer)
    except OSError as error:
        print(f"cannot listen on {host}:{port} ({error.strerror}): use --port", file=sys.stderr)
        return Exit.CONFIG
    log.info("console", address=f"http://{server.server_address[0]!s}:{server.server_address[1]}/")
    while not stop.wait(_LOOK_EVERY_S):  # without end, it could miss a signal that comes as it begins
        pass
    server.shutdown()
    console.close()
    return Exit.OK
