"""The `penstock` command."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from worker import __version__
from worker.cli_help import with_examples
from worker.exits import Exit
from worker.yaml_lines import ConfigError

if TYPE_CHECKING:
    from worker.config import Pipeline

# What each command is, and the module that has its arguments and its examples; imported only when it is asked
# for: all of them together take two seconds.
_COMMANDS = (
    ("init", "Write a pipeline file from an Avro schema and an ONNX file.", "worker.init_command"),
    ("topics", "Create the topics that a pipeline names.", "worker.topics_command"),
    ("send", "Send events to a pipeline's input topic.", "worker.send_command"),
    ("tail", "Show what a pipeline publishes as it comes.", "worker.tail_command"),
    ("capacity", "What one worker can do here, and how many a traffic needs.", "worker.capacity_commands"),
    ("console", "Serve the web page alone, of all workers that are heard.", "worker.console_command"),
    ("lag", "How long records have waited for the group of a pipeline.", "worker.lag_command"),
    ("dlq", "List, show and replay the dead letters of a pipeline.", "worker.dlq_commands"),
    ("profiles", "Load the rows of profile features into the store.", "worker.profile_commands"),
    (
        "models",
        "Say which version of a model serves, compare versions, make lighter ones.",
        "worker.model_commands",
    ),
    ("truth", "How good the scores were, as labels tell.", "worker.truth_command"),
    ("backtest", "Score stored events again, and compare.", "worker.backtest_commands"),
    ("features", "Export a training table; check for skew.", "worker.features_commands"),
    ("explain", "One event again: its features, score and reasons.", "worker.explain"),
    ("completion", "Print the completion script of a shell.", "worker.completion_command"),
)

_EXAMPLES = """examples:
  penstock demo --seconds 20                          both pipelines, simulated, no services needed
  penstock init reading.avsc model.onnx               a pipeline file for a schema and a model of your own
  penstock validate pipelines/fraud.yaml              what a file would do, and which feature feeds the model
  penstock run pipelines/fraud.yaml                   one member of the consumer group; start more to scale
  penstock run pipelines/fraud.yaml --processes 4     four members, a process each
  penstock run pipelines/fraud.yaml pipelines/terminal-risk.yaml
  penstock doctor pipelines/fraud.yaml                Kafka, Redis, registry, device, model: what works
  penstock healthcheck                                does the worker on this host make progress?
  penstock topics create pipelines/fraud.yaml         the topics that the file names, as they have to be
  penstock tail alerts pipelines/fraud.yaml           alerts as they come
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
    arguments = build_parser(words[0] if words else "").parse_args(words)
    try:
        code = int(arguments.command(arguments))
        sys.stdout.flush()  # so that a reader who has gone is noticed here
        return code
    except BrokenPipeError:
        # Whoever read us has what they wanted, as `| head` does; Python must not write the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except ConfigError as error:
        print(error, file=sys.stderr)
        return Exit.CONFIG
    except KeyboardInterrupt:
        return Exit.OK


def entry() -> None:
    """The console script."""
    code = main()
    # Supervisors may ask twice: while the interpreter ends, that must not turn a good end into a killed one.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(code)


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """Every command with its arguments; the shells' completion and docs/cli.md are made from it.

    Args:
        only: the command whose arguments are needed; the others have none then.
    """
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
    validate.add_argument("file", type=Path, metavar="FILE", help="pipeline file")
    validate.add_argument("--json", action="store_true", help="for machines")
    validate.set_defaults(command=_validate)

    doctor = command("doctor", "Check Kafka, the store, the registry, the device and the model.")
    doctor.add_argument("file", type=Path, metavar="FILE", help="pipeline file")
    doctor.add_argument("--json", action="store_true", help="for machines")
    doctor.set_defaults(command=_doctor)

    for name, about, module in _COMMANDS:
        if only in (None, name):
            found = import_module(module)
            add = found.add_commands if hasattr(found, "add_commands") else found.add_arguments
            add(command(name, about, found.EXAMPLES))
        else:
            command(name, about)

    health = command("healthcheck", "Ask a worker on this host whether its loops make progress.")
    health.add_argument("--url", default=None, help="default http://127.0.0.1:$PENSTOCK_ADMIN_PORT/healthz")
    health.set_defaults(command=_healthcheck)

    command("demo", "Both pipelines on simulated traffic, on an embedded bus and an in-memory store.")
    return with_examples(parser)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"found {count}, expected at least 1")
    return count


def _logs_for(pipelines: Sequence[Pipeline], process: int | None = None) -> None:
    from schemas.schema import load_schema
    from worker.logs import configure_logs

    secrets = {secret for pipeline in pipelines for secret in pipeline.secrets}
    personal = {
        field for p in pipelines for field in load_schema(p.source.schema_ref, p.base).personal_fields
    }
    configure_logs(secrets, personal, is_terminal=sys.stderr.isatty(), process=process)


def _run(arguments: argparse.Namespace) -> int:
    from worker.config import load_pipeline

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
    return serve(pipelines, only_truth=only_truth)


def _validate(arguments: argparse.Namespace) -> int:
    from worker.config import load_pipeline
    from worker.validate import as_json, describe

    pipeline = load_pipeline(arguments.file)
    print(as_json(pipeline) if arguments.json else describe(pipeline))
    return Exit.OK


def _doctor(arguments: argparse.Namespace) -> int:
    from worker.config import load_pipeline
    from worker.doctor import examine, show
    from worker.secret import redact
    from worker.terminal import painter

    pipeline = load_pipeline(arguments.file)
    findings = examine(pipeline)
    print(redact(show(findings, as_json=arguments.json, paint=painter(sys.stdout)), pipeline.secrets))
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
