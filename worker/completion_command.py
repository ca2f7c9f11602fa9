"""`penstock completion`: the script that lets a shell complete commands, options and files."""

from __future__ import annotations

import argparse
from pathlib import Path

from worker.exits import Exit
from worker.yaml_lines import ConfigError

SHELLS = ("bash", "zsh", "fish")
EXAMPLES = """examples:
  penstock completion bash > ~/.local/share/bash-completion/completions/penstock
  penstock completion zsh > "${fpath[1]}/_penstock"
  penstock completion fish > ~/.config/fish/completions/penstock.fish
  source <(penstock completion bash)                             in this terminal only"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser of `penstock completion` its arguments."""
    parser.add_argument("shell", choices=SHELLS, help="whose script")
    parser.set_defaults(command=_completion)


def _completion(arguments: argparse.Namespace) -> int:
    from worker.cli import build_parser

    print(script(build_parser(), arguments.shell))
    return Exit.OK


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for one of SHELLS; it names all commands, so completing starts no Python.

    Raises:
        ConfigError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise ConfigError("completion needs shtab: pip install 'penstock[completion]'") from error

    _complete_files(parser)
    written: str = shtab.complete(parser, shell)
    return written


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Let what is a path be completed as one."""
    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                _complete_files(child)
        elif action.type is Path:
            folder = (action.metavar or "") in ("FOLDER", "DIR")
            action.complete = shtab.DIRECTORY if folder else shtab.FILE  # type: ignore[attr-defined]
