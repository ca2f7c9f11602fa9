"""Faust (faust-streaming): an agent over stream.take_events(n, within).

take_events is take() that keeps the key. raw serializers, no tables, no web
server, the Cython extensions and uvloop as its install guide suggests, and a
larger stream_buffer_maxsize ("higher numbers give better throughput").
Every send of a batch is awaited before the batch is acked, because Faust commits
acked offsets without flushing its producer.
"""
import asyncio
import os
import tempfile

os.environ.setdefault("FAUST_LOOP", "uvloop")
import faust  # noqa: E402
import redis.asyncio as redis  # noqa: E402

import common as c  # noqa: E402

BATCH = c.batch(500)
WITHIN = float(c.setting("WITHIN_MS", 20)) / 1000
BUFFER = int(c.setting("STREAM_BUFFER", 32768))
PROD_BATCH = int(c.setting("PRODUCER_BATCH", 262144))
SCHEME = c.setting("TRANSPORT", "kafka")  # kafka = aiokafka, or confluent

sess = c.load_model()
app = faust.App(
    c.GROUP, broker=f"{SCHEME}://{c.BOOTSTRAP}", store="memory://",
    datadir=tempfile.mkdtemp(prefix="faust-"),
    key_serializer="raw", value_serializer="raw",
    consumer_auto_offset_reset="earliest",
    topic_allow_declare=False, topic_disable_leader=True, web_enabled=False,
    stream_buffer_maxsize=BUFFER, stream_wait_empty=False,
    producer_linger=c.LINGER_MS / 1000,
    producer_max_batch_size=PROD_BATCH)
source = app.topic(c.IN_TOPIC, key_type=bytes, value_type=bytes)
target = app.topic(c.OUT_TOPIC, key_type=bytes, value_type=bytes)
r = redis.Redis.from_url(c.REDIS_URL)
worker = None


def stop():
    app.loop.call_soon_threadsafe(lambda: asyncio.ensure_future(app.stop()))


meter = c.Meter("faust", c.client_version("faust-streaming"), on_done=stop)
meter.extra["transport"] = SCHEME


@app.agent(source)
async def score(stream):
    async for events in stream.take_events(BATCH, within=WITHIN):
        meter.first()
        txs = [c.decode(e.value) for e in events]
        raws = await r.mget([c.redis_key(e.key) for e in events])
        sent = [await target.send(key=e.key, value=v)
                for e, v in zip(events, c.score_many(sess, raws, txs))]
        await asyncio.gather(*sent)
        meter.add(len(events))


if __name__ == "__main__":
    # not "warning": at that level Faust shows a spinner that turns DEBUG logging on
    worker = faust.Worker(app, loglevel="info", redirect_stdouts=False)
    try:
        worker.execute_from_commandline()
    except SystemExit:
        pass
    c.finish(meter)
