"""The README in Japanese says what the English one says: same commands, figures, headings and links."""

from __future__ import annotations

import re

import pytest

from tests.docs.numbers import FIGURE, JAPANESE, README, in_step
from tests.docs.pages import blocks, rows

LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
CODE = re.compile(r"`[^`\n]+`")


def test_every_block_to_type_or_to_copy_is_the_same() -> None:
    assert [(block.language, block.text) for block in blocks(JAPANESE)] == [
        (block.language, block.text) for block in blocks(README)
    ]


def test_every_heading_paragraph_and_bullet_has_its_counterpart() -> None:
    def outline(text: str) -> list[str]:
        """Of each part between blank lines how it begins, and how many bullets it has."""
        parts = re.sub(r"(?ms)^```.*?^```$", "```", text).split("\n\n")
        begins = [re.match(r"#+ |- |\||!|```|<!--|\*\*", part.strip()) for part in parts]
        return [
            f"{begin[0] if begin else 'text'} {len(re.findall('(?m)^- ', part))}"
            for begin, part in zip(begins, parts, strict=True)
        ]

    assert outline(JAPANESE.read_text()) == outline(README.read_text())


def test_every_row_of_a_table_has_the_same_figures_and_the_same_code() -> None:
    def facts(text: str) -> list[tuple[list[str], list[str]]]:
        joined = [" ".join(row) for row in rows(text)]
        return [(FIGURE.findall(row), sorted(CODE.findall(row))) for row in joined]

    assert facts(JAPANESE.read_text()) == facts(README.read_text())


def test_the_measured_figures_are_those_of_the_english_one_in_prose_too() -> None:
    text = JAPANESE.read_text()

    assert in_step(text, README.read_text()) == text, "run `python -m tests.docs.numbers`"


def test_it_leads_to_the_same_pages_and_each_leads_to_the_other() -> None:
    def targets(text: str) -> list[str]:
        return sorted(
            match["target"] for match in LINK.finditer(text) if not match["target"].startswith("README")
        )

    assert targets(JAPANESE.read_text()) == targets(README.read_text())
    assert "](README.ja.md)" in README.read_text()
    assert "](README.md)" in JAPANESE.read_text()


def test_a_new_measurement_reaches_the_translation_and_a_new_row_asks_for_a_person() -> None:
    page = "<!-- speed -->\n| {} | 3 | {} |\n<!-- end -->\n<!-- numbers -->\n{}\n<!-- end -->"
    english = page.format("alone", "1,234.5", "7")

    assert in_step(page.format("単独", "9", "8"), english) == page.format("単独", "1,234.5", "7")
    with pytest.raises(ValueError, match="found 2 figures in the translation, expected 3"):
        in_step(page.format("単独", "9", "8"), english.replace("| 3 |", "| 3 | 4 |"))
