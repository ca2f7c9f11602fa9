"""Prints scores and alerts as they come, with nothing but confluent-kafka and fastavro."""

import io
import os
from pathlib import Path

import confluent_kafka
import fastavro
from fastavro.schema import load_schema

schemas = Path(__file__).parents[2] / "schemas"
readers = {f"logins.{kind}s": load_schema(str(schemas / f"{kind}.avsc")) for kind in ("score", "alert")}
consumer = confluent_kafka.Consumer(
    {
        "bootstrap.servers": os.environ.get("PENSTOCK_KAFKA", "localhost:9092"),
        "group.id": "login-watchers",
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",  # see a score only once its transaction is committed
    }
)
consumer.subscribe(list(readers))
while True:
    message = consumer.poll(1.0)
    if message is None or message.error():
        continue
    reader = readers[message.topic()]
    found = fastavro.schemaless_reader(io.BytesIO(message.value()[10:]), reader, reader)  # 10: the prefix
    if message.topic() == "logins.alerts":
        why = " | ".join(reason["text"] for reason in found["reasons"])
        print(f"{found['severity'].upper()} {found['key']} {found['score']:.3f}: {why}", flush=True)
    else:
        print(f"{found['event_id']} {found['key']} {found['score']:.3f}", flush=True)
