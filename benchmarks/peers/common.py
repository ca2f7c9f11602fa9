"""What every peer shares: configuration, the job itself, and the stop watch.

The job (identical for all peers, only the plumbing around it differs):

  Kafka `transactions` (Confluent wire format: 0x00 + 4-byte schema id + Avro
  record, key = customer id) -> Redis row `f:<customer>` (12 little-endian
  float32) -> 16 floats [row, amount, hour, mcc, 0] -> mlp.onnx -> Avro Score,
  wire format, same key -> Kafka `scores`.

Settings come from the environment or from argv as NAME=value (argv wins).
"""
import io
import json
import os
import sys
import threading
import time

import numpy as np
from fastavro import parse_schema, schemaless_reader, schemaless_writer

# --------------------------------------------------------------------------
# configuration
# --------------------------------------------------------------------------
_ARGV = dict(a.split("=", 1) for a in sys.argv[1:] if "=" in a)


def setting(name, default=None):
    return _ARGV.get(name, os.environ.get(name, default))


BOOTSTRAP = setting("BOOTSTRAP", "127.0.0.1:9092")
REDIS_URL = setting("REDIS_URL", "redis://127.0.0.1:6400/0")
IN_TOPIC = setting("IN_TOPIC", "transactions")
OUT_TOPIC = setting("OUT_TOPIC", "scores")
GROUP = setting("GROUP", f"peer-{os.getpid()}-{int(time.time())}")
N = int(setting("N", 200_000))
MODE = setting("MODE", "throughput")  # throughput | latency | verify
# How many events of N are warm-up (latency mode): they reach `scores` before
# the stop watch starts, so the CPU figure is for the paced events alone.
WARM = int(setting("WARM", 0))
LINGER_MS = float(setting("LINGER_MS", 5))  # librdkafka's own default
# None = the client's default.
FETCH_WAIT_MS = setting("FETCH_WAIT_MS")
COMMIT_S = float(setting("COMMIT_S", 5))  # hand loops: commit period
MODEL = setting("MODEL", os.path.join(os.path.dirname(os.path.abspath(__file__)), "mlp.onnx"))

# When 100,000 messages are queued librdkafka stops fetching for a whole second by
# default; a consumer faster than 100,000/s then starves for most of it. Every
# librdkafka peer gets the short pause, though only the passthrough needs it.
RD_CONSUMER = {"fetch.queue.backoff.ms": int(setting("FETCH_BACKOFF_MS", 5))}
if FETCH_WAIT_MS is not None:
    RD_CONSUMER["fetch.wait.max.ms"] = int(FETCH_WAIT_MS)
RD_PRODUCER = {"linger.ms": LINGER_MS}


def client_version(dist="confluent-kafka"):
    from importlib.metadata import version
    return f"{dist} {version(dist)}"


def batch(default):
    return int(setting("BATCH", default))


def log(*a):
    print(*a, file=sys.stderr, flush=True)


# --------------------------------------------------------------------------
# the job
# --------------------------------------------------------------------------
TX = parse_schema({"type": "record", "name": "Transaction", "fields": [
    {"name": "transaction_id", "type": "string"},
    {"name": "event_time", "type": "long"},
    {"name": "customer_id", "type": "string"},
    {"name": "terminal_id", "type": "string"},
    {"name": "amount", "type": "double"},
    {"name": "currency", "type": "string"},
    {"name": "channel", "type": {"type": "enum", "name": "Ch2",
                                 "symbols": ["POS", "ECOM", "ATM"]}},
    {"name": "mcc", "type": "int"},
    {"name": "country", "type": ["null", "string"]}]})
SCORE = parse_schema({"type": "record", "name": "Score", "fields": [
    {"name": "transaction_id", "type": "string"},
    {"name": "event_time", "type": "long"},
    {"name": "scored_at", "type": "long"},
    {"name": "score", "type": "float"},
    {"name": "model", "type": "string"},
    {"name": "version", "type": "string"}]})
TX_HEADER = b"\0\0\0\0\1"
SCORE_HEADER = b"\0\0\0\0\2"
NO_ROW = bytes(48)


def load_model():
    import onnxruntime as ort
    opt = ort.SessionOptions()
    opt.intra_op_num_threads = 1
    return ort.InferenceSession(MODEL, opt, providers=["CPUExecutionProvider"])


def decode(value):
    if value[:5] != TX_HEADER:
        raise ValueError(f"not a Transaction in wire format: {value[:5]!r}")
    return schemaless_reader(io.BytesIO(value[5:]), TX, None)


def encode(tx, scored_at, score):
    out = io.BytesIO()
    out.write(SCORE_HEADER)
    schemaless_writer(out, SCORE, {
        "transaction_id": tx["transaction_id"], "event_time": tx["event_time"],
        "scored_at": scored_at, "score": score, "model": "fraud", "version": "1"})
    return out.getvalue()


def redis_key(customer):
    return b"f:" + customer


def score_one(sess, raw, tx):
    """One event: Redis row + decoded transaction -> encoded Score."""
    x = np.zeros((1, 16), np.float32)
    x[0, :12] = np.frombuffer(raw or NO_ROW, "<f4")
    x[0, 12] = tx["amount"]
    x[0, 13] = tx["event_time"] // 3_600_000 % 24
    x[0, 14] = tx["mcc"]
    y = sess.run(None, {"x": x})[0]
    return encode(tx, int(time.time() * 1000), float(y[0, 0]))


def score_many(sess, raws, txs):
    """A batch of events: Redis rows + decoded transactions -> encoded Scores."""
    n = len(txs)
    x = np.zeros((n, 16), np.float32)
    x[:, :12] = np.frombuffer(b"".join([r or NO_ROW for r in raws]), "<f4").reshape(n, 12)
    x[:, 12] = [t["amount"] for t in txs]
    x[:, 13] = [t["event_time"] // 3_600_000 % 24 for t in txs]
    x[:, 14] = [t["mcc"] for t in txs]
    y = sess.run(None, {"x": x})[0][:, 0].tolist()
    now = int(time.time() * 1000)
    return [encode(t, now, s) for t, s in zip(txs, y)]


# --------------------------------------------------------------------------
# the stop watch
# --------------------------------------------------------------------------
def _cpu():
    t = os.times()
    return t.user + t.system + t.children_user + t.children_system


class Meter:
    """Times one peer the same way whatever framework it is.

    start  = the first record reaches the peer's code (first());
    finish = the broker holds all N scores, seen as the high watermarks of
             OUT_TOPIC. The watermarks are only polled once the peer has handed
             over its last score (add()), so nothing is polled while it works.
    CPU    = os.times() of this process, all threads and reaped children,
             between the same two moments.
    """

    def __init__(self, peer, version, on_done=None):
        from confluent_kafka import Consumer, TopicPartition
        self.peer, self.version, self.on_done = peer, version, on_done
        self.extra = {}
        self.started = False
        self.count = self.calls = 0
        self.done = threading.Event()
        self._w = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": GROUP + "-meter",
                            "enable.auto.commit": False})
        md = self._w.list_topics(OUT_TOPIC, timeout=20).topics[OUT_TOPIC]
        self._parts = [TopicPartition(OUT_TOPIC, p) for p in md.partitions]
        if not self._parts:
            raise SystemExit(f"topic {OUT_TOPIC} does not exist (python load.py topics)")
        self._base = self._total()  # also opens the connection used at the end

    def _total(self):
        return sum(self._w.get_watermark_offsets(p, timeout=20)[1] for p in self._parts)

    def first(self):
        if not self.started:
            self.started = True
            self.t0, self.c0 = time.perf_counter(), _cpu()

    def add(self, n=1):
        before = self.count
        self.count = now = before + n
        self.calls += 1
        if before < WARM <= now:
            # paced part starts here: restart the clock, keep the counters
            self.t0, self.c0, self.calls = time.perf_counter(), _cpu(), 0
        if before < N <= now:
            threading.Thread(target=self._finish, daemon=True).start()

    def _finish(self):
        end = time.monotonic() + 120
        while (total := self._total() - self._base) < N and time.monotonic() < end:
            time.sleep(0.001)
        sec, cpu = time.perf_counter() - self.t0, _cpu() - self.c0
        n = N - WARM
        self.result = {
            "peer": self.peer, "version": self.version, "mode": MODE, "events": n,
            "seconds": round(sec, 4), "events_per_s": round(n / sec, 1),
            "cpu_us_per_event": round(cpu / n * 1e6, 3), "p50_ms": None, "p99_ms": None,
            "mean_batch": round(n / max(1, self.calls), 1), "written": total, **self.extra}
        self.done.set()
        if self.on_done:
            self.on_done()
        # a framework that will not stop must not hang the run
        threading.Timer(20, lambda: (self.report(), os._exit(3))).start()

    def report(self):
        self.done.wait(150)
        print(json.dumps(self.result), flush=True)


def finish(meter, code=0):
    """Print the one JSON line once the framework has stopped, and leave at once
    (no interpreter teardown in the way)."""
    if meter.count < N:
        log(f"{meter.peer} stopped after {meter.count} of {N} events")
        code = 2
    else:
        meter.report()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
