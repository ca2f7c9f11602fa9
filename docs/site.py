"""What the site needs beside the pages: the changelog, and plain text for links that leave docs/."""

import re
from pathlib import Path
from typing import Any

_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]+)\]\((?P<target>[^)\s#:]+)(?:#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add CHANGELOG.md, whose links count from the root of the project."""
    from mkdocs.structure.files import File

    text = (Path(config.docs_dir).parent / "CHANGELOG.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\((?!https?:|docs/|#)", "](../", text).replace("](docs/", "](")
    files.append(File.generated(config, "changelog.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Leave of a link to a file outside docs/ its text: that file is in a clone, not on the site."""
    docs = Path(config.docs_dir).resolve()
    here = (docs / page.file.src_uri).parent

    def kept(match: re.Match[str]) -> str:
        if match["target"].endswith("../CHANGELOG.md"):
            return match[0].replace("../CHANGELOG.md", "changelog.md")
        leaves = docs not in (target := (here / match["target"]).resolve()).parents and target.exists()
        return match["text"] if leaves else match[0]

    return _LINK.sub(kept, markdown)
