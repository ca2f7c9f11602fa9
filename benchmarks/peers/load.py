"""Load side: fill topics and Redis, pace events, measure latency, check outcomes.

  python load.py rows               Redis gets a row for each customer
  python load.py fill               IN_TOPIC gets N transactions
  python load.py fill_varied        the same, with values whose scores differ
  python load.py pace               RATE events/s for N events, stamped on produce
  python load.py measure            latency of N paced events as seen on OUT_TOPIC
  python load.py check              OUT_TOPIC holds each of N varied events once, rightly scored
"""
import io
import json
import sys
import time

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition
from fastavro import schemaless_writer

import common as c

CUSTOMERS = 5000


def rows():
    return np.random.default_rng(7).random((CUSTOMERS, 12), dtype=np.float32)


def columns(n, plain=True):
    """(customer index, amount, event_time, mcc) for n events, from a fixed seed.

    plain = amounts in the hundreds. Those saturate mlp.onnx (every
    score is 1.0), so the verify run uses values whose scores differ.
    """
    rng = np.random.default_rng(0)
    cust = rng.integers(0, CUSTOMERS, n)
    rng.integers(0, 10_000, n)
    amount = rng.gamma(2, 40, n)
    t = 1_700_000_000_000 + np.arange(n, dtype=np.int64)
    mcc = np.full(n, 5411)
    if not plain:
        amount = amount / 40 - 2
        t = t + rng.integers(0, 4, n) * 3_600_000 + 2 * 3_600_000
        mcc = rng.integers(0, 3, n)
    return cust, amount, t, mcc


def encode_tx(tid, t, cust, amount, mcc):
    b = io.BytesIO()
    b.write(c.TX_HEADER)
    schemaless_writer(b, c.TX, {
        "transaction_id": tid, "event_time": t, "customer_id": f"c{cust:06d}",
        "terminal_id": "t%06d" % (cust % 10_000), "amount": amount, "currency": "EUR",
        "channel": "POS", "mcc": mcc, "country": "BE"})
    return b.getvalue()


def fill_redis():
    import redis
    r = redis.Redis.from_url(c.REDIS_URL)
    r.mset({b"f:c%06d" % i: row.tobytes() for i, row in enumerate(rows().astype("<f4"))})


def fill(n=None, topic=None, plain=True, prefix="tx"):
    n, topic = n or c.N, topic or c.IN_TOPIC
    # big batches: the mock hands out one produced batch per partition and fetch,
    # a real broker fills the fetch up to 1 MiB
    p = Producer({"bootstrap.servers": c.BOOTSTRAP, "linger.ms": 200, "batch.size": 1_000_000,
                  "batch.num.messages": 10_000, "queue.buffering.max.messages": 2_000_000})
    cust, amount, t, mcc = columns(n, plain)
    for i in range(n):
        p.produce(topic, encode_tx(f"{prefix}-{i:09d}", int(t[i]), int(cust[i]),
                                   float(amount[i]), int(mcc[i])), b"c%06d" % cust[i])
        if i % 10_000 == 0:
            p.poll(0)
    if p.flush(60):
        raise SystemExit("fill: not everything was delivered")


def stamped(cust, amount, mcc):
    """Records whose id is written when they are sent, as what comes before and after it.

    Encoding while pacing would cost as much as a fast worker does.
    """
    now, mark = time.time_ns() // 1_000_000, "us-" + "0" * 16
    whole = [encode_tx(mark, now, int(who), float(a), int(m)) for who, a, m in zip(cust, amount, mcc)]
    at = whole[0].index(mark.encode()) + 3
    return [(value[:at], value[at + 16:]) for value in whole]


def pace():
    rate = float(c.setting("RATE", 2000))
    p = Producer({"bootstrap.servers": c.BOOTSTRAP, "linger.ms": 1})
    p.list_topics(c.IN_TOPIC, timeout=10)
    cust, amount, _, mcc = columns(c.N)
    records = stamped(cust, amount, mcc)
    keys = [b"c%06d" % who for who in cust]
    late = np.zeros(c.N)
    clock = time.perf_counter
    start = clock() + 0.05
    i = 0
    while i < c.N:
        due = min(c.N, int((clock() - start) * rate) + 1)
        while i < due:
            before, after = records[i]
            p.produce(c.IN_TOPIC, before + b"%016d" % (time.time_ns() // 1000) + after, keys[i])
            late[i] = clock() - start - i / rate
            i += 1
        p.poll(0)
        time.sleep(max(0.0, start + i / rate - clock(), 0.0005))
    took = clock() - start
    p.flush(30)
    print(json.dumps({"paced": c.N, "rate": round(c.N / took, 1),
                      "pacer_late_p99_ms": round(float(np.quantile(late, .99)) * 1e3, 3),
                      "pacer_late_max_ms": round(float(late.max()) * 1e3, 3)}), flush=True)


def transaction_id(value):
    n = value[5] >> 1  # first Avro field of both records; shorter than 64 bytes
    return value[6:6 + n]


def measure():
    """now - produce time for every paced event; the first SKIP are left out."""
    skip = int(c.setting("SKIP", 2000))  # events, about one second
    deadline = time.monotonic() + float(c.setting("TIMEOUT", 120))
    k = Consumer({"bootstrap.servers": c.BOOTSTRAP, "group.id": c.GROUP + "-measure",
                  "enable.auto.commit": False, **c.RD_CONSUMER})
    md = k.list_topics(c.OUT_TOPIC, timeout=10).topics[c.OUT_TOPIC]
    k.assign([TopicPartition(c.OUT_TOPIC, p, OFFSET_BEGINNING) for p in md.partitions])
    lat = []
    while len(lat) < c.N and time.monotonic() < deadline:
        m = k.poll(0.5)  # returns with the first message, then drain the rest
        if m is None:
            continue
        now = time.time_ns() // 1000
        for m in [m, *k.consume(1000, 0)]:
            if m.error():
                continue
            tid = transaction_id(m.value())
            if tid[:3] == b"us-":
                lat.append((int(tid[3:]), now))
    k.close()
    a = np.array(sorted(lat), dtype=np.int64).reshape(-1, 2)[skip:]
    d = (a[:, 1] - a[:, 0]) / 1000
    q = (lambda x: round(float(np.quantile(d, x)), 3)) if len(d) else (lambda x: None)
    print(json.dumps({"measured": len(d), "seen": len(lat), "p50_ms": q(.5), "p99_ms": q(.99),
                      "p999_ms": q(.999), "max_ms": q(1)}), flush=True)


def check():
    """Every id of a varied fill once, under the right key, with the score of a reference."""
    import onnxruntime as ort

    n = c.N
    cust, amount, t, mcc = columns(n, plain=False)
    x = np.zeros((n, 16), np.float32)
    x[:, :12], x[:, 12], x[:, 13], x[:, 14] = rows()[cust], amount, t // 3_600_000 % 24, mcc
    want = ort.InferenceSession(c.MODEL).run(None, {"x": x})[0][:, 0]
    k = Consumer({"bootstrap.servers": c.BOOTSTRAP, "group.id": c.GROUP + "-check"})
    partitions = k.list_topics(c.OUT_TOPIC, timeout=10).topics[c.OUT_TOPIC].partitions
    k.assign([TopicPartition(c.OUT_TOPIC, p, OFFSET_BEGINNING) for p in partitions])
    ids, worst, bad, seen, end = set(), 0.0, 0, 0, time.monotonic() + 30
    while seen < n and time.monotonic() < end:
        for m in k.consume(1000, 0.5):
            seen += 1
            i = int(transaction_id(m.value())[3:])
            ids.add(i)
            bad += m.key() != b"c%06d" % cust[i]
            if c.setting("NAME") == "passthrough":
                continue
            worst = max(worst, abs(score_of(m.value()) - float(want[i])))
    k.close()
    ok = seen == n == len(ids) and not bad and worst < 1e-4
    print(json.dumps({"events": seen, "unique": len(ids), "bad_keys": bad, "worst_score_error": worst, "ok": ok}))


def score_of(value):
    """The score of a peer's record, or of Penstock's, whose schema has more fields."""
    if value[:5] == c.SCORE_HEADER and not c.setting("NAME", "").startswith("penstock"):
        return c.schemaless_reader(io.BytesIO(value[5:]), c.SCORE, None)["score"]
    import os

    schemas = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "schemas", "score.avsc")
    with open(schemas) as file:
        schema = c.parse_schema(json.load(file))
    return c.schemaless_reader(io.BytesIO(value[5:]), schema, None)["score"]


if __name__ == "__main__":
    what = sys.argv[1]
    commands = {
        "rows": fill_redis,
        "fill": fill,
        "fill_varied": lambda: fill(plain=False),
        "pace": pace,
        "measure": measure,
        "check": check,
    }
    commands[what]()
