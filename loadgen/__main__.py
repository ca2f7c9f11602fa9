"""The command line: simulate, replay, report."""

import argparse
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, get_args

from loadgen.arrivals import KINDS, Arrivals, arrivals
from loadgen.bus import FETCH_WAIT_MS
from loadgen.collect import CollectError
from loadgen.events import Stream
from loadgen.lead import Lead
from loadgen.page import page
from loadgen.produce import Outbox, SendError
from loadgen.replay import ReplayError, parse_date
from loadgen.run import TOPICS, Load, Target
from loadgen.send import Gate
from loadgen.sources import LABEL_DELAY_S, Pipeline, Source, simulated_fraud, simulated_maintenance, stored
from loadgen.transactions import DAY_S, World
from loadgen.turbofan import Fleet
from schemas.form import FORMATS
from schemas.wire import Wire

_EXAMPLES = """examples:
  python -m loadgen simulate --fraud-rate 5000 --maintenance-rate 2000 --seconds 60 --report run.json
  python -m loadgen simulate --maintenance-rate 0 --arrival spike --spike-factor 10 --seconds 60 --collect
  python -m loadgen simulate --maintenance-rate 0 --events 100000 --mutate 0.1 --report run.json
  python -m loadgen replay transactions.parquet --from 2018-06-18 --until 2018-08-15 --max-lead 1d
  python -m loadgen replay test_FD001.parquet --truth RUL_FD001.parquet --rate 2000 --report run.json
  python -m loadgen report run.json --html run.html --picture run.png
"""
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": DAY_S}
_SHOW_EVERY_S = 5.0


def main(argv: list[str] | None = None) -> int:
    """Run one command and return the exit code.

    0: done; 1: it failed; 2: wrong arguments; 3: events are unaccounted for.
    """
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except (SendError, CollectError, ReplayError, ValueError, OSError) as error:
        print(f"loadgen: {error}", file=sys.stderr)
        return 1


def _simulate(arguments: argparse.Namespace) -> int:
    def process(per_s: float, seed: int) -> Arrivals:
        return arrivals(
            arguments.arrival,
            per_s,
            seed=seed,
            ramp_from_per_s=per_s * arguments.ramp_from,
            ramp_s=arguments.ramp_seconds,
            spike_factor=arguments.spike_factor,
            spike_at_s=arguments.spike_at,
            spike_s=arguments.spike_seconds,
        )

    sources: list[Source] = []
    seed = arguments.seed
    if arguments.fraud_rate > 0:
        world = World(
            customers=arguments.customers,
            terminals=arguments.terminals,
            seed=seed,
            first_number=arguments.first_id,
        )
        sources.append(
            simulated_fraud(
                process(arguments.fraud_rate, seed + 1),
                world=world,
                label_delay_s=arguments.label_delay,
                labels=arguments.labels,
            )
        )
    if arguments.maintenance_rate > 0:
        fleet = Fleet(machines=arguments.machines, seed=seed, first_number=arguments.first_id)
        sources.append(simulated_maintenance(process(arguments.maintenance_rate, seed + 2), fleet=fleet))
    if not sources:
        raise ValueError("nothing to simulate: both rates are 0")
    return _run(arguments, sources, arguments.seconds or None, {})


def _replay(arguments: argparse.Namespace) -> int:
    slab_s = DAY_S if arguments.max_lead is None else min(DAY_S, max(900, arguments.max_lead // 4))
    source = stored(
        arguments.file,
        from_date=arguments.from_date,
        until_date=arguments.until_date,
        speed=arguments.speed,
        max_per_s=arguments.rate,
        label_delay_s=arguments.label_delay,
        labels=arguments.labels,
        all_labels=arguments.all_labels,
        mark_every_ms=arguments.mark_every * 1000,
        slab_s=slab_s,
        truth_path=arguments.truth,
    )
    gates: dict[Pipeline, Callable[[Outbox], Gate]] = {}
    if arguments.max_lead is not None:
        gates[source.pipeline] = lambda outbox: _gate(arguments, source.pipeline, outbox)
    return _run(arguments, [source], arguments.seconds or None, gates)


def _gate(arguments: argparse.Namespace, pipeline: Pipeline, outbox: Outbox) -> Gate:
    topic = _topics(arguments)["transactions" if pipeline == "fraud" else "readings"]
    lead = Lead(
        arguments.bootstrap,
        group=arguments.group or f"penstock-{pipeline}",
        topic=topic,
        outbox=outbox,
        max_lead_ms=arguments.max_lead * 1000,
        properties=dict(arguments.property),
    )
    return lambda from_ms: lead.is_open(from_ms, time.monotonic())


def _run(
    arguments: argparse.Namespace,
    sources: list[Source],
    for_s: float | None,
    gates: dict[Pipeline, Callable[[Outbox], Gate]],
) -> int:
    outputs: dict[Pipeline, str] = {"fraud": "fraud", "maintenance": "maintenance", **dict(arguments.outputs)}
    target = Target(
        bootstrap=arguments.bootstrap,
        format=arguments.format,
        wire=arguments.wire or ("single_object" if arguments.format == "avro" else "raw"),
        registry_url=arguments.registry,
        topics=_topics(arguments),
        outputs=outputs,
        properties=dict(arguments.property),
        fetch_wait_ms=FETCH_WAIT_MS if arguments.embedded else 100,
    )
    is_shown = any(path is not None for path in (arguments.report, arguments.picture, arguments.html))
    collect = is_shown or arguments.collect
    load = Load(
        target, sources, mutated_share=arguments.mutate, seed=arguments.seed, collect=collect, gates=gates,
        max_events=arguments.events or None,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, lambda *_: load.stop())
    signal.signal(signal.SIGINT, lambda *_: load.stop())
    load.start(for_s)
    shown_s = time.monotonic()
    while load.is_sending():
        time.sleep(0.1)
        if not arguments.quiet and time.monotonic() - shown_s >= _SHOW_EVERY_S:
            shown_s = time.monotonic()
            _show(load)
    summary = load.finish(arguments.drain)
    if arguments.report is not None:
        arguments.report.write_text(json.dumps(summary, indent=1))
    _draw(arguments, summary)
    print(json.dumps(_headline(summary)))
    return 3 if summary["unaccounted"] else 0


def _report(arguments: argparse.Namespace) -> int:
    summary = json.loads(arguments.file.read_text())
    _draw(arguments, summary)
    print(json.dumps(_headline(summary), indent=1))
    return 0


def _draw(arguments: argparse.Namespace, summary: dict[str, Any]) -> None:
    if arguments.html is not None:
        arguments.html.write_text(page(summary))
    if arguments.picture is None:
        return
    try:
        from loadgen.picture import draw

        draw(summary, arguments.picture)
    except ImportError as error:
        raise ValueError(f"a picture needs matplotlib, which the extra 'report' installs: {error}") from error


def _show(load: Load) -> None:
    for name, live in load.live().items():
        print(
            f"{name}: {live.sent} sent ({live.sent_per_s:.0f}/s), {live.scores} scores, "
            f"{live.alerts} alerts, {live.dead_letters} dead letters, "
            f"p50 {live.p50_ms:.1f} ms, p99 {live.p99_ms:.1f} ms",
            file=sys.stderr,
        )


def _headline(summary: dict[str, Any]) -> dict[str, Any]:
    """Leave out of a report what only a picture needs."""
    bulky = ("latency_curve_ms", "per_second")
    streams = {
        name: {key: value for key, value in stream.items() if key not in bulky}
        for name, stream in summary["streams"].items()
    }
    return {**summary, "streams": streams}


def _topics(arguments: argparse.Namespace) -> dict[Stream, str]:
    return {**TOPICS, **dict(arguments.topic)}


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m loadgen",
        description="Send simulated or stored events to Kafka by an open-loop plan; report what comes back.",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    commands = parser.add_subparsers(required=True, metavar="simulate | replay | report")

    simulate = commands.add_parser(
        "simulate",
        help="card transactions and engine readings, without end",
        epilog=_EXAMPLES,
        formatter_class=raw,
    )
    simulate.set_defaults(run=_simulate)
    simulate.add_argument(
        "--fraud-rate", type=_rate, default=500.0, help="transactions a second; 0: none (default 500)"
    )
    simulate.add_argument(
        "--maintenance-rate", type=_rate, default=200.0, help="readings a second; 0: none (default 200)"
    )
    simulate.add_argument(
        "--arrival", choices=KINDS, default="poisson", help="arrival process (default poisson)"
    )
    simulate.add_argument(
        "--ramp-from", type=float, default=0.0, help="ramp: first rate as a share of the last (0)"
    )
    simulate.add_argument("--ramp-seconds", type=float, default=30.0, help="ramp: until the full rate (30)")
    simulate.add_argument("--spike-factor", type=float, default=5.0, help="spike: times the rate (5)")
    simulate.add_argument("--spike-at", type=float, default=20.0, help="spike: seconds after the start (20)")
    simulate.add_argument("--spike-seconds", type=float, default=5.0, help="spike: its length (5)")
    simulate.add_argument("--customers", type=int, default=World().customers, help="card holders (5000)")
    simulate.add_argument("--terminals", type=int, default=World().terminals, help="terminals (10000)")
    simulate.add_argument(
        "--machines", type=int, default=Fleet().machines, help="engines running at once (200)"
    )
    simulate.add_argument(
        "--first-id", type=int, default=0, help="id of the first event; ids are consecutive (0)"
    )
    _add_common(simulate)

    replay = commands.add_parser(
        "replay", help="a stored dataset in event time", epilog=_EXAMPLES, formatter_class=raw
    )
    replay.set_defaults(run=_replay)
    replay.add_argument("file", type=Path, help="Parquet: the handbook's transactions or C-MAPSS readings")
    replay.add_argument("--from", dest="from_date", type=_date, help="first day, YYYY-MM-DD (transactions)")
    replay.add_argument(
        "--until", dest="until_date", type=_date, help="the day after the last one (transactions)"
    )
    replay.add_argument(
        "--speed", type=float, default=0.0, help="event seconds a second; 0: as fast as possible"
    )
    replay.add_argument("--rate", type=_rate_above_0, default=None, help="at most so many records a second")
    replay.add_argument(
        "--max-lead", type=_duration, help="event time to run ahead of --group at most, like 1d"
    )
    replay.add_argument("--group", help="consumer group that --max-lead watches (penstock-PIPELINE)")
    replay.add_argument(
        "--mark-every", type=_duration, default=300, help="event time between time markers (5m)"
    )
    replay.add_argument(
        "--all-labels", action="store_true", help="send labels known after the last transaction too"
    )
    replay.add_argument(
        "--truth", type=Path, help="Parquet with the remaining life of each engine (C-MAPSS test)"
    )
    _add_common(replay)

    shown = commands.add_parser("report", help="show a run that --report wrote")
    shown.set_defaults(run=_report)
    shown.add_argument("file", type=Path, help="JSON written by --report")
    _add_pictures(shown)
    return parser


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--picture", type=Path, help="draw it, .png or .svg")
    parser.add_argument("--html", type=Path, help="write it as one page with plots")


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--bootstrap",
        default=os.environ.get("PENSTOCK_KAFKA", "localhost:9092"),
        help="Kafka ($PENSTOCK_KAFKA)",
    )
    add(
        "--property",
        type=_setting,
        action="append",
        default=[],
        metavar="K=V",
        help="a further librdkafka setting; K=@FILE takes it from a file: ps shows arguments to everybody",
    )
    add("--format", choices=FORMATS, default="avro", help="of events, labels and outputs (avro)")
    add("--wire", choices=get_args(Wire), help="framing (avro: single_object; json, protobuf: raw)")
    add(
        "--registry",
        default=os.environ.get("PENSTOCK_REGISTRY") or None,
        help="schema registry URL, wire confluent",
    )
    add("--topic", type=_pair, action="append", default=[], metavar="STREAM=TOPIC",
        help="transactions, labels or readings under another name")  # fmt: skip
    add("--outputs", type=_pair, action="append", default=[], metavar="PIPELINE=PREFIX",
        help="fraud or maintenance: PREFIX.scores, PREFIX.alerts, PREFIX.dead-letters")  # fmt: skip
    add("--embedded", action="store_true", help="the bus is python -m loadgen.bus: never let a fetch wait")
    add("--label-delay", type=_duration, default=LABEL_DELAY_S, help="from a transaction to its label (7d)")
    add("--no-labels", dest="labels", action="store_false", help="send no labels")
    add("--seconds", type=float, default=0.0, help="stop after so many seconds; 0: never (0)")
    add(
        "--events",
        type=int,
        default=0,
        help="stop after so many scored events of each pipeline; 0: never (0)",
    )
    add("--seed", type=int, default=0, help="the same seed sends the same events (0)")
    add("--mutate", type=float, default=0.0, metavar="SHARE", help="damage this share of the events (0)")
    add("--collect", action="store_true", help="read outcomes back even without --report")
    add("--drain", type=float, default=30.0, help="seconds to wait for missing outcomes (30)")
    add("--report", type=Path, help="write the report of the run as JSON")
    _add_pictures(parser)
    add("--quiet", action="store_true", help="no progress on standard error")


def _rate(text: str) -> float:
    rate = float(text)
    if rate < 0:
        raise argparse.ArgumentTypeError(f"found {text}, expected 0 or more events a second")
    return rate


def _rate_above_0(text: str) -> float:
    rate = _rate(text)
    if rate == 0:
        raise argparse.ArgumentTypeError("found 0, expected some records a second")
    return rate


def _duration(text: str) -> int:
    match = re.fullmatch(r"(\d+)([smhd])", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a duration like 30s, 5m, 12h or 7d")
    return int(match[1]) * _UNITS_S[match[2]]


def _date(text: str) -> date:
    try:
        return parse_date(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a day like 2018-06-18") from None


def _setting(text: str) -> tuple[str, str]:
    """A setting of the client, its value perhaps from a file."""
    name, value = _pair(text)
    if not value.startswith("@"):
        return name, value
    try:
        return name, Path(value[1:]).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"found no text in {value[1:]} ({error})") from error


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key or not value:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected NAME=VALUE")
    return key, value


if __name__ == "__main__":
    sys.exit(main())
