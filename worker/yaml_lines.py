"""Reads YAML into plain values that remember the line they were written on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from worker.secret import Masked, is_literal_secret, is_secret_key, masked_url

INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
NAMED_VALUES: Mapping[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
SUBSTITUTION = re.compile(
    r"\$\$\{"  # $${ is a literal ${
    r"|\$\{file:(?P<file>[^{}]+)\}"
    r"|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<fallback>:-[^{}]*)?\}"
    r"|\$\{"  # anything else that opens like one is a mistake
)
PLAIN_TAGS = frozenset(["str", "int", "float", "bool", "null", "timestamp", "merge", "value", "map", "seq"])
MAX_DEPTH = 32
MAX_NODES = 20_000  # aliases counted each time: ten lines of them can stand for billions of values
MAX_FILE_BYTES = 4 << 20
MAX_SECRET_BYTES = 1 << 20

KeyPath = tuple[str | int, ...]


class ConfigError(Exception):
    """A file that cannot be used; the message is one line: FILE:LINE: key: found X, expected Y."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One YAML file: its plain value, and where each part of it stands."""

    path: Path
    value: Any
    lines: Mapping[KeyPath, int]  # 1-based; a mapping entry counts from its key
    texts: Mapping[KeyPath, str]  # each scalar as text, after substitution
    substituted: frozenset[KeyPath]  # scalars that held ${...}: their type is a guess
    secrets: frozenset[str]  # values that must not be logged
    literal_secrets: frozenset[KeyPath]  # where a secret is written in the file itself

    def line(self, path: KeyPath) -> int:
        """Return the line of the nearest part of `path` that is in the file."""
        while path not in self.lines and path:
            path = path[:-1]
        return self.lines.get(path, 1)

    def error(self, path: KeyPath, found: str, expected: str) -> ConfigError:
        """Return the one-line error for the part at `path`."""
        return config_error(self.path, self.line(path), path, found, expected)


def config_error(file: Path, line: int, path: KeyPath, found: str, expected: str) -> ConfigError:
    """Return the error `FILE:LINE: key.path: found X, expected Y`, always a single printable line."""
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")
    where = f"{key}: " if key else ""
    return ConfigError(printable(f"{file}:{line}: {where}found {found}, expected {expected}"))


def printable(text: str) -> str:
    """Return the text with line breaks and other control characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def show(value: object, *, at_most_chars: int = 80) -> str:
    """Return how a value reads in an error: as YAML would write it, cut short, secrets masked."""
    if isinstance(value, Masked):
        return repr(value)
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)
    return text if len(text) <= at_most_chars else f"{text[: at_most_chars - 4]}..."


def read_yaml(path: Path, env: Mapping[str, str], *, expand: bool = True) -> Document:
    """Read one YAML file, with `${VAR}`, `${VAR:-default}` and `${file:PATH}` put in where `expand`.

    Plain scalars follow the YAML 1.2 core types, as editors do: `no` is text, `0x10` is text.

    Raises:
        ConfigError: unreadable, not YAML, a key twice, a custom tag, or a substitution that fails.
    """
    root = _compose(path)
    reader = _Reader(path=path, env=env, expand=expand)
    value = reader.read(root, (), _line(root), frozenset())
    return Document(
        path=path,
        value=value,
        lines=reader.lines,
        texts=reader.texts,
        substituted=frozenset(reader.substituted),
        secrets=frozenset(reader.secrets),
        literal_secrets=frozenset(reader.literal_secrets),
    )


def _compose(path: Path) -> yaml.Node:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
        if len(raw) > MAX_FILE_BYTES:
            raise config_error(path, 1, (), "a longer file", f"at most {MAX_FILE_BYTES:,} bytes")
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise config_error(path, 1, (), error.strerror or str(error), "a readable file") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise config_error(path, line, (), f"byte 0x{error.object[error.start]:02x}", "UTF-8 text") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise config_error(path, line, (), error.problem or "broken YAML", "valid YAML") from None
    except yaml.reader.ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise config_error(path, line, (), f"character {error.character!r}", "printable text") from None
    except RecursionError:
        raise config_error(path, 1, (), "too many levels", f"at most {MAX_DEPTH} levels") from None
    if node is None:
        raise config_error(path, 1, (), "an empty file", "a mapping")
    return node


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


@dataclass(slots=True, kw_only=True)
class _Reader:
    path: Path
    env: Mapping[str, str]
    expand: bool
    lines: dict[KeyPath, int] = field(default_factory=dict)
    texts: dict[KeyPath, str] = field(default_factory=dict)
    substituted: set[KeyPath] = field(default_factory=set)
    secrets: set[str] = field(default_factory=set)
    literal_secrets: set[KeyPath] = field(default_factory=set)

    def read(self, node: yaml.Node, path: KeyPath, line: int, parents: frozenset[int]) -> Any:
        self.lines[path] = line
        if len(self.lines) > MAX_NODES:
            raise config_error(
                self.path, line, (), "too many values", f"at most {MAX_NODES:,}, aliases repeated"
            )
        if id(node) in parents or len(path) > MAX_DEPTH:
            raise config_error(self.path, line, path, "endless nesting", f"at most {MAX_DEPTH} levels")
        if node.tag.removeprefix("tag:yaml.org,2002:") not in PLAIN_TAGS:
            raise config_error(self.path, line, path, f"the tag {node.tag}", "a plain value")
        inside = parents | {id(node)}
        if isinstance(node, yaml.MappingNode):
            return {
                key: self.read(value, (*path, key), at, inside) for key, value, at in self._keys(node, path)
            }
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, i), _line(item), inside) for i, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _keys(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, yaml.Node, int]]:
        seen: dict[str, int] = {}
        for key, value in node.value:
            at = _line(key)
            if not isinstance(key, yaml.ScalarNode):
                raise config_error(self.path, at, path, "a list or mapping as a key", "text as a key")
            if key.value in seen:
                first = f"one entry (the first is on line {seen[key.value]})"
                raise config_error(self.path, at, (*path, key.value), "the key twice", first)
            seen[key.value] = at
            yield key.value, value, at

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text, from_file = self._expanded(node.value, path) if self.expand else (node.value, False)
        has_substitution = text != node.value or from_file
        if has_substitution:
            self.substituted.add(path)
        named = [part for part in path if isinstance(part, str)]
        is_nothing = node.style is None and text in NAMED_VALUES and NAMED_VALUES[text] is None
        is_secret = from_file or (bool(named) and is_secret_key(named[-1]) and not is_nothing)
        masked = Masked(text) if is_secret else masked_url(text)
        if isinstance(masked, Masked):
            self.secrets.update(masked.hidden)
            if is_literal_secret(node.value, is_secret and not has_substitution):
                self.literal_secrets.add(path)
        self.texts[path] = masked
        value = resolve(text) if node.style is None or has_substitution else text
        return masked if isinstance(value, str) else value

    def _expanded(self, text: str, path: KeyPath) -> tuple[str, bool]:
        from_file = False

        def replace(match: re.Match[str]) -> str:
            nonlocal from_file
            if match[0] == "$${":
                return "${"
            if match["file"]:
                from_file = True
                return self._file(match["file"], path)
            if match["name"]:
                return self._variable(match, path)
            expected = "${VAR}, ${VAR:-default} or ${file:PATH}"
            raise config_error(self.path, self.lines[path], path, "a ${ that is none of these", expected)

        return SUBSTITUTION.sub(replace, text), from_file

    def _variable(self, match: re.Match[str], path: KeyPath) -> str:
        name, fallback = match["name"], match["fallback"]
        value = self.env.get(name)
        if fallback is not None:  # as in a shell, :- also replaces an empty value
            return value or str(fallback[2:])
        if value is None:
            expected = f"the environment variable {name} to be set"
            raise config_error(self.path, self.lines[path], path, match[0], expected)
        return value

    def _file(self, name: str, path: KeyPath) -> str:
        file = self.path.parent / name
        try:
            value = _secret_of(file)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            expected = f"a readable file ({reason})"
            raise config_error(self.path, self.lines[path], path, f"${{file:{name}}}", expected) from None
        self.secrets.update({value} - {""})
        return value


def _secret_of(file: Path) -> str:
    """Return the text of a file of bounded size; a device or a pipe could go on for ever."""
    if file.exists() and not file.is_file():
        raise ValueError("it is not a file")
    with file.open("rb") as opened:
        raw = opened.read(MAX_SECRET_BYTES + 1)
    if len(raw) > MAX_SECRET_BYTES:
        raise ValueError(f"it is longer than {MAX_SECRET_BYTES:,} bytes")
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None


def resolve(text: str) -> Any:
    """Return the value that a plain YAML scalar stands for: nothing, a boolean, a number, or text."""
    if text in NAMED_VALUES:
        return NAMED_VALUES[text]
    if INTEGER.fullmatch(text):
        return int(text)
    if NUMBER.fullmatch(text):
        return float(text)
    return text
