"""The server speaks the Open Inference Protocol, refuses what it must, and is held up by nobody."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.http_line import WITHIN_S, Stream, open_stream, transaction
from worker.asks import EventsAsk
from worker.config import ConfigError, Pipeline, load_pipeline
from worker.http_server import HttpServer
from worker.http_types import HttpOptions

HOUR_MS = 3_600_000


class Served:
    """A server, a thread that answers as a loop would, and a client."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.is_answering = threading.Event()
        self.is_answering.set()
        self._stop = threading.Event()
        self.server = HttpServer(stream.desk, lambda: True)
        self._thread = threading.Thread(target=self._answer, daemon=True)
        self._thread.start()

    def _answer(self) -> None:
        while not self._stop.is_set():
            if self.is_answering.wait(0.05):
                self.stream.desk.answers.serve(self.stream.line, time.monotonic() * 1000)
            time.sleep(0.001)

    def ask(
        self, method: str, path: str, content: Any = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, what was said, and headers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=WITHIN_S)
        body = content if isinstance(content, bytes) or content is None else json.dumps(content).encode()
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read()), dict(answer.getheaders())
        finally:
            connection.close()

    def close(self) -> None:
        """End the threads."""
        self._stop.set()
        self._thread.join(WITHIN_S)
        self.server.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with open_stream(
        tmp_path_factory.mktemp("served"), http={"port": 0, "queue": 4, "timeout": "20s"}
    ) as stream:
        stream.take()
        stream.send([transaction(i, i % 4, i * HOUR_MS, 20.0 + i) for i in range(40)])
        opened = Served(stream)
        yield opened
        opened.close()


def golden(stream: Stream) -> dict[str, Any]:
    assert stream.line.router is not None
    folder = stream.line.router.card.folder
    with np.load(folder / "golden.npz") as found:
        return {name: found[name] for name in found.files}


def test_an_event_is_answered_with_the_score_record_that_the_stream_would_write(served: Served) -> None:
    event = transaction(100, 1, 50 * HOUR_MS, 75.0)

    status, said, headers = served.ask("POST", "/score", event)

    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert said["event_id"] == "100"
    assert said["key"] == "C1"
    assert (said["model"], said["model_version"]) == ("fraud", "2")
    assert (said["degraded"], said["degradation"]) == (False, "NONE")
    assert said["as_of"]["is_owner"] is True
    [[again]] = served.stream.ask([event])
    assert np.float32(said["score"]) == np.float32(again["score"])


def test_a_list_of_events_has_one_outcome_each_in_its_order(served: Served) -> None:
    good, bad = transaction(1, 1, 50 * HOUR_MS, 75.0), {**transaction(2, 1, 0, 1.0), "amount": "much"}

    status, said, _ = served.ask("POST", "/score", [good, bad, good])

    assert status == 200
    scored, refused, _ = said["results"]
    assert scored["event_id"] == "1"
    assert refused == {
        "error": "amount: found a text, expected a number",
        "reason": "undecodable",
        "stage": "decode",
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"amount": None}, "undecodable"),
        ({"customer_id": ""}, "missing_key"),
        ({"event_time": 4_000_000_000_000}, "event_time_in_future"),
        ({"event_time": -5}, "event_time_too_old"),
        ({"amount": 1e999}, ""),
        ({"colour": "red"}, "undecodable"),
    ],
)
def test_a_bad_event_gets_400_and_the_reason_of_its_dead_letter(
    served: Served, change: dict[str, Any], reason: str
) -> None:
    status, said, _ = served.ask("POST", "/score", {**transaction(1, 1, 0, 1.0), **change})

    assert status == 400
    assert "expected" in said["error"] or reason.startswith("event_time")
    assert said.get("reason", "") == reason


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[]", b"[" * 100_000, b"1", b"[" + b"1," * 2000 + b"1]", b"9" * 5000]
)
def test_a_body_that_is_no_event_gets_400_and_one_sentence(served: Served, body: bytes) -> None:
    status, said, _ = served.ask("POST", "/score", body)

    assert status == 400
    assert said["error"].startswith(("found", "Transaction: found"))


def test_health_server_and_model_are_told_as_the_protocol_says(served: Served) -> None:
    assert served.ask("GET", "/v2/health/live")[:2] == (200, {"live": True})
    assert served.ask("GET", "/v2/health/ready")[:2] == (200, {"ready": True})
    assert served.ask("GET", "/v2")[1].keys() == {"name", "version", "extensions"}
    status, said, _ = served.ask("GET", "/v2/models/fraud")
    assert status == 200
    assert said["name"] == "fraud"
    assert said["versions"] == ["2"]
    assert served.ask("GET", "/v2/models/fraud/versions/2")[1] == said
    [tensor] = said["inputs"]
    assert tensor["datatype"] == "FP32"
    assert tensor["shape"][0] == -1
    for path in ("/v2/models/fraud/ready", "/v2/models/fraud/versions/2/ready"):
        assert served.ask("GET", path)[:2] == (200, {"name": "fraud", "ready": True})


@pytest.mark.parametrize("path", ["/v2/models/other", "/v2/models/fraud/versions/9", "/v2/nothing", "/"])
def test_what_is_not_there_is_404_with_an_error_object(served: Served, path: str) -> None:
    status, said, _ = served.ask("GET", path)

    assert status == 404
    assert said["error"].startswith("found")


@pytest.mark.parametrize(("method", "path"), [("GET", "/score"), ("PUT", "/score"), ("POST", "/v2")])
def test_another_method_is_405_and_says_which_one(served: Served, method: str, path: str) -> None:
    status, _, headers = served.ask(method, path)

    assert status == 405
    assert headers["Allow"] == ("POST" if path == "/score" else "GET")


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("version", ["", "/versions/2"])
def test_tensors_give_the_outputs_of_the_model_to_the_last_bit(
    served: Served, is_nested: bool, version: str
) -> None:
    recorded = golden(served.stream)
    [about] = served.ask("GET", "/v2/models/fraud")[1]["inputs"]
    x = recorded[about["name"]][:5].astype(np.float32)
    request = {
        "id": "abc",
        "parameters": {"anything": 1},
        "inputs": [
            {
                "name": about["name"],
                "shape": list(x.shape),
                "datatype": "FP32",
                "data": (x if is_nested else x.ravel()).tolist(),
            }
        ],
    }

    status, said, _ = served.ask("POST", f"/v2/models/fraud{version}/infer", request)

    assert status == 200
    assert (said["id"], said["model_name"], said["model_version"]) == ("abc", "fraud", "2")
    assert served.stream.line.router is not None
    card = served.stream.line.router.card
    output = next(each for each in said["outputs"] if each["name"] == card.output.tensor)
    values = np.array(output["data"], np.float32).reshape(output["shape"])
    scores = values[:, card.output.column or 0] if values.ndim == 2 else values
    np.testing.assert_allclose(scores, recorded["expected"][:5], rtol=1e-4, atol=1e-5)
    named = {**request, "outputs": [{"name": card.output.tensor}]}
    assert served.ask("POST", "/v2/models/fraud/infer", named)[1]["outputs"] == [output]


def wrong_requests() -> dict[str, Any]:
    good = {"name": "NAME", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}
    return {
        "no object": [],
        "no inputs": {},
        "another name": {"inputs": [{**good, "name": "other"}]},
        "twice": {"inputs": [good, good]},
        "datatype": {"inputs": [{**good, "datatype": "FP64"}]},
        "shape": {"inputs": [good]},
        "data": {"inputs": [{**good, "shape": "WHOLE", "data": [1.0]}]},
        "texts": {"inputs": [{**good, "shape": "WHOLE", "data": "TEXTS"}]},
        "ragged": {"inputs": [{**good, "shape": "WHOLE", "data": [[1.0], [1.0, 2.0]]}]},
        "outputs": {"inputs": [{**good, "shape": "WHOLE", "data": "ZEROS"}], "outputs": [{"name": "x"}]},
        "no rows": {"inputs": [{**good, "shape": "EMPTY", "data": []}]},
        "id": {"id": 7, "inputs": [{**good, "shape": "WHOLE", "data": "ZEROS"}]},
    }


@pytest.mark.parametrize("wrong", sorted(wrong_requests()))
def test_tensors_that_are_not_the_models_get_400_with_an_error_object(served: Served, wrong: str) -> None:
    [about] = served.ask("GET", "/v2/models/fraud")[1]["inputs"]
    width = about["shape"][1]
    stands_for = {
        "NAME": about["name"],
        "WHOLE": [1, width],
        "EMPTY": [0, width],
        "ZEROS": [0.0] * width,
        "TEXTS": ["a"] * width,
    }
    text = json.dumps(wrong_requests()[wrong])
    for name, value in stands_for.items():
        text = text.replace(json.dumps(name), json.dumps(value))

    status, said, _ = served.ask("POST", "/v2/models/fraud/infer", text.encode())

    assert status == 400
    assert set(said) == {"error"}


def test_a_connection_carries_one_request_after_the_other(served: Served) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served.server.port, timeout=WITHIN_S)
    connection.connect()
    held = connection.sock
    for number in range(5):
        connection.request("POST", "/score", json.dumps(transaction(number, 1, 60 * HOUR_MS, 5.0)))
        assert json.loads(connection.getresponse().read())["event_id"] == str(number)
    assert connection.sock is held
    connection.close()


def test_a_longer_body_is_413_whether_it_says_so_or_not(served: Served) -> None:
    limit = served.stream.desk.options.max_body_bytes

    assert served.ask("POST", "/score", b" " * (limit + 1))[0] == 413
    with socket.create_connection(("127.0.0.1", served.server.port), WITHIN_S) as raw:
        raw.sendall(b"POST /score HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        try:
            for _ in range(limit // 0x10000 + 2):
                raw.sendall(piece)
        except OSError:
            pass  # it has hung up already
        assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_another_hosts_name_and_an_encoded_body_are_refused(served: Served) -> None:
    assert served.ask("GET", "/v2", Host="evil.example")[0] == 421
    assert served.ask("GET", "/v2", Host="localhost:1")[0] == 200
    encoded = {"Content-Encoding": "gzip"}
    assert served.ask("POST", "/score", b"x", **encoded)[0] == 415


def test_a_full_queue_is_503_and_says_when_to_come_again_and_then_goes_on(served: Served) -> None:
    inbox = served.stream.desk.inbox
    read, _ = served.stream.desk.events.reader.read([transaction(1, 1, 0, 1.0)], 4 * 10**15)
    waiting = [EventsAsk(events=read) for _ in range(4)]
    for ask in waiting:
        inbox.admit(ask)

    status, said, headers = served.ask("POST", "/score", transaction(1, 1, 0, 1.0))

    assert status == 503
    assert headers["Retry-After"] == "1"
    assert "http.queue" in said["error"]
    for ask in waiting:
        ask.future.cancel()
    assert served.ask("POST", "/score", transaction(1, 1, 0, 1.0))[0] == 200


def test_no_request_is_logged_with_what_it_says(
    served: Served, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    served.ask("POST", "/score", {**transaction(1, 1, 0, 1.0), "customer_id": "Jane Doe", "amount": "x"})
    served.ask("POST", "/score", transaction(1, 777, 0, 1.0))

    said = "".join(capsys.readouterr()) + caplog.text
    assert "Jane" not in said
    assert "C777" not in said


def test_a_request_without_an_answer_in_time_gets_504_and_is_not_computed_later(tmp_path: Path) -> None:
    with open_stream(tmp_path, http={"port": 0, "timeout": "50ms", "token": "${TOKEN}"}) as stream:
        stream.take()
        opened = Served(stream)
        bearer = {"Authorization": "Bearer sixteen characters"}
        try:
            opened.is_answering.clear()
            time.sleep(0.1)  # the thread may be in its last turn
            status, said, _ = opened.ask("POST", "/score", transaction(1, 1, 0, 1.0), **bearer)
            assert status == 504
            assert "http.timeout" in said["error"]
            assert stream.desk.inbox.take(10) == []

            assert opened.ask("POST", "/score", transaction(1, 1, 0, 1.0))[0] == 401
            wrong = {"Authorization": "Bearer another sixteen"}
            assert opened.ask("GET", "/v2", **wrong)[0] == 401
            assert opened.ask("GET", "/v2", **bearer)[0] == 200
            assert opened.ask("GET", "/v2/health/live")[0] == 200

            stream.desk.answers.drain(stream.line, 0.0)
            status, said, headers = opened.ask("POST", "/score", transaction(1, 1, 0, 1.0), **bearer)
            assert (status, headers["Retry-After"]) == (503, "1")
            assert "stopping" in said["error"]
            assert opened.ask("GET", "/v2/health/ready")[0] == 503
        finally:
            opened.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "scores.example"])
def test_an_address_beyond_this_host_takes_a_token(host: str) -> None:
    with pytest.raises(ValueError, match=r"http\.token"):
        HttpOptions(host=host)
    HttpOptions(host=host, token="sixteen characters")


def test_http_without_a_model_is_one_line(tmp_path: Path) -> None:
    shipped: Pipeline = load_pipeline(Path("pipelines/terminal-risk.yaml"), {})
    text = shipped.path.read_text() + "\nhttp: {port: 0}\n"
    (tmp_path / "p.yaml").write_text(text)

    with pytest.raises(ConfigError, match=r"http: found http without a model, expected a model section"):
        load_pipeline(tmp_path / "p.yaml", {})
