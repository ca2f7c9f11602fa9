"""The site builds strictly and asks nobody else for anything; its links, anchors and pictures are whole."""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.docs.pages import ROOT, blocks, pages

DOCS = ROOT / "docs"
LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
# Where a page says what a browser loads without being asked.
LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("link", "href")}


def _build(root: Path, out: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a project strictly, with no way out to other machines."""
    away = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")}
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=root, env={**os.environ, **away, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning of any kind fails the build."""
    out = tmp_path_factory.mktemp("site")
    done = _build(ROOT, out)
    assert done.returncode == 0, done.stderr
    return out


class _Page(HTMLParser):
    """What a page loads, and the text of its paragraphs outside of code."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.prose = ""
        self._within: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = dict(attrs)
        if said.get("rel") not in {"canonical", "next", "prev"}:
            self.loads += [value for name, value in attrs if (tag, name) in LOADED and value]
        if tag in {"p", "code", "pre"}:
            self._within.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._within:
            self._within.remove(tag)

    def handle_data(self, data: str) -> None:
        if self._within == ["p"]:
            self.prose += data


def _built(site: Path) -> dict[str, _Page]:
    return {str(path.relative_to(site)): _Page(path.read_text()) for path in sorted(site.rglob("*.html"))}


def test_every_page_is_built_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    built = _built(site)

    assert len(built) >= len(list(DOCS.rglob("*.md")))
    assert [
        (name, load) for name, page in built.items() for load in page.loads if urlsplit(load).netloc
    ] == []
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"url\(['\"]?(?:https?:)?//[^)]*\)|@import[^;]*//[^;]*;", styles) == []


def test_a_page_without_a_menu_a_lost_link_and_a_lost_anchor_each_fail_the_build(tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    for name in ("mkdocs.yml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "docs" / "stray.md").write_text("# Stray\n\n[gone](gone.md), [nowhere](state.md#nowhere)\n")

    done = _build(tmp_path, tmp_path / "site")

    assert done.returncode != 0
    assert [word for word in ("stray.md", "'gone.md'", "'#nowhere'") if word not in done.stderr] == []


def test_no_markdown_is_left_standing_in_a_paragraph(site: Path) -> None:
    """Where GitHub and the site read Markdown differently: lists without a blank line, tables in lists."""
    left = re.compile(r"\n\s*(?:[-*] |\d+\. )|\|\s*-{3}|\*\*\w|\]\(")

    assert [
        (name, left.findall(page.prose)) for name, page in _built(site).items() if left.search(page.prose)
    ] == []


def _anchors(page: Path) -> set[str]:
    """As GitHub makes them from the headings."""
    made: list[str] = []
    for heading in re.findall(r"(?m)^#{1,6} (.+)$", re.sub(r"(?ms)^```.*?^```$", "", page.read_text())):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        plain = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        made.append(f"{plain}-{made.count(plain)}" if plain in made else plain)
    return set(made)


@pytest.mark.parametrize(
    "page", [*pages(), ROOT / "README.ja.md"], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_link_has_a_form_and_every_anchor_a_heading(page: Path) -> None:
    wrong = []
    for match in LINK.finditer(CODE.sub("", page.read_text())):
        parts = urlsplit(match["target"])
        if parts.scheme or parts.netloc:
            if parts.scheme != "https" or "." not in parts.netloc:
                wrong.append(match["target"])
        elif parts.fragment:
            target = (page.parent / parts.path).resolve() if parts.path else page
            if parts.fragment not in _anchors(target):
                wrong.append(match["target"])

    assert wrong == []


def test_the_diagrams_are_those_that_their_program_draws() -> None:
    drawn = runpy.run_path(str(DOCS / "images" / "make_diagrams.py"))["PICTURES"]

    assert {name: (DOCS / "images" / f"{name}.svg").read_text() for name in drawn} == {
        name: draw() for name, draw in drawn.items()
    }, "run `python docs/images/make_diagrams.py`"


def test_every_picture_is_shown_on_a_page() -> None:
    shown = {match["target"] for page in pages() for match in LINK.finditer(page.read_text())}
    names = {Path(target).name for target in shown}

    assert {path.name for path in (DOCS / "images").rglob("*.*") if path.suffix in {".svg", ".png"}} <= names


def test_what_getting_started_tells_to_type_is_what_the_readme_tells_and_so_is_run() -> None:
    def lines(page: Path) -> list[str]:
        typed = [line for block in blocks(page, "sh") for line in block.text.splitlines()]
        return [re.sub(r"\s+#.*$", "", line) for line in typed]

    assert [
        line for line in lines(DOCS / "getting-started.md") if line not in lines(ROOT / "README.md")
    ] == []
