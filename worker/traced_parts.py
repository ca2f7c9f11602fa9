"""The parts of a line that tell its tracing what they do; without tracing a line has the parts themselves."""

from __future__ import annotations

from typing import Any

from worker.batch import Rejected
from worker.metrics import Meter
from worker.sink import Sink
from worker.tracing import Tracing


class _TracedStage:
    """A stage that is also noted as a span."""

    def __init__(self, stage: str, timed: Any, tracing: Tracing) -> None:
        self._stage, self._timed, self._tracing = stage, timed, tracing
        self._begun_ns = 0

    def __enter__(self) -> None:
        self._begun_ns = self._tracing.now_ns()
        self._timed.__enter__()

    def __exit__(self, kind: object, *rest: object) -> None:
        self._timed.__exit__(kind, *rest)
        if kind is None:
            self._tracing.note(self._stage, self._begun_ns)


def trace_stages(meter: Meter, tracing: Tracing) -> None:
    """From now on the stages that a meter times become spans too."""
    stages = {name: _TracedStage(name, stage, tracing) for name, stage in meter._stages.items()}
    meter._stages = stages  # type: ignore[assignment]  # used like those that they hold


class TracedSink:
    """A sink whose commits end the spans of batches."""

    def __init__(self, sink: Sink, tracing: Tracing) -> None:
        self._sink = sink
        self._tracing = tracing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)

    def send_rejects(self, rejected: list[Rejected]) -> None:
        """See Sink."""
        self._sink.send_rejects(self._tracing.dead_letters(rejected))

    def begin_commit(self, offsets: Any, consumer: Any) -> None:
        """See Sink."""
        self._sink.begin_commit(offsets, consumer)
        self._tracing.commit_begun()

    def end_commit(self) -> bool:
        """See Sink."""
        is_done = self._sink.end_commit()
        self._tracing.commit_ended(is_done=is_done)
        return is_done

    def abort(self) -> None:
        """See Sink."""
        self._sink.abort()
        self._tracing.given_up()

    def close(self) -> None:
        """See Sink."""
        self._sink.close()
        self._tracing.close()
