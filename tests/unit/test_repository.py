"""A version comes from a URL whole and as its card says, or not at all."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest

from worker.model_file import check_sha256, load_model_card
from worker.repository import RepositoryError, fetch, newest, version_folder, versions
from worker.yaml_lines import ConfigError

SHIPPED = Path(__file__).parents[2] / "models"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PENSTOCK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder of models and its address on a web server."""
    root = tmp_path / "served"
    shutil.copytree(SHIPPED, root)

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield root, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join(10)
    server.server_close()


@pytest.mark.parametrize("scheme", ["file", "http", "memory"])
def test_a_version_is_fetched_once_and_is_what_its_card_says(
    served: tuple[Path, str], scheme: str, unique_name: str
) -> None:
    root, address = served
    url = {"file": f"file://{root}", "http": address, "memory": f"memory://{unique_name}"}[scheme]
    if scheme == "memory":
        fsspec.filesystem("memory").put(f"{root}/", f"{unique_name}/", recursive=True)

    folder = fetch(url, "fraud", "2")

    assert folder == version_folder(url, "fraud", "2")
    check_sha256(load_model_card(folder))
    shutil.rmtree(root / "fraud")
    assert fetch(url, "fraud", "2") == folder, "versions never change"


def test_versions_are_listed_in_order(served: tuple[Path, str]) -> None:
    root, address = served
    for name in ("10", "1.10", "1.9", "2-fp16"):
        shutil.copytree(root / "fraud" / "1", root / "fraud" / name)
    (root / "fraud" / "11").mkdir()  # nothing in it yet

    expected = ["1", "1.9", "1.10", "2", "2-fp16", "10"]
    assert versions(root, "fraud") == expected
    assert versions(f"file://{root}", "fraud") == expected
    assert versions(address, "fraud") == expected


def test_a_version_that_is_still_being_written_is_not_the_newest(tmp_path: Path) -> None:
    root = tmp_path / "models"
    shutil.copytree(SHIPPED, root)
    half = root / "fraud" / "3"
    shutil.copytree(root / "fraud" / "2", half)
    text = (half / "model.yaml").read_text().replace("version: '2'", "version: '3'")
    (half / "model.yaml").write_text(text)
    whole = (half / "model.onnx").read_bytes()
    (half / "model.onnx").write_bytes(whole[: len(whole) // 2])
    assert newest(root, "fraud") == "2"

    (half / "model.onnx").write_bytes(whole)
    assert newest(root, "fraud") == "3"


@pytest.mark.parametrize("missing", ["model.yaml", "model.onnx", "golden.npz"])
def test_a_version_that_lacks_a_file_leaves_nothing_behind(
    served: tuple[Path, str], missing: str, cache: Path
) -> None:
    root, address = served
    (root / "fraud" / "2" / missing).unlink()

    with pytest.raises(RepositoryError, match="cannot be fetched"):
        fetch(address, "fraud", "2")

    assert not version_folder(address, "fraud", "2").exists()
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_a_version_that_was_tampered_with_is_not_taken(served: tuple[Path, str]) -> None:
    root, _ = served
    with (root / "fraud" / "2" / "model.onnx").open("ab") as file:
        file.write(b"more")

    with pytest.raises(ConfigError, match="sha256"):
        fetch(f"file://{root}", "fraud", "2")

    assert not version_folder(f"file://{root}", "fraud", "2").exists()


@pytest.mark.parametrize("name", ["../../other/model.onnx", "/etc/passwd"])
def test_a_card_cannot_reach_out_of_its_folder(served: tuple[Path, str], name: str) -> None:
    root, _ = served
    card = root / "fraud" / "2" / "model.yaml"
    card.write_text(card.read_text().replace("file: model.onnx", f"file: {name}"))

    with pytest.raises(ConfigError):
        fetch(f"file://{root}", "fraud", "2")


def test_an_unknown_kind_of_address_says_which_there_are() -> None:
    with pytest.raises(RepositoryError, match="expected file, s3, gs, http or https"):
        fetch("gopher://models", "fraud", "2")
