"""What is common to the help of all commands: a walk over them, and examples for each."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

# Commands whose result is not data, or is for machines already, and why.
WITHOUT_JSON: Final[Mapping[str, str]] = {
    "penstock run": "its log lines are JSON wherever stderr is no terminal",
    "penstock healthcheck": "prints the worker's answer, which is JSON",
    "penstock console": "serves a page, and its data as JSON under /console/api",
    "penstock demo": "its last line is JSON wherever stdout is no terminal",
    "penstock completion": "prints a script for a shell",
    "penstock models interval": "prints YAML, to be appended to a model's card",
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Command:
    """One command that can be typed, such as `penstock dlq list`."""

    name: str
    about: str
    parser: argparse.ArgumentParser

    @property
    def has_json(self) -> bool:
        """Whether it takes --json."""
        return "--json" in self.parser._option_string_actions


def commands(parser: argparse.ArgumentParser) -> Iterator[Command]:
    """Every command under a parser, in the order of its help; groups are passed through."""
    for name, about, child in _children(parser):
        if any(True for _ in _children(child)):
            yield from commands(child)
        else:
            yield Command(name=name, about=about or child.description or "", parser=child)


def with_examples(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """The parser, each command of which shows the examples of the groups above it that are its own.

    So an example is written once, where its group is described. A command that says its own keeps them.
    """
    _hand_down(parser, parser.epilog or "")
    return parser


def _hand_down(parser: argparse.ArgumentParser, above: str) -> None:
    for name, about, child in _children(parser):
        child.description = child.description or about
        child.formatter_class = argparse.RawDescriptionHelpFormatter
        known = "\n".join(filter(None, (child.epilog, above)))
        if not child.epilog and (own := example_lines(known, name)):
            child.epilog = "\n".join(["examples:", *own])
        _hand_down(child, known)


def example_lines(text: str, name: str) -> list[str]:
    """The lines of a text that are examples of a command, each once."""
    lines = [line for line in text.splitlines() if f"{line.strip()} ".startswith(f"{name} ")]
    return list(dict.fromkeys(lines))


def _children(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    # argparse has no public way to ask; shtab walks the same attributes.
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            about = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, child in action.choices.items():
                yield f"{parser.prog} {name}", about.get(name, ""), child
