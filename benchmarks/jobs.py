"""The two jobs that are measured: the one that peers do too, and the whole fraud pipeline."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from benchmarks.workers import pipeline_file, start_worker
from loadgen.events import label_events, numbered_names, together, transaction_events
from loadgen.transactions import DAY_S, World, days
from schemas.codec import Codec
from schemas.schema import load_schema
from tests.pipeline.streams import fill

HERE = Path(__file__).parent
WORLD = World(seed=1)
LABEL_DELAY_S = DAY_S
AS_PEERS = {"compression.type": "none", "linger.ms": 5}  # what every peer's producer has
Outputs = dict[str, str]  # scores, alerts, dead_letters to topic


def peers_job(
    folder: Path, name: str, *, topic: str, outputs: Outputs, group: str, registry: str, more: dict[str, Any]
) -> Path:
    """A pipeline file for the job of peers/common.py.

    Args:
        more: sections to add, or to lay over these.
    """
    document: dict[str, Any] = {
        "name": "peers",
        "policy_version": "1",
        "kafka": {"bootstrap": "${BOOTSTRAP}", "group": group, "properties": AS_PEERS},
        "source": {
            "topic": topic,
            "schema": str(HERE / "peers" / "transaction.avsc"),
            "wire": "confluent",
            "registry": registry,
            "key": "customer_id",
            "event_id": "transaction_id",
            "event_time": "event_time",
            "max_future": None,
        },
        "features": {
            "row": {"kind": "profile", "prefix": "f:", "fields": [f"f{i}" for i in range(12)]},
            "amount": {"kind": "field", "field": "amount"},
            "hour": {"kind": "calendar", "number": "hour"},
            "mcc": {"kind": "field", "field": "mcc"},
        },
        "model": {"name": "peers", "version": "1", "repository": str(HERE / "models"), "device": "cpu"},
        "outputs": {**outputs, "wire": "confluent", "registry": registry},
        "state": {"store": "${REDIS_URL}"},
        "admin": {"port": None},
    }
    del document["outputs"]["alerts"]
    return _written(folder / f"{name}.yaml", document, more)


def fraud_job(
    folder: Path, name: str, *, prefix: str, outputs: Outputs, group: str, more: dict[str, Any]
) -> Path:
    """pipelines/fraud.yaml on topics of a prefix, its lookup included."""

    def change(document: dict[str, Any]) -> None:
        document["outputs"] |= outputs
        document["kafka"] |= {"group": group, "properties": AS_PEERS}
        document["features"]["terminal"]["pipeline"] = str(folder / "terminal-risk.yaml")
        document["model"]["device"] = "cpu"
        document["admin"] = {"port": None}
        _laid_over(document, more)

    pipeline_file("terminal-risk", folder, prefix)
    path = pipeline_file("fraud", folder, prefix, change)
    return path.rename(folder / f"{name}.yaml")


def _written(path: Path, document: dict[str, Any], more: dict[str, Any]) -> Path:
    _laid_over(document, more)
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def _laid_over(document: dict[str, Any], more: dict[str, Any]) -> None:
    for section, values in more.items():
        document[section] = {**document.get(section, {}), **values}


def fill_fraud(kafka: str, redis_url: str, prefix: str, events: int, folder: Path) -> None:
    """Simulated transactions in their topic, and what terminals are known for in Redis."""
    traffic = fraud_traffic(events)
    for topic, (keys, values) in traffic.items():
        fill(kafka, prefix + topic, keys, values)
    file = pipeline_file("terminal-risk", folder, prefix)
    env = {"PENSTOCK_KAFKA": kafka, "PENSTOCK_STORE": redis_url, "PENSTOCK_ADMIN_PORT": "0"}
    worker = start_worker([file], folder / "terminal-risk.log", env)
    try:
        worker.wait_until_ready()
        worker.wait_until_applied(len(traffic["labels"][0]))
    finally:
        worker.stop()


def fraud_traffic(events: int) -> dict[str, tuple[list[bytes], list[bytes]]]:
    """Keys and encoded values of simulated transactions and their labels, by topic of the shipped files."""
    customers, terminals = numbered_names("C", WORLD.customers), numbered_names("T", WORLD.terminals)
    schemas = load_schema("transaction"), load_schema("label")
    chunks, count = [], 0
    for chunk in days(WORLD):
        chunks.append(chunk)
        count += len(chunk)
        if count >= events:
            break
    payments = together([transaction_events(c, customers, terminals, schemas[0]) for c in chunks])
    labels = together([label_events(c, customers, terminals, LABEL_DELAY_S, schemas[1]) for c in chunks])
    made = {"labels": (labels, schemas[1]), "transactions": (payments, schemas[0])}
    return {
        topic: (stream.key[:events], Codec(schema, "single_object").encode(stream.table)[:events])
        for topic, (stream, schema) in made.items()
    }


@contextmanager
def registry(transaction: Path = HERE / "peers" / "transaction.avsc") -> Iterator[str]:
    """A schema registry that knows the input under id 1 and gives every other schema an id of its own."""
    texts = {1: transaction.read_text()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = texts.get(int(self.path.rpartition("/")[2]))
            self._say({"schema": found} if found else {"error_code": 40403, "message": "Schema not found"})

        def do_POST(self) -> None:
            text = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["schema"]
            known = next((number for number, each in texts.items() if each == text), len(texts) + 1)
            texts[known] = text
            self._say({"id": known})

        def _say(self, answer: dict[str, Any]) -> None:
            data = json.dumps(answer).encode()
            self.send_response(404 if "error_code" in answer else 200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
