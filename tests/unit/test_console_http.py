"""Who may look at the console, what it answers, and that its page needs nobody else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.workers import pipeline_file
from worker.config import load_pipeline
from worker.console_http import Console
from worker.console_models import change
from worker.guarded_http import Answer, Request

PAGE = Path(__file__).parents[2] / "worker" / "console"
TOKEN = "0123456789abcdef-token"


def console_of(folder: Path, *, token: str | None = TOKEN, **console: Any) -> Console:
    def changed(document: dict[str, Any]) -> None:
        document["admin"] = {"port": 0, **({"token": "${TOKEN}"} if token else {})}
        document["console"] = console
        document["kafka"]["bootstrap"] = "127.0.0.1:1"

    file = pipeline_file("maintenance", folder, "", changed)
    return Console([load_pipeline(file, {"TOKEN": token or ""})])


@pytest.fixture
def console(tmp_path: Path) -> Iterator[Console]:
    opened = console_of(tmp_path)
    yield opened
    opened.close()


def get(
    console: Console,
    path: str,
    *,
    peer: str = "127.0.0.1",
    host: str = "localhost:8080",
    token: str = "",
    query: str = "",
) -> Answer:
    authorization = f"Bearer {token}" if token else ""
    answer = console.answer(
        Request(method="GET", path=path, query=query, authorization=authorization, peer=peer, host=host)
    )
    assert answer is not None
    return answer


STATE = "/console/api/state"


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "LOCALHOST", "127.0.0.1"])
@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "127.0.0.7"])
def test_from_this_host_everybody_may_look(console: Console, peer: str, host: str) -> None:
    assert get(console, STATE, peer=peer, host=host).status == 200


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("192.0.2.7", "localhost:8080"),
        ("192.0.2.7", "penstock.example"),
        ("127.0.0.1", "evil.example"),  # a name that was made to lead here
        ("127.0.0.1", "localhost.evil.example:8080"),
        ("127.0.0.1", ""),
        ("nonsense", "localhost"),
    ],
)
def test_from_elsewhere_the_token_is_needed(console: Console, peer: str, host: str) -> None:
    assert get(console, STATE, peer=peer, host=host).status == 401
    assert get(console, STATE, peer=peer, host=host, token=TOKEN[:-1]).status == 401
    assert get(console, STATE, peer=peer, host=host, token=TOKEN).status == 200


def test_without_a_token_in_the_file_nobody_from_elsewhere_may_look(tmp_path: Path) -> None:
    opened = console_of(tmp_path, token=None)
    try:
        assert get(opened, STATE, peer="192.0.2.7").status == 401
        assert get(opened, STATE, peer="192.0.2.7", token=" ").status == 401
    finally:
        opened.close()


def test_readers_anyone_lets_everybody_look(tmp_path: Path) -> None:
    opened = console_of(tmp_path, readers="anyone")
    try:
        assert get(opened, STATE, peer="192.0.2.7", host="anything").status == 200
    finally:
        opened.close()


def test_a_pipeline_without_a_worker_is_said_to_have_none(console: Console) -> None:
    said = json.loads(get(console, STATE).body)

    (only,) = said["pipelines"]
    assert (only["name"], only["workers"], only["level"]) == ("maintenance", [], "bad")
    assert only["health"][0]["text"].startswith("No worker of maintenance")


@pytest.mark.parametrize(
    ("path", "query", "status", "words"),
    [
        ("/console/api/nothing", "", 404, "found here"),
        ("/console/api/entity", "pipeline=other&key=x", 400, "maintenance"),
        ("/console/api/entity", "pipeline=maintenance", 400, "expected a key"),
        ("/console/api/models", "pipeline=%00", 400, "maintenance"),
        ("/console/../secret", "", 404, "not here"),
        ("/console/nothing.js", "", 404, "not here"),
    ],
)
def test_what_is_not_understood_is_refused_in_a_sentence(
    console: Console, path: str, query: str, status: int, words: str
) -> None:
    answer = get(console, path, query=query)

    assert answer.status == status
    assert words in answer.body.decode()


def test_other_pages_are_left_to_the_admin_server(console: Console) -> None:
    request = Request(method="GET", path="/metrics", query="", authorization="", peer="127.0.0.1")

    assert console.answer(request) is None


def test_the_page_runs_nothing_but_its_own_files(console: Console) -> None:
    answer = get(console, "/")
    policy = dict(answer.headers)["Content-Security-Policy"]

    assert answer.kind.startswith("text/html")
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    for name in re.findall(r'(?:src|href)="(console/[^"]+)"', answer.body.decode()):
        assert get(console, f"/{name}").status == 200


def test_the_page_is_under_200_kb_and_names_no_other_host() -> None:
    files = {path.name: path.read_text() for path in PAGE.iterdir()}

    assert sum(len(text.encode()) for text in files.values()) < 200_000
    named = {url for text in files.values() for url in re.findall(r"https?://[^\s\"'`)]+", text)}
    assert named == {"http://www.w3.org/2000/svg"}  # the name of a language; nobody asks there


def test_the_page_makes_no_markup_of_text() -> None:
    forbidden = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc"
    )

    assert [path.name for path in PAGE.glob("*.js") if forbidden.search(path.read_text())] == []


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({}, "pipeline="),
        ({"pipeline": "fraud", "action": "explode"}, "action="),
        ({"pipeline": "fraud", "action": "promote", "version": "../../etc"}, "version="),
        ({"pipeline": "fraud", "action": "canary", "version": "1", "share": "0"}, "share="),
        ({"pipeline": "fraud", "action": "canary", "version": "1", "share": "nan"}, "share="),
    ],
)
def test_a_change_that_cannot_be_is_refused_before_anything_is_asked(
    tmp_path: Path, query: dict[str, str], words: str
) -> None:
    file = pipeline_file("maintenance", tmp_path, "")
    document = yaml.safe_load(file.read_text())
    file.write_text(yaml.safe_dump({**document, "name": "fraud", "rollout": {}}, sort_keys=False))

    with pytest.raises(ValueError, match=words):
        change({"fraud": load_pipeline(file)}, query)
