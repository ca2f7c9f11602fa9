"""Log lines are JSON, and show neither secrets nor persons."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import structlog

from feature_cache.rows import HotRows, WrongLaneError
from tests.unit.test_rows import LAYOUT
from worker.logs import configure_logs
from worker.secret import STARS

SECRET = "hunter2-and-more"


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    """Other tests log as they did."""
    yield
    structlog.reset_defaults()


def logged(capsys: pytest.CaptureFixture[str], **fields: Any) -> tuple[str, dict[str, Any]]:
    """The line that an event with these fields becomes, raw and parsed."""
    configure_logs([SECRET], ["customer_id"])
    structlog.get_logger(pipeline="p").info("something happened", **fields)
    line = capsys.readouterr().err
    parsed: dict[str, Any] = json.loads(line)
    return line, parsed


def test_a_line_says_what_where_and_when(capsys: pytest.CaptureFixture[str]) -> None:
    _, said = logged(capsys, partition=3)

    assert said["event"] == "something happened"
    assert (said["pipeline"], said["level"], said["partition"]) == ("p", "info", 3)
    assert said["timestamp"].endswith("Z")


@pytest.mark.parametrize("text", [SECRET, f"password={SECRET}&x", f"{SECRET}{SECRET}"])
def test_a_secret_is_masked_wherever_in_a_text_it_stands(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    line, said = logged(capsys, why=text)

    assert SECRET not in line
    assert STARS in said["why"]


def test_a_secret_in_a_traceback_is_masked(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs([SECRET])
    try:
        raise RuntimeError(f"cannot log in with {SECRET}")
    except RuntimeError as error:
        structlog.get_logger().error("failed", exc_info=error)

    line = capsys.readouterr().err
    assert SECRET not in line
    assert "RuntimeError" in line


def test_a_secret_is_masked_for_a_terminal_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs([SECRET], is_terminal=True)

    structlog.get_logger().info("hello", why=SECRET)

    assert SECRET not in capsys.readouterr().err


@pytest.mark.parametrize("value", ["c-17", 17, b"c-17", None, ["c-17"]])
def test_a_personal_field_is_masked_whatever_its_type(
    capsys: pytest.CaptureFixture[str], value: object
) -> None:
    line, said = logged(capsys, customer_id=value)

    assert said["customer_id"] == STARS
    assert "c-17" not in line


@pytest.mark.parametrize(
    "fields",
    [
        {"settings": {"sasl.password": SECRET}},
        {"arguments": ["--password", SECRET]},
        {"error": RuntimeError(SECRET)},
        {"raw": SECRET.encode()},
        {"row": {"customer_id": SECRET}},
    ],
)
def test_a_secret_inside_another_value_is_masked(
    capsys: pytest.CaptureFixture[str], fields: dict[str, Any]
) -> None:
    line, _ = logged(capsys, **fields)

    assert SECRET not in line


def test_an_error_that_stops_the_worker_names_no_customer() -> None:
    rows = HotRows(LAYOUT, 2)
    slots = rows.add([b"customer-4711"], 0)

    with pytest.raises(WrongLaneError) as stopped:
        rows.check_lane(slots, np.array([1], np.int32))

    assert "4711" not in str(stopped.value)
