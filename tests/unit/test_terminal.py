"""Colours go to terminals, and what comes out of records cannot steer one."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.progress import progress_bar
from worker.terminal import cut, has_colours, painter, plain


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "env", "wanted"),
    [
        (Terminal(), {}, True),
        (io.StringIO(), {}, False),
        (Terminal(), {"NO_COLOR": "1"}, False),
        (Terminal(), {"NO_COLOR": ""}, True),
        (io.StringIO(), {"FORCE_COLOR": "1"}, True),
        (io.StringIO(), {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
        (Terminal(), {"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_unless_somebody_says_otherwise(
    stream: io.StringIO, env: dict[str, str], wanted: bool
) -> None:
    assert has_colours(stream, env) is wanted
    assert ("\x1b[31m" in painter(stream, env)("text", "red")) is wanted


def test_without_colours_text_is_what_it_was() -> None:
    assert painter(io.StringIO(), {})("text", "red") == plain("text", "red") == "text"


@given(st.text(), st.integers(1, 40))
def test_no_text_moves_the_cursor_or_is_longer_than_its_column(text: str, width: int) -> None:
    said = cut(text, width)

    assert len(said) <= width
    assert said.isprintable() or not said


def test_a_bar_that_nobody_would_see_is_not_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("reading", "records") as advance:
        advance(10, 20)

    assert capsys.readouterr() == ("", "")
