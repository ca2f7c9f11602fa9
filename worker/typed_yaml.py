"""Turns a YAML document into a typed value, or its first mistake into one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from feature_cache.redis_address import FORMS
from worker.yaml_lines import ConfigError, Document, KeyPath, show

T = TypeVar("T")
KINDS = frozenset({"field", "calendar", "window", "sequence", "lookup"})
NOT_TEXT = frozenset({"string_type", "path_type"})
EXPECTED: Mapping[str, str] = {
    "missing": "a value, the key is required",
    "missing_argument": "a value, the key is required",
    "missing_keyword_only_argument": "a value, the key is required",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "string_type": "text (quote it if it looks like something else)",
    "path_type": "a path",
    "string_too_short": "text that is not empty",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
}
PATTERNS = {
    "^[a-z][a-z0-9-]{0,62}$": "lower-case letters, digits and dashes, at most 63, a letter first",
    "^[a-zA-Z][a-zA-Z0-9_]{0,62}$": "letters, digits and underscores, at most 63, a letter first",
    "^[a-zA-Z0-9._-]{1,249}$": "a topic name (letters, digits, dots, dashes, underscores)",
    "^[A-Za-z_][A-Za-z0-9_]*$": "the name of an event field",
    r"^(label|alert)\.[A-Za-z_][A-Za-z0-9_.]*$": "label.FIELD or alert.FEATURE",
    r"^(label|score)\.[A-Za-z_][A-Za-z0-9_]*$": "label.FIELD or score.FIELD",
    "^[A-Za-z0-9_.:-]{1,64}$": "letters, digits, dots, dashes, colons and underscores, at most 64",
    r"^(memory|rediss?(\+(cluster|sentinel))?)://": FORMS,
    "^(auto|cpu|(cuda|tensorrt):[0-9]{1,3})$": "one of auto, cpu, cuda:N, tensorrt:N",
    r"^\S+$": "text without spaces",
    "^[0-9a-f]{64}$": "64 hexadecimal digits",
    "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$": "letters, digits, dots, dashes and underscores, at most 63",
}


def parse(document: Document, adapter: TypeAdapter[T], **given: object) -> T:
    """Return the document as the adapter's type; `given` are fields that no file may hold.

    Raises:
        ConfigError: the first mistake by line.
    """
    value = document.value
    if isinstance(value, dict):
        for key in given:
            if key in value:
                known = _known_keys(adapter, value, (), given)
                raise document.error((key,), "an unknown key", _one_of(known))
        value = {**value, **given}
    for path, text in document.texts.items():  # librdkafka reads its settings as text: 007 must stay 007
        if path[:2] == ("kafka", "properties") and len(path) == 3 and _get(value, path) is not None:
            _put(value, path, text)
    try:
        return _validate(document, adapter, value)
    except ValidationError as error:
        paths = {_path(details["loc"]) for details in error.errors()}
        mistakes = [
            _mistake(document, adapter, details, given)
            for details in error.errors()
            if not _holds_another(_path(details["loc"]), paths)
        ]
        raise min(mistakes, key=lambda pair: pair[0])[1] from None


def _holds_another(path: KeyPath, paths: set[KeyPath]) -> bool:
    # A list whose items are wrong is also too short, as pydantic counts only the good ones.
    return any(other != path and other[: len(path)] == path for other in paths)


def _validate(document: Document, adapter: TypeAdapter[T], value: Any) -> T:
    context = {"base": document.path.parent}
    try:
        return adapter.validate_python(value, by_alias=True, by_name=False, context=context)
    except ValidationError as error:
        # What ${VAR} stands for looked like a number, but text belongs here: take it as text.
        paths = {_path(details["loc"]) for details in error.errors() if details["type"] in NOT_TEXT}
        guessed = [path for path in paths & document.substituted if document.texts[path]]
        if not guessed:
            raise
        for path in guessed:
            _put(value, path, document.texts[path])
        return adapter.validate_python(value, by_alias=True, by_name=False, context=context)


def _put(root: Any, path: KeyPath, value: str) -> None:
    for part in path[:-1]:
        root = root[part]
    root[path[-1]] = value


def _get(root: Any, path: KeyPath) -> Any:
    for part in path:
        try:
            root = root[part]
        except (KeyError, IndexError, TypeError):
            return None
    return root


def _path(loc: Sequence[str | int]) -> KeyPath:
    """Return the key path of pydantic's location, which also names union members and dict keys."""
    path = tuple(part for part in loc if part != "[key]")
    if len(path) > 2 and path[0] == "features" and path[2] in KINDS:
        path = path[:2] + path[3:]
    return path


def _mistake(
    document: Document, adapter: TypeAdapter[Any], details: ErrorDetails, given: Mapping[str, object]
) -> tuple[int, ConfigError]:
    path, kind, context = _path(details["loc"]), details["type"], details.get("ctx", {})
    if kind == "wrong":
        path += tuple(context["at"])
        found, expected = context["found"] or show(_get(document.value, path)), context["expected"]
    elif kind == "unexpected_keyword_argument":
        known = _known_keys(adapter, document.value, path[:-1], given)
        near = get_close_matches(str(path[-1]), known, n=1)
        found, expected = "an unknown key", near[0] if near else _one_of(known)
    elif kind in ("union_tag_invalid", "union_tag_not_found"):
        path += ("kind",)
        found, expected = show(_get(document.value, path)), _one_of(sorted(KINDS))
    else:
        is_key = details["loc"][-1:] == ("[key]",)
        found = f"the name {show(path[-1])}" if is_key else show(_get(document.value, path))
        expected = _expected(details)
    return document.line(path), document.error(path, found, expected)


def _expected(details: ErrorDetails) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if kind == "string_pattern_mismatch":
        return PATTERNS[context["pattern"]]
    if kind == "literal_error":
        values = str(context["expected"]).replace("' or '", "', '").replace("'", "")
        return f"one of {values}" if ", " in values else values
    if kind == "too_short":
        return f"at least {context['min_length']} item{'s' if context['min_length'] > 1 else ''}"
    if kind == "too_long":
        return f"at most {context['max_length']} items"
    if kind in EXPECTED:
        return EXPECTED[kind].format(**context)
    return details["msg"]


def _one_of(names: Sequence[str]) -> str:
    return f"one of {', '.join(names)}" if len(names) > 1 else "".join(names)


def _known_keys(
    adapter: TypeAdapter[Any], value: Any, path: KeyPath, given: Mapping[str, object]
) -> list[str]:
    """Return the keys that the mapping at `path` may have, in the order of the documentation."""
    schema = adapter.json_schema(by_alias=True)
    node = _resolve(schema, schema, value)
    for part in path:
        value = _get(value, (part,))
        inner = node.get("properties", {}).get(part) or node.get("items")
        inner = inner or next(iter(node.get("patternProperties", {}).values()), {})
        node = _resolve(schema, inner, value)
    return [key for key in node.get("properties", {}) if path or key not in given]


def _resolve(schema: Mapping[str, Any], node: Any, value: Any) -> Mapping[str, Any]:
    """Return the schema node itself: references followed, the member of a union chosen."""
    if "discriminator" in node:
        reference = node["discriminator"]["mapping"].get(_get(value, ("kind",)))
        return _resolve(schema, {"$ref": reference}, value) if reference else {}
    if "anyOf" in node:
        return _resolve(schema, node["anyOf"][0], value)
    if "$ref" in node:
        return _resolve(schema, schema["$defs"][node["$ref"].rsplit("/", 1)[1]], value)
    return dict(node)
