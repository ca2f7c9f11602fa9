"""Penstock under the peers' stop watch: `penstock run PIPELINE` in this process, which tells it of each batch."""

import threading
from pathlib import Path

import common as c
from prometheus_client import REGISTRY

from worker.assemble import assemble, store_opener
from worker.config import load_pipeline
from worker.logs import configure_logs
from worker.run import Worker
from worker.service import calm_the_collector

configure_logs(set(), set(), is_terminal=False)
pipeline = load_pipeline(Path(c.setting("PIPELINE")))
worker = Worker(assemble(pipeline, store_opener()))
calm_the_collector()
line, stop = worker.line, threading.Event()
meter = c.Meter("penstock", c.client_version("penstock"), on_done=stop.set)
meter.extra["pipeline"] = pipeline.name
poll, sent = line.source.poll, line.meter.sent


def timed_poll(*arguments):
    records = poll(*arguments)
    if records is not None:
        meter.first()
    return records


def counted_sent(rows, *arguments):
    sent(rows, *arguments)
    meter.add(rows)


line.source.poll, line.meter.sent = timed_poll, counted_sent
worker.run(stop)
meter.extra["stages_us"] = {
    metric.labels["stage"]: round(metric.value / c.N * 1e6, 2)
    for family in REGISTRY.collect()
    for metric in family.samples
    if metric.name == "penstock_stage_seconds_sum"
}
meter.result |= meter.extra
c.finish(meter)
