"""The `penstock` command."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from worker import __version__
from worker.backtest_commands import EXAMPLES as BACKTEST_EXAMPLES
from worker.backtest_commands import add_arguments as add_backtest_arguments
from worker.capacity_commands import EXAMPLES as CAPACITY_EXAMPLES
from worker.capacity_commands import add_arguments as add_capacity_arguments
from worker.config import ConfigError, Pipeline, load_pipeline
from worker.console_command import EXAMPLES as CONSOLE_EXAMPLES
from worker.console_command import add_arguments as add_console_arguments
from worker.dlq_commands import EXAMPLES as DLQ_EXAMPLES
from worker.dlq_commands import add_commands as add_dlq_commands
from worker.exits import Exit
from worker.explain import EXAMPLES as EXPLAIN_EXAMPLES
from worker.explain import add_arguments as add_explain_arguments
from worker.features_commands import EXAMPLES as FEATURES_EXAMPLES
from worker.features_commands import add_commands as add_features_commands
from worker.lag_command import EXAMPLES as LAG_EXAMPLES
from worker.lag_command import add_arguments as add_lag_arguments
from worker.logs import configure_logs
from worker.model_commands import EXAMPLES as MODEL_EXAMPLES
from worker.model_commands import add_commands as add_model_commands
from worker.profile_commands import EXAMPLES as PROFILE_EXAMPLES
from worker.profile_commands import add_commands as add_profile_commands
from worker.secret import redact
from worker.truth_command import EXAMPLES as TRUTH_EXAMPLES
from worker.truth_command import add_arguments as add_truth_arguments

_EXAMPLES = """examples:
  penstock demo --seconds 20                          both pipelines, simulated, no services needed
  penstock validate pipelines/fraud.yaml              what a file would do, and which feature feeds the model
  penstock run pipelines/fraud.yaml                   one member of the consumer group; start more to scale
  penstock run pipelines/fraud.yaml --processes 4     four members, a process each
  penstock run pipelines/fraud.yaml pipelines/terminal-risk.yaml
  penstock doctor pipelines/fraud.yaml                Kafka, Redis, registry, device, model: what works
  penstock dlq list pipelines/fraud.yaml              what could not be scored, and why
  penstock backtest pipelines/fraud.yaml --model fraud/1 --from 7d
  penstock explain pipelines/fraud.yaml 2 4711        why the event at this partition and offset got its score
  penstock truth pipelines/fraud.yaml                 how good the scores were, as labels tell
  penstock capacity pipelines/fraud.yaml --traffic 50000

exit codes:
""" + "\n".join(f"  {code.value:>2}  {code.meaning}" for code in Exit)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (worker.exits)."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["demo"]:
        # The load generator is a program of its own, so that nothing of it is ever loaded into a worker.
        # In our place, so that Ctrl-C reaches it alone and it can still print its summary.
        os.execv(sys.executable, [sys.executable, "-m", "loadgen.demo", *words[1:]])
    arguments = _parser().parse_args(words)
    try:
        return int(arguments.command(arguments))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return Exit.CONFIG
    except KeyboardInterrupt:
        return Exit.OK


def entry() -> None:
    """The console script."""
    sys.exit(main())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="penstock",
        description="Score a Kafka topic with an ONNX model.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"penstock {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, about: str, epilog: str = "") -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=about,
            description=about,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    run = command("run", "Run pipelines as a member of their consumer groups, until SIGTERM.")
    run.add_argument("files", nargs="+", type=Path, metavar="FILE", help="pipeline files; a thread each")
    run.add_argument(
        "--processes",
        type=_count,
        default=1,
        metavar="N",
        help="so many members of each group, a process each with the admin port of the file plus 0, 1, ...; "
        "when one ends, all end with its code",
    )
    run.add_argument(
        "--only-truth",
        action="store_true",
        help="do not score, only join labels with scores: for files whose truth.beside is false",
    )
    # What the processes are started with: which of them this is.
    run.add_argument("--member", type=int, default=None, help=argparse.SUPPRESS)
    run.set_defaults(command=_run)

    validate = command("validate", "Say what a pipeline file would do, or what is wrong with it.")
    validate.add_argument("file", type=Path, metavar="FILE")
    validate.add_argument("--json", action="store_true", help="for machines")
    validate.set_defaults(command=_validate)

    doctor = command("doctor", "Check Kafka, the store, the registry, the device and the model.")
    doctor.add_argument("file", type=Path, metavar="FILE")
    doctor.add_argument("--json", action="store_true", help="for machines")
    doctor.set_defaults(command=_doctor)

    dead = command("dlq", "List, show and replay the dead letters of a pipeline.", DLQ_EXAMPLES)
    add_dlq_commands(dead)

    console = command("console", "Serve the web page alone, of all workers that are heard.", CONSOLE_EXAMPLES)
    add_console_arguments(console)

    profiles = command("profiles", "Load the rows of profile features into the store.", PROFILE_EXAMPLES)
    add_profile_commands(profiles)

    models = command(
        "models", "Say which version of a model serves, compare versions, make lighter ones.", MODEL_EXAMPLES
    )
    add_model_commands(models)

    add_truth_arguments(command("truth", "How good the scores were, as labels tell.", TRUTH_EXAMPLES))

    backtest = command("backtest", "Score stored events again, and compare.", BACKTEST_EXAMPLES)
    add_backtest_arguments(backtest)

    features = command("features", "Export a training table; check for skew.", FEATURES_EXAMPLES)
    add_features_commands(features)

    explain = command("explain", "One event again: its features, score and reasons.", EXPLAIN_EXAMPLES)
    add_explain_arguments(explain)

    capacity = "What one worker can do here, and how many a traffic needs."
    add_capacity_arguments(command("capacity", capacity, CAPACITY_EXAMPLES))
    lag = command("lag", "How long records have waited for the group of a pipeline.", LAG_EXAMPLES)
    add_lag_arguments(lag)

    health = command("healthcheck", "Ask a worker on this host whether its loops make progress.")
    health.add_argument("--url", default=None, help="default http://127.0.0.1:$PENSTOCK_ADMIN_PORT/healthz")
    health.set_defaults(command=_healthcheck)

    commands.add_parser(
        "demo", help="Both pipelines on simulated traffic, on an embedded bus and an in-memory store."
    )
    return parser


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"found {count}, expected at least 1")
    return count


def _logs_for(pipelines: Sequence[Pipeline], process: int | None = None) -> None:
    from schemas.schema import load_schema

    secrets = {secret for pipeline in pipelines for secret in pipeline.secrets}
    personal = {
        field for p in pipelines for field in load_schema(p.source.schema_ref, p.base).personal_fields
    }
    configure_logs(secrets, personal, is_terminal=sys.stderr.isatty(), process=process)


def _run(arguments: argparse.Namespace) -> int:
    pipelines = [load_pipeline(file) for file in arguments.files]
    _logs_for(pipelines, arguments.member)
    if arguments.processes > 1:
        from worker.member import member
        from worker.processes import run_processes

        for pipeline in pipelines:
            member(pipeline, arguments.processes - 1)  # what no process could do stops the start
        run = [sys.executable, "-m", "worker.cli", "run", *map(str, arguments.files)]
        run += ["--only-truth"] if arguments.only_truth else []
        return run_processes([[*run, "--member", str(index)] for index in range(arguments.processes)])
    return _serve(pipelines, arguments.member, only_truth=arguments.only_truth)


def _serve(pipelines: list[Pipeline], index: int | None, *, only_truth: bool) -> int:
    from worker.service import serve

    if index is not None:
        from worker.member import member
        from worker.processes import leave_with_parent

        pipelines = [member(pipeline, index) for pipeline in pipelines]
        leave_with_parent()
    code = serve(pipelines, only_truth=only_truth)
    # Supervisors may ask twice: while the interpreter ends, that must not turn a good end into a killed one.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return code


def _validate(arguments: argparse.Namespace) -> int:
    from worker.validate import as_json, describe

    pipeline = load_pipeline(arguments.file)
    print(as_json(pipeline) if arguments.json else describe(pipeline))
    return Exit.OK


def _doctor(arguments: argparse.Namespace) -> int:
    from worker.doctor import examine, show

    pipeline = load_pipeline(arguments.file)
    findings = examine(pipeline)
    print(redact(show(findings, as_json=arguments.json), pipeline.secrets))
    return Exit.OK if all(finding.works for finding in findings) else Exit.UNHEALTHY


def _healthcheck(arguments: argparse.Namespace) -> int:
    url = arguments.url or f"http://127.0.0.1:{os.environ.get('PENSTOCK_ADMIN_PORT', '8080')}/healthz"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            print(answer.read().decode())
    except urllib.error.HTTPError as error:
        print(f"{url}: {error.code}: {error.read().decode()}", file=sys.stderr)
        return Exit.UNHEALTHY
    except OSError as error:
        print(f"{url}: no answer ({error}): is the worker running, is the port right?", file=sys.stderr)
        return Exit.UNHEALTHY
    return Exit.OK


if __name__ == "__main__":
    entry()
