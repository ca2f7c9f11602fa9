"""What holds of every command: help, examples, --json or a reason, and a page that is in step."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from worker.cli import build_parser, main
from worker.cli_docs import DOCS_FILE, written_docs
from worker.cli_help import WITHOUT_JSON, Command, commands, example_lines
from worker.completion_command import SHELLS, script
from worker.exits import Exit

ALL = list(commands(build_parser()))


def _name(command: Command) -> str:
    return command.name


@pytest.mark.parametrize("command", ALL, ids=_name)
def test_every_command_says_what_it_does_and_shows_how(command: Command) -> None:
    assert command.about
    examples = example_lines(command.parser.epilog or "", command.name)
    assert examples, f"no example of {command.name} in its EXAMPLES or in those above it"
    assert examples[0].strip() in command.parser.format_help()


@pytest.mark.parametrize("command", ALL, ids=_name)
def test_every_argument_is_explained(command: Command) -> None:
    assert [action.dest for action in command.parser._actions if not action.help] == []


@pytest.mark.parametrize("command", ALL, ids=_name)
def test_every_command_takes_json_or_says_why_not(command: Command) -> None:
    assert command.has_json != (command.name in WITHOUT_JSON)


def test_no_exception_is_of_a_command_that_is_gone() -> None:
    assert set(WITHOUT_JSON) <= {command.name for command in ALL}


@pytest.mark.parametrize("command", ALL, ids=_name)
def test_examples_can_be_typed(command: Command) -> None:
    """Every example is taken by the parser, up to what a shell does with the rest of its line."""
    for line in example_lines(command.parser.epilog or "", command.name):
        words = line.strip().split()[1:]
        ends = [at for at, word in enumerate(words) if word in ("|", "<", ">", ">>", ">)")]
        words = [word.strip('"') for word in words[: ends[0] if ends else len(words)]]
        if "  " in line.strip():  # what follows two spaces is a comment
            words = line.strip().split("  ")[0].split()[1:]
        if '"' in line or command.name == "penstock demo":  # quoting is the shell's; demo has its own parser
            continue
        assert build_parser(words[0]).parse_args(words).command is not None, line


def test_one_command_is_as_it_is_among_all() -> None:
    for command in ALL:
        (alone,) = (c for c in commands(build_parser(command.name.split()[1])) if c.name == command.name)
        assert alone.parser.format_help() == command.parser.format_help()


def test_the_help_of_all_commands_loads_none_of_their_modules() -> None:
    heavy = "sorted(set(sys.modules) & {'numba', 'pyarrow', 'onnxruntime', 'confluent_kafka', 'pydantic'})"
    code = f"import sys, worker.cli as c; c.build_parser('').format_help(); print({heavy})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )

    assert done.stdout == "[]\n"


def test_the_page_of_commands_is_current() -> None:
    page = DOCS_FILE.read_text()

    assert page == written_docs(page), "run `python -m worker.cli_docs`"
    assert all(f"\n| {code.value} | {code.name} | " in page for code in Exit)


def test_a_wrong_word_is_a_usage_error_that_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["vaildate"])

    said = capsys.readouterr().err
    assert ended.value.code == Exit.USAGE
    assert "validate" in said


@pytest.mark.parametrize("shell", SHELLS)
def test_a_completion_script_knows_every_command_and_option(shell: str) -> None:
    pytest.importorskip("shtab")
    text = script(build_parser(), shell)

    for command in ALL:
        assert command.name.split()[-1] in text
        options = {
            o for a in command.parser._actions if a.help != argparse.SUPPRESS for o in a.option_strings
        }
        assert [option for option in options if option.lstrip("-") not in text] == []


def test_bash_completes_commands_and_options(tmp_path: Path) -> None:
    pytest.importorskip("shtab")
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash")
    file = tmp_path / "penstock.bash"
    file.write_text(script(build_parser(), "bash"))

    def completed(*words: str) -> set[str]:
        typed = f'COMP_WORDS=({" ".join(words[:-1])} "{words[-1]}"); COMP_CWORD={len(words) - 1}'
        line = f"""source {file}; {typed}
            complete_with=$(complete -p penstock | sed -E 's/.*-F ([^ ]+) .*/\\1/'); $complete_with penstock
            printf '%s\\n' "${{COMPREPLY[@]}}" """
        done = subprocess.run([bash, "-c", line], capture_output=True, text=True, timeout=30, check=True)
        return {word.strip() for word in done.stdout.split()}

    assert completed("penstock", "va") == {"validate"}
    assert {"list", "show", "replay"} <= completed("penstock", "dlq", "")
    assert completed("penstock", "topics", "create", "--dr") == {"--dry-run"}
