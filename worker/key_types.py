"""The values that keys of a pipeline file take: durations, sizes, names, text that may be secret, paths."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    Strict,
    ValidationInfo,
    WrapValidator,
)
from pydantic import WithJsonSchema as Written
from pydantic_core import PydanticCustomError

from feature_cache.redis_address import parse_address
from worker.secret import STARS, Masked, shown

UNITS_US: Mapping[str, int] = {
    "us": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
}
UNITS_BYTES: Mapping[str, int] = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
DURATION = r"^[0-9]{1,9}(us|ms|s|m|h|d)$"
SIZE = r"^[0-9]{1,9}(B|KiB|MiB|GiB)$"
MAX_DURATION_US = 36_500 * UNITS_US["d"]  # a century; far inside int64 microseconds
NAME = r"^[a-z][a-z0-9-]{0,62}$"
FEATURE_NAME = r"^[a-zA-Z][a-zA-Z0-9_]{0,62}$"  # no dot: it separates a group from its aggregate
VERSION = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
TOPIC = r"^[a-zA-Z0-9._-]{1,249}$"
MIN_SECRET_CHARS = 16
STORE = r"^(memory|rediss?(\+(cluster|sentinel))?)://"


def wrong(found: str, expected: str, *at: str | int) -> PydanticCustomError:
    """Return an error: what was found (empty: the value itself), what was expected, `at` which inner key."""
    context = {"found": found, "expected": expected, "at": at}
    return PydanticCustomError("wrong", "found {found}, expected {expected}", context)


def parse_duration_us(text: str) -> int:
    """Return a duration such as `5ms`, `1h` or `30d` in microseconds.

    Raises:
        ValueError: not written like that, or longer than a century.
    """
    match = re.fullmatch(r"([0-9]{1,9})(us|ms|s|m|h|d)", text)
    if match is None or (value := int(match[1]) * UNITS_US[match[2]]) > MAX_DURATION_US:
        raise ValueError(text)
    return value


def parse_size_bytes(text: str) -> int:
    """Return a size such as `64KiB` or `1MiB` in bytes.

    Raises:
        ValueError: not written like that.
    """
    match = re.fullmatch(r"([0-9]{1,9})(B|KiB|MiB|GiB)", text)
    if match is None:
        raise ValueError(text)
    return int(match[1]) * UNITS_BYTES[match[2]]


def write_duration(value_us: float) -> str:
    """Return the shortest writing of a duration, the inverse of `parse_duration_us`."""
    unit = next(u for u in reversed(tuple(UNITS_US)) if value_us % UNITS_US[u] == 0) if value_us else "s"
    return f"{int(value_us // UNITS_US[unit])}{unit}"


def write_size(value_bytes: int) -> str:
    """Return the shortest writing of a size, the inverse of `parse_size_bytes`."""
    unit = (
        next(u for u in reversed(tuple(UNITS_BYTES)) if value_bytes % UNITS_BYTES[u] == 0)
        if value_bytes
        else "B"
    )
    return f"{value_bytes // UNITS_BYTES[unit]}{unit}"


def _in_file(info: ValidationInfo) -> bool:
    # Code may say max_wait_ms=5.0; a file must say the unit.
    return info.context is not None


def _duration(per_us: int, expected: str, *, fraction: bool = False) -> BeforeValidator:
    def parse(value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, str):
            if _in_file(info):
                raise wrong("", expected)
            return value
        try:
            value_us = parse_duration_us(value)
        except ValueError:
            raise wrong("", expected) from None
        if fraction:
            return value_us / per_us
        if value_us % per_us:
            raise wrong("", f"{expected}, in whole milliseconds")
        return value_us // per_us

    return BeforeValidator(parse)


def _size(value: Any, info: ValidationInfo) -> Any:
    expected = "a size such as 64KiB or 1MiB"
    if not isinstance(value, str):
        if _in_file(info):
            raise wrong("", expected)
        return value
    try:
        return parse_size_bytes(value)
    except ValueError:
        raise wrong("", expected) from None


def _window(value: Any) -> Any:
    try:
        length_us = parse_duration_us(value) if isinstance(value, str) else 0
    except ValueError:
        length_us = 0
    if length_us <= 0:
        raise wrong("", "a duration such as 1h or 30d")
    return value


def _keep_mask(value: Any, check: Any) -> Any:
    checked = check(value)
    return value if isinstance(value, Masked) else checked


def _store(value: str) -> str:
    if not value.startswith("memory:"):
        try:
            parse_address(value)
        except ValueError as error:
            # Not the address as found: it may have a password where none belongs.
            raise wrong("an address that cannot be read", f"a better one ({error})") from None
    return value


def _secret(value: Any) -> Any:
    if isinstance(value, str) and len(value) < MIN_SECRET_CHARS:
        raise wrong(f"{len(value)} characters", f"at least {MIN_SECRET_CHARS}, so that nobody can guess it")
    return value


def _stars(value: str | None) -> str | None:
    return None if value is None else STARS


def _from_base(value: Any, info: ValidationInfo) -> Any:
    if isinstance(value, str) and info.context is not None:
        return Path(os.path.normpath(info.context["base"] / value))
    return value


A_DURATION = "a duration such as 500ms, 1s or 2h"
_written_duration = Written({"type": "string", "pattern": DURATION, "examples": ["5ms", "1s", "2h", "30d"]})
_us_as_text = PlainSerializer(write_duration)
_ms_as_text = PlainSerializer(lambda value_ms: write_duration(round(value_ms * 1000)))

Int = Annotated[int, Strict()]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Field(min_length=1), WrapValidator(_keep_mask), PlainSerializer(shown)]
Secret = Annotated[
    str, BeforeValidator(_secret), Field(min_length=1), WrapValidator(_keep_mask), PlainSerializer(_stars)
]
Store = Annotated[
    str, Field(pattern=STORE), AfterValidator(_store), WrapValidator(_keep_mask), PlainSerializer(shown)
]
Topic = Annotated[str, Field(pattern=TOPIC)]
FieldName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
DurationUs = Annotated[int, _duration(1, A_DURATION), Strict(), Field(ge=0), _us_as_text, _written_duration]
DurationMs = Annotated[
    int, _duration(1000, A_DURATION), Strict(), Field(ge=0), _ms_as_text, _written_duration
]
WaitMs = Annotated[
    float,
    _duration(1000, A_DURATION, fraction=True),
    Strict(),
    Field(ge=0),
    _ms_as_text,
    _written_duration,
]
Window = Annotated[str, BeforeValidator(_window), _written_duration]
SizeBytes = Annotated[
    int,
    BeforeValidator(_size),
    Strict(),
    Field(ge=1),
    PlainSerializer(write_size),
    Written({"type": "string", "pattern": SIZE, "examples": ["64KiB", "1MiB"]}),
]


def _from_base_or_url(value: Any, info: ValidationInfo) -> Any:
    return value if isinstance(value, str) and "://" in value else _from_base(value, info)


Repository = Annotated[
    Path | str,
    BeforeValidator(_from_base_or_url),
    PlainSerializer(str),
    Written({"type": "string", "minLength": 1}),
]
PathInFile = Annotated[
    Path, BeforeValidator(_from_base), PlainSerializer(str), Written({"type": "string", "minLength": 1})
]
