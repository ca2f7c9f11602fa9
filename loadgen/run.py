"""One run: send sources, read their outcomes back at the same time, report."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadgen.collect import Collector, Output
from loadgen.events import SCHEMA_OF, Stream
from loadgen.ledger import Ledger
from loadgen.mutate import Mutator
from loadgen.outcomes import Live, Outcomes
from loadgen.prepare import Prepared, Route, prepare
from loadgen.produce import Outbox
from loadgen.report import report
from loadgen.send import Feed, Gate, send_all
from loadgen.slabs import Slab, first_events
from loadgen.sources import Pipeline, Source
from schemas.codec import Codec
from schemas.form import Format
from schemas.registry import Registry, RegistrySettings
from schemas.schema import load_schema
from schemas.wire import PREFIX_BYTES, Wire

TOPICS: Mapping[Stream, str] = {"transactions": "transactions", "labels": "labels", "readings": "readings"}
_STREAMS_OF: Mapping[Pipeline, tuple[Stream, ...]] = {
    "fraud": ("transactions", "labels"),
    "maintenance": ("readings",),
}
_ID_FIELD: Mapping[Pipeline, str] = {"fraud": "transaction_id", "maintenance": "reading_id"}
_READ_WAIT_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where events go and outcomes come from."""

    bootstrap: str
    format: Format = "avro"
    wire: Wire = "single_object"  # of avro alone; json and protobuf: raw, or confluent
    registry_url: str | None = None  # needed by wire confluent
    topics: Mapping[Stream, str] = field(default_factory=lambda: dict(TOPICS))
    outputs: Mapping[Pipeline, str] = field(
        default_factory=lambda: {"fraud": "fraud", "maintenance": "maintenance"}
    )  # pipeline to PREFIX of PREFIX.scores, PREFIX.alerts, PREFIX.dead-letters
    properties: Mapping[str, Any] = field(default_factory=dict)  # further librdkafka settings, both clients
    fetch_wait_ms: int = 100  # 5 on the embedded bus


class Load:
    """A run in two threads of its own: one sends, one reads."""

    def __init__(
        self,
        target: Target,
        sources: Sequence[Source],
        *,
        mutated_share: float = 0.0,
        seed: int = 0,
        collect: bool = True,
        max_events: int | None = None,
        gates: Mapping[Pipeline, Callable[[Outbox], Gate]] | None = None,
    ) -> None:
        """Connect; nothing is sent yet.

        Args:
            target: where to.
            sources: what; at most one for each pipeline.
            mutated_share: of the scored events that are damaged; outcomes are then matched by source offset.
            seed: of the damage.
            collect: read outcomes; without it the run only sends.
            max_events: scored events of each source; no limit when None.
            gates: hold a pipeline's source back, see `Feed`.
        """
        self._target = target
        self._registry = Registry(RegistrySettings(url=target.registry_url)) if target.registry_url else None
        by_source = mutated_share > 0
        self._outbox = Outbox(target.bootstrap, properties=target.properties, receipts=by_source)
        self.outcomes: dict[str, Outcomes] = {
            source.pipeline: Outcomes(Ledger(source.pipeline, by_source=by_source)) for source in sources
        }
        self._feeds = [
            self._feed(source, max_events, mutated_share, seed + n, (gates or {}).get(source.pipeline))
            for n, source in enumerate(sources)
        ]
        self._collector = self._reader() if collect else None
        self._stop_sending = threading.Event()
        self._stop_reading = threading.Event()
        self._errors: list[BaseException] = []
        self._sender: threading.Thread | None = None
        self._collecting: threading.Thread | None = None

    def start(self, for_s: float | None = None) -> None:
        """Begin to send, for so many seconds or until the sources are empty or `stop`."""
        self._sender = threading.Thread(
            target=self._guard, args=(lambda: self._send(for_s),), name="load-send"
        )
        if self._collector is not None:
            self._collecting = threading.Thread(target=self._guard, args=(self._collect,), name="load-read")
            self._collecting.start()
        self._sender.start()

    def is_sending(self) -> bool:
        """Tell whether there is something left to send."""
        return self._sender is not None and self._sender.is_alive()

    def stop(self) -> None:
        """Send no more."""
        self._stop_sending.set()

    def live(self) -> dict[str, Live]:
        """Return every stream at a glance."""
        now_s = time.monotonic()
        return {name: outcomes.live(now_s) for name, outcomes in self.outcomes.items()}

    def newest_alerts(self) -> list[dict[str, Any]]:
        """Return the newest alerts, oldest first, as decoded records."""
        return list(self._collector.newest_alerts) if self._collector else []

    def finish(self, drain_s: float = 30.0) -> dict[str, Any]:
        """Wait for the sender, then for outcomes still missing, and report.

        Args:
            drain_s: how long to wait for them at most.

        Raises:
            SendError, CollectError: what stopped one of the threads.
        """
        if self._sender is not None:
            self._sender.join()
        deadline_s = time.monotonic() + drain_s
        while self._collector is not None and time.monotonic() < deadline_s and not self._errors:
            if all(outcomes.accounted >= outcomes.ledger.sent for outcomes in self.outcomes.values()):
                break
            time.sleep(0.05)
        self._stop_reading.set()
        if not self._errors:  # closing waits for what cannot be written
            self._outbox.close()
        if self._collecting is not None:
            self._collecting.join()
        if self._errors:
            raise self._errors[0]
        streams = {name: report(outcomes) for name, outcomes in self.outcomes.items()}
        if self._collector is None:
            for stream in streams.values():
                stream["unaccounted"] = None
        return {
            "streams": streams,
            "records_sent": sum(feed.records for feed in self._feeds),
            "unaccounted": sum(stream["unaccounted"] for stream in streams.values())
            if self._collector
            else None,
        }

    def _send(self, for_s: float | None) -> None:
        for feed in self._feeds:
            feed.prepare()  # setting up a world takes a moment, which is no event's latency
        origin_s = time.monotonic()
        for outcomes in self.outcomes.values():
            outcomes.ledger.origin_s = origin_s
        send_all(
            self._feeds,
            self._outbox,
            now_s=lambda: time.monotonic() - origin_s,
            wait=self._pause,
            for_s=for_s,
        )
        self._outbox.flush()

    def _pause(self, wait_s: float) -> bool:
        time.sleep(
            wait_s
        )  # Event.wait costs ten times as much, and a tick is short enough to look afterwards
        return self._stop_sending.is_set()

    def _collect(self) -> None:
        assert self._collector is not None
        while not self._stop_reading.is_set():
            self._collector.read(_READ_WAIT_S)
        self._collector.digest(final=True)
        self._collector.close()

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # raised again by finish, in the caller's thread
            self._errors.append(error)
            self._stop_sending.set()

    def _feed(
        self,
        source: Source,
        max_events: int | None,
        mutated_share: float,
        seed: int,
        gate: Callable[[Outbox], Gate] | None,
    ) -> Feed:
        slabs = source.slabs if max_events is None else first_events(source.slabs, max_events)
        routes = {stream: self._route(stream) for stream in _STREAMS_OF[source.pipeline]}
        mutator = (
            Mutator(mutated_share, prefix_bytes=PREFIX_BYTES[self._target.wire], seed=seed)
            if mutated_share > 0
            else None
        )
        return Feed(
            _prepared(slabs, source, routes, mutator),
            self._outbox,
            self.outcomes[source.pipeline].ledger,
            marker_topic=self._target.topics["labels"] if source.mark_every_ms else None,
            gate=gate(self._outbox) if gate else None,
        )

    def _route(self, stream: Stream) -> Route:
        topic = self._target.topics[stream]
        return Route(topic=topic, encode=self._codec(SCHEMA_OF[stream], topic).encode)

    def _codec(self, schema: str, topic: str | None = None) -> Codec:
        target = self._target
        return Codec(
            load_schema(schema), target.wire, format=target.format, registry=self._registry, topic=topic
        )

    def _reader(self) -> Collector:
        codec = self._codec
        outputs: dict[str, Output] = {}
        events: dict[Pipeline, str] = {"fraud": "transaction", "maintenance": "sensor_reading"}
        for pipeline, stream in events.items():
            if pipeline not in self.outcomes:
                continue
            prefix, outcomes = self._target.outputs[pipeline], self.outcomes[pipeline]
            outputs[f"{prefix}.scores"] = Output(
                kind="scores", outcomes=outcomes, codec=codec("score"), id_field="event_id"
            )
            outputs[f"{prefix}.alerts"] = Output(
                kind="alerts", outcomes=outcomes, codec=codec("alert"), id_field="event_id"
            )
            outputs[f"{prefix}.dead-letters"] = Output(
                kind="dead_letters", outcomes=outcomes, codec=codec(stream), id_field=_ID_FIELD[pipeline]
            )
        return Collector(
            self._target.bootstrap,
            outputs,
            properties=self._target.properties,
            fetch_wait_ms=self._target.fetch_wait_ms,
        )


def _prepared(
    slabs: Iterator[Slab], source: Source, routes: Mapping[Stream, Route], mutator: Mutator | None
) -> Iterator[Prepared]:
    return (
        prepare(slab, routes, source.pace, mark_every_ms=source.mark_every_ms, mutator=mutator)
        for slab in slabs
    )
