"""Several pipelines in one process: a thread each, one admin server, one orderly end."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from http.server import ThreadingHTTPServer
from types import FrameType

import structlog
from confluent_kafka import KafkaException

from feature_cache.rows import RowsFullError, WrongLaneError
from feature_cache.store import StoreRefusedError, StoreUnavailableError
from schemas.registry import RegistryError
from schemas.tree import SchemaError
from worker.admin import Change, Health, Switches, serve_admin
from worker.assemble import store_opener
from worker.config import ConfigError, Pipeline
from worker.console_http import Console
from worker.console_models import change as change_routing
from worker.exits import Exit, StopWorker
from worker.http_server import HttpServer
from worker.http_service import open_workers
from worker.logs import change_log_level
from worker.run import Worker
from worker.session import ModelError
from worker.truth import TruthJoin
from worker.truth_assemble import open_truths
from worker.vital_signs import VitalSigns

_LEAVE_WITHIN_S = 10.0
_CLOSE_WITHIN_S = 3.0  # of them, after the last answer of Kafka that is waited for
_SWITCH_S = 0.0005
_COLLECT_AFTER = 100_000  # new objects; Python says 700
_CODES: tuple[tuple[type[Exception], Exit], ...] = (
    (ConfigError, Exit.CONFIG),
    (SchemaError, Exit.CONFIG),
    (RegistryError, Exit.KAFKA),
    (WrongLaneError, Exit.CONFIG),
    (RowsFullError, Exit.CONFIG),
    (ModelError, Exit.MODEL),
    (KafkaException, Exit.KAFKA),
    (StoreUnavailableError, Exit.STORE),
    (StoreRefusedError, Exit.STORE),
)


def exit_code(error: BaseException) -> Exit:
    """The exit code that an error stands for."""
    if isinstance(error, StopWorker):
        return error.code
    return next((code for kind, code in _CODES if isinstance(error, kind)), Exit.BUG)


def serve(pipelines: Sequence[Pipeline], *, only_truth: bool = False) -> Exit:
    """Run pipelines until SIGTERM or SIGINT, or until one of them cannot go on; returns the exit code.

    Args:
        pipelines: in one process, a thread each.
        only_truth: score nothing, only join labels with scores.
    """
    log = structlog.get_logger()
    stop = threading.Event()

    def ask_to_stop(number: int, _: FrameType | None) -> None:
        log.info("stopping", signal=signal.Signals(number).name)
        stop.set()

    previous = {s: signal.signal(s, ask_to_stop) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        return _serve(pipelines, stop, only_truth)
    except Exception as error:
        return _explain(error)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _serve(pipelines: Sequence[Pipeline], stop: threading.Event, only_truth: bool) -> Exit:
    log = structlog.get_logger()
    open_store = store_opener()
    workers, servers = open_workers([] if only_truth else pipelines, open_store)
    truths = open_truths(pipelines, open_store, only_truth=only_truth)
    codes: list[Exit] = []
    calm_the_collector()

    def run(part: Worker | TruthJoin | HttpServer) -> None:
        try:
            part.run(stop)
            codes.append(Exit.OK)
        except BaseException as error:
            codes.append(_explain(error))
        finally:
            stop.set()  # a process that runs half of its pipelines would look healthy

    server, console = _open_admin(pipelines, workers)
    if server is not None:
        log.info("admin", address=f"http://{server.server_address[0]!s}:{server.server_address[1]}")
    # A pipeline that comes back from Kafka or the model waits this long for another thread to let it run: for
    # another pipeline, and for what loads a model, serves the console or follows a topic beside it.
    sys.setswitchinterval(_SWITCH_S)
    threads = [threading.Thread(target=run, args=(w,), name=w.line.name) for w in workers]
    for worker, thread in zip(workers, threads, strict=True):
        log.info(
            "pipeline starts",
            pipeline=worker.line.name,
            topic=worker.line.topic,
            device=worker.line.router.device if worker.line.router else None,
        )
        thread.start()
    beside = [threading.Thread(target=run, args=(truth,), name=truth.name) for truth in truths]
    beside += [threading.Thread(target=run, args=(server,), name=server.name) for server in servers]
    for thread in beside:
        thread.start()
    while not stop.is_set():
        stop.wait(0.5)
    deadline_s = time.monotonic() + _LEAVE_WITHIN_S
    for worker in workers:
        worker.line.sink.patience.leave_by_s = deadline_s - _CLOSE_WITHIN_S
    for thread in (*threads, *beside):
        thread.join(max(0.0, deadline_s - time.monotonic()))
    _leave_hanging(dict(zip(threads, workers, strict=True)), beside, codes)
    _close(server, console)
    return max(codes, default=Exit.OK)


def _leave_hanging(
    workers: Mapping[threading.Thread, Worker], beside: Sequence[threading.Thread], codes: Sequence[Exit]
) -> None:
    """End the process at once where parts of it hang; return where none does.

    Args:
        workers: by thread. One that only closes its clients has done what it could.
        beside: of parts that commit nothing, and lose nothing by being cut off.
        codes: of those that have ended.
    """
    log = structlog.get_logger()
    hanging = [thread.name for thread in (*workers, *beside) if thread.is_alive()]
    if not hanging:
        return
    alive = [worker for thread, worker in workers.items() if thread.is_alive()]
    stuck = [worker.line.name for worker in alive if not worker.is_closing]
    if stuck:
        why = "a pipeline did not stop in time; nothing more is committed"
        log.error(why, seconds=_LEAVE_WITHIN_S, pipelines=stuck)
        os._exit(Exit.BUG)
    ends = [_explain(worker.failure) for worker in alive if worker.failure is not None]
    log.warning("left without closing clients, which hang", parts=hanging)
    os._exit(max([*codes, *ends], default=Exit.OK))


def _open_admin(
    pipelines: Sequence[Pipeline], workers: Sequence[Worker]
) -> tuple[ThreadingHTTPServer | None, Console | None]:
    """Serve metrics, health and the console, unless the file wants no port."""
    admin = pipelines[0].admin
    if admin.port is None:
        return None, None
    changes: dict[str, Change] = {
        "/loglevel": change_log_level,
        "/pause": partial(pause, workers, True),
        "/resume": partial(pause, workers, False),
        "/rollout": partial(change_routing, {p.name: p for p in pipelines}),
    }
    switches = Switches(token=str(admin.token or ""), changes=changes)
    signs = {worker.line.name: VitalSigns(worker.line.name) for worker in workers}
    console = Console(pipelines, workers)
    try:
        server = serve_admin(
            str(admin.host),
            admin.port,
            partial(_health, workers, signs),
            switches=switches,
            console=console.answer,
        )
    except OSError as error:
        console.close()
        raise StopWorker(
            Exit.CONFIG,
            f"cannot listen on {admin.host}:{admin.port} ({error.strerror}): set admin.port or "
            f"PENSTOCK_ADMIN_PORT to another, 0 takes any free one",
        ) from error
    return server, console


def _health(workers: Sequence[Worker], signs: Mapping[str, VitalSigns]) -> list[Health]:
    """How each pipeline is; noted in the metrics, too."""
    now_ms = time.monotonic() * 1000
    said = []
    for worker in workers:
        router = worker.line.router
        age_s = (now_ms - worker.looped_at_ms) / 1000
        said.append(
            Health(
                pipeline=worker.line.name,
                loop_age_s=age_s,
                is_ready=worker.is_ready,
                is_paused=worker.is_paused,
                device=router.device if router else "",
            )
        )
        signs[worker.line.name].say(loop_age_s=age_s, clock_s=time.time(), device=said[-1].device)
    return said


def _close(server: ThreadingHTTPServer | None, console: Console | None) -> None:
    if server is not None:
        server.shutdown()
    if console is not None:
        console.close()


def calm_the_collector() -> None:
    """Let the cyclic garbage collector leave alone what lives as long as we do, and look at the rest rarely.

    A batch makes thousands of short-lived objects, none of them in a cycle; the search for cycles took 7 % of
    the CPU.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 50, 100)


def pause(workers: Sequence[Worker], is_paused: bool, query: Mapping[str, str]) -> str:
    """Let pipelines rest or go on: all of them, or the one that the query names.

    Raises:
        ValueError: there is no such pipeline here.
    """
    names = [worker.line.name for worker in workers]
    wanted = query.get("pipeline")
    if wanted is not None and wanted not in names:
        raise ValueError(f"expected ?pipeline= and one of {', '.join(names)}, or nothing for all")
    chosen = [worker for worker in workers if wanted in (None, worker.line.name)]
    for worker in chosen:
        worker.is_paused = is_paused
    return f"{'paused' if is_paused else 'running'}: {', '.join(w.line.name for w in chosen)}"


def _explain(error: BaseException) -> Exit:
    """Log why the worker stops, in one line where the reason is known, and with a traceback where not."""
    code, log = exit_code(error), structlog.get_logger()
    if code is Exit.BUG:
        log.error("this is a bug of ours", exc_info=error, exit_code=int(code))
    else:
        log.error("worker stops", why=str(error), exit_code=int(code), exit_name=code.name)
    return code
