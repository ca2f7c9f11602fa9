"""Reads Markdown: fenced blocks with what the comment before them says, tables, links."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One fenced block of a page."""

    language: str
    text: str
    line: int


def pages() -> list[Path]:
    """Every page that readers are sent to."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str | None = None) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    found = [
        Block(language=m["language"], text=m["text"], line=text.count("\n", 0, m.start()) + 1)
        for m in _BLOCK.finditer(text)
    ]
    return [block for block in found if language is None or block.language == language]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row in a text, heads and rules left out."""
    lines = [line.strip() for line in text.splitlines()]
    found = []
    for at, line in enumerate(lines):
        is_head = at + 1 < len(lines) and re.fullmatch(r"\|[\s:|-]+\|", lines[at + 1] or " ")
        if line.startswith("|") and not is_head and not re.fullmatch(r"\|[\s:|-]+\|", line):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def marked(page: Path, name: str) -> str:
    """What stands between `<!-- name -->` and the next `<!-- end -->`."""
    match = re.search(rf"<!-- {re.escape(name)} -->\n(.*?)<!-- end -->", page.read_text(), re.DOTALL)
    assert match, f"{page.name} has no part marked {name}"
    return match[1]


def section(page: Path, title: str) -> str:
    """What stands under a heading, up to the next of its kind."""
    match = re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page.read_text(), re.MULTILINE | re.DOTALL
    )
    assert match, f"{page.name} has no section {title}"
    return match[1]


def links(page: Path) -> list[str]:
    """Targets of the links of a page that lead into the repository, without their anchors."""
    targets = [m["target"] for m in _LINK.finditer(_CODE.sub("", page.read_text()))]
    return [t.partition("#")[0] for t in targets if not t.startswith(("http:", "https:", "#"))]
