"""A rule computes what it says, and an expression that is no rule is named instead of run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.rules import RuleError, parse_rule, scoring_rule

NAMES = ("amount", "customer.count_1d", "night")
ROWS = np.array([[300.0, 1, 0], [5, 30, 1], [5, 1, 0], [np.nan, 1, 1]])


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("amount > 220 or customer.count_1d > 20", [1, 1, 0, 0]),
        ("amount > 220\n  or night > 0", [1, 1, 0, 1]),
        ("amount >= 5 and amount <= 5", [0, 1, 1, 0]),
        ("0 < amount < 10", [0, 1, 1, 0]),
        ("not (night == 1) and amount != 5", [1, 0, 0, 0]),
        ("amount * 2 + 10 - -1 > 600", [1, 0, 0, 0]),
        ("amount / customer.count_1d < 1", [0, 1, 0, 0]),
        ("1 / night > 1e9", [1, 0, 1, 0]),
        ("1 > 0", [1, 1, 1, 1]),
        ("not amount > 5", [0, 1, 1, 1]),
    ],
)
def test_a_rule_holds_where_its_expression_does(text: str, holds: list[int]) -> None:
    found = parse_rule(text, NAMES)(ROWS)

    assert found.dtype == np.bool_
    assert found.tolist() == [bool(h) for h in holds]
    assert parse_rule(text, NAMES)(ROWS[:0]).shape == (0,)


def test_a_rule_gives_the_score_that_the_file_says() -> None:
    assert scoring_rule("amount > 220", NAMES, (130.0, 0.0))(ROWS).tolist() == [0.0, 130.0, 130.0, 130.0]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("amout > 3", "found `amout`, expected a feature, such as amount"),
        ("customer > 3", "found `customer`, expected a feature, such as customer.count_1d"),
        ("amount", "found `amount`, expected a comparison, such as amount > 220"),
        ("amount and night > 0", "found `amount`, expected a comparison"),
        ("(amount > 3) + 1 > 1", "found `amount > 3`, expected a feature, a number, or"),
        ("amount >", "found invalid syntax at character"),
        ("amount = 3", "found invalid syntax at character 8"),
        ("amount > 'x'", "found `'x'`, expected a feature"),
        ("amount > True", "found `True`, expected a feature"),
        ("amount > 1e400", "found `1e400`, expected a feature"),
        ("amount ** 9 > 1", "found `amount ** 9`, expected a feature"),
        ("amount in [1]", "expected a"),
        ("amount > 3 # really", "found `#`, expected a rule of"),
        ("amount > " + "-" * 200 + "1", "deep, expected at most 100"),
        ("amount > " + "1 +" * 1000 + "1", "characters, expected at most 2000"),
    ],
)
def test_what_is_no_rule_is_named(text: str, said: str) -> None:
    with pytest.raises(RuleError) as caught:
        parse_rule(text, NAMES)

    assert said in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true') > 0",
        "amount.__class__.__mro__ > 0",
        "(1).__class__ > 0",
        "(lambda: 1)() > 0",
        "[x for x in (1,)][0] > 0",
        "(amount := 3) > 0",
        "f'{amount}' > 0",
        "open > 0",
    ],
)
def test_an_expression_reaches_nothing_but_features(text: str) -> None:
    with pytest.raises(RuleError):
        parse_rule(text, NAMES)


WORDS = st.sampled_from(
    [*NAMES, "0", "1.5", "(", ")", "+", "-", "/", ">", "<=", "and", "or", "not", ".", "\0"]
)


@given(st.one_of(st.text(), st.lists(WORDS).map(" ".join)))
def test_any_text_is_a_rule_or_named(text: str) -> None:
    try:
        rule = parse_rule(text, NAMES)
    except RuleError:
        return
    assert rule(ROWS).shape == (len(ROWS),)
