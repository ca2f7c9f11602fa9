"""The lanes assigned to this worker: found out about beside the loop, begun in it, held while they wait."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass

import structlog
from confluent_kafka import KafkaException

from feature_cache.lane import Offsets, committed_offset
from feature_cache.lanes import Lanes
from feature_cache.store import LaneMeta, StoreUnavailableError
from worker.background import in_background
from worker.exits import Exit, StopWorker
from worker.metrics import Meter
from worker.scout import Scout, UndecidedError
from worker.source import Source

_PAUSE_MS = 50.0  # before a second try, and doubled from there
_PAUSE_AT_MOST_MS = 1000.0
_UNDECIDED_TIMES = 3  # asked so often, for 10 s each: any transaction has timed out and been aborted by then
_FIRST_ANSWER_MS = 60_000.0  # a service that never answered is a wrong address, not an outage
RebuildStart = Callable[[int, int, int], tuple[int, int]]  # partition, committed, low: offset, forgotten_us


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipPolicy:
    """What to do about records that are gone from the topic before they were read."""

    start_at_end: bool  # where a group without committed offsets begins
    may_skip: bool  # go on behind records that retention removed unread, and count them


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What Kafka and the store say of a lane that is ours now."""

    take: int  # the number of the take that asked
    durable: LaneMeta
    offsets: Offsets
    rebuild_from: tuple[int, int] | None


class Ownership:
    """Which partitions are assigned, and how far each is from being read.

    A partition goes from *untaken* (nothing is known of it) over *starting* (its lane has begun, the client
    is told to read) to running. A *resting* one has a lane, and waits for what is away.
    """

    def __init__(
        self,
        source: Source,
        scout: Scout,
        lanes: Lanes,
        policy: SkipPolicy,
        meter: Meter,
        wall_ms: Callable[[], int],
        rebuild_start: RebuildStart | None = None,
        when_undecided: Callable[[], Exception] | None = None,
    ) -> None:
        self._source = source
        self._scout = scout
        self._lanes = lanes
        self._policy = policy
        self._meter = meter
        self._wall_ms = wall_ms
        self._rebuild_start = rebuild_start
        self._when_undecided = when_undecided
        self._undecided_times = 0  # in a row
        self._log = structlog.get_logger(pipeline=meter.pipeline)
        self.topic_partitions = 0  # of the whole topic, when lanes were last taken
        self._untaken: dict[
            int, int
        ] = {}  # partition to the number of its take: what was found is of that one
        self._takes = 0
        self._first_starts: dict[int, int] = {}  # where partitions without a committed offset began
        self._to_commit: dict[int, int] = {}  # of these, which nobody was told to commit yet
        self._starting: dict[int, int] = {}  # partition to the offset to read from
        self._resting: set[int] = set()
        self._finding: Future[dict[int, _Found]] | None = None
        self._due_ms = 0.0
        self._pause_ms = _PAUSE_MS
        self._asked_ms: float | None = None  # since when nothing has answered for the first time
        self._answered = False

    @property
    def waiting(self) -> int:
        """How many partitions are assigned and not being read."""
        return len(self._untaken) + len(self._starting) + len(self._resting)

    @property
    def is_settled(self) -> bool:
        """Whether every partition assigned is being read."""
        return self.waiting == 0

    def assigned(self) -> set[int]:
        """Every partition that is ours, read or not."""
        return set(self._untaken) | set(self._lanes.partitions())

    def take(self, partitions: Iterable[int], not_before_ms: float = 0.0) -> None:
        """Begin these partitions anew: forget what is in memory of them, and find out what is true.

        Args:
            not_before_ms: when the group has probably given them to somebody else, wait to be told.
        """
        for partition in partitions:
            self._lanes.drop(partition)
            self._starting.pop(partition, None)
            self._resting.discard(partition)
            self._takes += 1
            self._untaken[partition] = self._takes
        self._source.hold(self._untaken)
        self._due_ms = max(self._due_ms, not_before_ms)

    def to_commit(self) -> dict[int, int]:
        """Partitions that begin at the end of the topic, and where: commit that, or a later owner, for whom
        the end is further on, would leave out what came in between. Each is told once a take.
        """
        told, self._to_commit = self._to_commit, {}
        return told

    def give_up(self, partitions: Iterable[int]) -> None:
        """These partitions are no longer ours."""
        for partition in partitions:
            self._lanes.drop(partition)
            self._starting.pop(partition, None)
            self._resting.discard(partition)
            self._untaken.pop(partition, None)
            self._first_starts.pop(partition, None)
            self._to_commit.pop(partition, None)

    def rest(self, not_before_ms: float = 0.0) -> None:
        """The store, or what else reading needs, is away: read nothing; what is in memory stays right.

        Args:
            not_before_ms: when to try again at the earliest, and once the store answers.
        """
        self._resting |= set(self._lanes.partitions()) - set(self._starting)
        self._source.hold(self._resting)
        self._due_ms = max(self._due_ms, not_before_ms)

    def turn(self, now_ms: float) -> None:
        """Do what is due, without waiting.

        Raises:
            FencedError: the store does not know a resting lane any more as ours.
            NotCommittedError: the group's offsets stay undecided, and nobody else will decide them.
            StopWorker: records were lost to retention, the topic's partitions have changed, or a service
                has not answered since the start.
        """
        if self.is_settled or now_ms < self._due_ms:
            return
        try:
            self._take_found(now_ms)
            self._wake()
        except UndecidedError as error:
            self._pause(now_ms, error)
            self._undecided_times += 1
            # Once: if it does not help, another worker's transaction is in the way, and must be waited for.
            if self._undecided_times == _UNDECIDED_TIMES and self._when_undecided is not None:
                raise self._when_undecided() from error
        except (KafkaException, StoreUnavailableError) as error:
            self._pause(now_ms, error)
        for partition, offset in list(self._starting.items()):
            if self._source.start(partition, offset):
                del self._starting[partition]

    def _take_found(self, now_ms: float) -> None:
        if self._finding is not None and self._finding.done():
            finding, self._finding = self._finding, None
            found = finding.result()
            self._answered, self._pause_ms, self._undecided_times = True, _PAUSE_MS, 0
            for partition, take in sorted(self._untaken.items()):
                if partition in found and found[partition].take == take:
                    self._begin(partition, found[partition])
        if self._finding is None and self._untaken:
            self._asked_ms = now_ms if self._asked_ms is None else self._asked_ms
            wanted = dict(sorted(self._untaken.items()))
            self._finding = in_background(lambda: self._find(wanted), "take lanes")

    def _find(self, wanted: dict[int, int]) -> dict[int, _Found]:
        """Ask Kafka and the store; runs beside the loop and changes nothing here.

        Args:
            wanted: partition to the number of its take.
        """
        committed = self._scout.committed()
        self.topic_partitions = len(committed)
        topic_id = self._scout.topic_id()
        found = {}
        for partition, take in wanted.items():
            if self._untaken.get(partition) != take:
                continue  # somebody else's by now, whom raising the epoch would fence
            low, high = self._scout.bounds(partition)
            at_end = min(self._first_starts.get(partition, high), high)
            offsets = Offsets(
                committed=committed[partition],
                start=at_end if self._policy.start_at_end else low,
                low=low,
                high=high,
                topic_id=topic_id,
            )
            durable = self._lanes.claim(partition, self._wall_ms())
            found[partition] = _Found(
                take=take,
                durable=durable,
                offsets=offsets,
                rebuild_from=self._rebuild_from(partition, durable, offsets),
            )
        return found

    def _rebuild_from(self, partition: int, durable: LaneMeta, offsets: Offsets) -> tuple[int, int] | None:
        committed = offsets.committed
        if self._rebuild_start is None or committed is None or not offsets.low <= committed <= offsets.high:
            return None
        if self._lanes.is_usable(durable, offsets):
            return None
        return self._rebuild_start(partition, committed, offsets.low)

    def _begin(self, partition: int, found: _Found) -> None:
        self._check_skipped(partition, found)
        begin = self._lanes.begin(
            partition, found.durable, found.offsets, self._wall_ms(), found.rebuild_from
        )
        if self._policy.start_at_end and committed_offset(found.durable, found.offsets) is None:
            self._first_starts[partition] = self._to_commit[partition] = found.offsets.start
        del self._untaken[partition]
        self._starting[partition] = begin
        lane = self._lanes[partition]
        self._log.info(
            "lane taken",
            partition=partition,
            reads_from=begin,
            publishes_from=lane.mute_until,
            epoch=lane.durable.epoch,
        )

    def _check_skipped(self, partition: int, found: _Found) -> None:
        # Where the group's offsets have expired, the store still knows up to where there are outcomes.
        committed, low = committed_offset(found.durable, found.offsets), found.offsets.low
        self._meter.skipped(partition, 0)  # an increase over the first loss needs the zero before it
        if committed is None or committed >= low:
            return
        skipped = low - committed
        if not self._policy.may_skip:
            raise StopWorker(
                Exit.KAFKA,
                f"partition {partition}: this group had read up to offset {committed}, and retention "
                f"has removed everything before {low} from the topic: {skipped} offsets would get no "
                f"outcome. To go on without them, counted, set source.when_skipped: skip_and_count",
            )
        self._meter.skipped(partition, skipped)
        self._log.error(
            "records removed by retention before they were read", partition=partition, offsets=skipped
        )

    def _wake(self) -> None:
        """Read resting lanes on, once the store says that they still are ours."""
        if not self._resting:
            return
        self._lanes.check(sorted(self._resting))
        self._starting |= {partition: self._lanes[partition].watermark for partition in self._resting}
        self._resting.clear()
        self._pause_ms = _PAUSE_MS

    def _pause(self, now_ms: float, error: Exception) -> None:
        if not self._answered and self._asked_ms is not None and now_ms - self._asked_ms > _FIRST_ANSWER_MS:
            code = Exit.STORE if isinstance(error, StoreUnavailableError) else Exit.KAFKA
            raise StopWorker(code, str(error)) from error
        self._log.warning("lanes wait", error=str(error), again_in_ms=self._pause_ms)
        self._due_ms = now_ms + self._pause_ms
        self._pause_ms = min(_PAUSE_AT_MOST_MS, self._pause_ms * 2)
