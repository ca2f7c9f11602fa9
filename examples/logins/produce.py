"""Sends 300 logins with nothing but confluent-kafka and fastavro; one account is being taken over."""

import io
import os
import random
import time
from pathlib import Path

import confluent_kafka
import fastavro
from fastavro.schema import fingerprint, load_schema, to_parsing_canonical_form

schema = load_schema(str(Path(__file__).parent / "login.avsc"))
# Avro single-object encoding: two magic bytes, the schema's fingerprint, the record.
prefix = b"\xc3\x01" + bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))
producer = confluent_kafka.Producer(
    {
        "bootstrap.servers": os.environ.get("PENSTOCK_KAFKA", "localhost:9092"),
        "partitioner": "murmur2_random",  # as Java clients do; librdkafka's own default is another
    }
)
for n in range(300):
    attacked = n % 20 == 0
    login = {
        "login_id": f"{time.time_ns()}-{n}",
        "at": int(time.time() * 1000),
        "account": "a-0" if attacked else f"a-{random.randint(1, 1000)}",
        "failed": attacked or random.random() < 0.1,
        "new_device": attacked,
        "distance_km": 7800.0 if attacked else random.expovariate(1 / 10),
    }
    record = io.BytesIO()
    fastavro.schemaless_writer(record, schema, login)
    producer.produce("logins", key=str(login["account"]).encode(), value=prefix + record.getvalue())
left = producer.flush(30)
print(f"sent {300 - left} logins")
