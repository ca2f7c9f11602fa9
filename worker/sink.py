"""Scores, alerts and dead letters to Kafka, and the commit that makes them count."""

from __future__ import annotations

import time
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from uuid import uuid4

import structlog
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from schemas.spans import Spans
from worker.background import in_background
from worker.batch import Rejected
from worker.commits import (
    Commit,
    NotCommittedError,
    Sent,
    are_committed,
    end_transaction,
    named,
)
from worker.dead_letters import dead_letters
from worker.exits import Exit, StopWorker
from worker.hopeless import stop_if_hopeless
from worker.native_send import send_of
from worker.offset_commit import commit_of
from worker.patience import Answer, Patience
from worker.privacy import Privacy
from worker.refusals import Refusals
from worker.rights import unauthorized
from worker.succession import Estate, Will, discard, follow, let_in
from worker.transaction_errors import FENCED, GROUP_MOVED_ON, HOPELESS, NOT_A_MEMBER, REBALANCING
from worker.twin import Twin

_FLUSH_S = 20.0
_SLACK_S = 5.0  # past the transaction's own time-out, before a call that hangs is given up
_AGAIN_S = 1.0  # before a producer that could not begin is followed by another
_BEGIN_S = 90.0  # several calls of at most 20 s, of which none should take long


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ending:
    """A commit under way."""

    commit: Commit
    consumer: Any
    give_up_s: float
    end: Answer | None  # None: outputs are not all acknowledged yet, and the offsets wait for that


class Sink:
    """The producer, its transaction, and what becomes of both when Kafka says no.

    Rules, from what librdkafka's error flags mean: a retriable call is repeated as it was; when the group has
    moved on, the transaction is aborted, and when only a rebalance was in the way, the same records are sent
    again at once; what no waiting mends ends the worker; after anything else, a new producer under the same
    transactional id ends whatever the old one left.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        pipeline: str,
        dead_letters: str,
        privacy: Privacy | None = None,
        estate: Estate | None = None,
    ) -> None:
        self.patience = Patience()
        self._config = config
        self._estate = estate
        self._log = structlog.get_logger(pipeline=pipeline)
        self.is_transactional = "transactional.id" in config
        self._timeout_s = config.get("transaction.timeout.ms", 0) / 1000 + _SLACK_S
        self._pipeline = pipeline
        self._dead_letters = dead_letters
        self._privacy = privacy
        self._is_open = False
        self._name = uuid4().hex
        self._commits = 0  # names them
        self._sent: list[Sent] = []  # since the last commit
        self._since_ms = 0
        self._will = Will(done=(), wanted=None)
        self._ending: _Ending | None = None  # begun, and nobody has waited for it yet
        self._twin = Twin(config.get("transactional.id", ""))
        self._remaking: Future[tuple[Commit, ...]] | None = None
        self._remade_by_s = 0.0
        self._make()
        if self.is_transactional:
            try:
                let_in(self._producer, self.refusals)
            except KafkaException as error:
                raise self._cannot_start(error) from error

    def _make(self) -> None:
        self.refusals = Refusals()
        # What a former producer says late must not fail this one.
        self._sender = send_of({**self._config, "error_cb": self.refusals.note})
        self._producer = self._sender.client

    def _cannot_start(self, error: KafkaException) -> StopWorker:
        name = self._config["transactional.id"]
        why = self.refusals.reason or error.args[0].str()
        missing = unauthorized(error.args[0], transactional_id=name)
        return StopWorker(Exit.KAFKA, missing or f"transactions of {name!r} cannot start: {why}")

    def send(self, topic: str, values: Spans, keys: Spans, headers: Spans | None = None) -> None:
        """Hand records, with packed headers, to the client, in order; they count only after commit().

        Raises:
            NotCommittedError: the client refuses; see there.
        """
        self._send(Sent(topic, values, keys, headers))

    def _send(self, records: Sent) -> None:
        try:
            self._begin()
            self._sender.send(records, max(self._timeout_s, _FLUSH_S), self.patience)
        except KafkaException as error:
            raise self._give_up(error, records.topic) from error
        if self.is_transactional:
            self._sent.append(records.apart())

    def send_rejects(self, rejected: list[Rejected]) -> None:
        """Dead letters: the record's own bytes, key and headers, and why.

        Raises:
            NotCommittedError: the client refuses; see there.
        """
        if rejected:
            commit = f"{self._name}.{self._commits + 1}"
            self._send(dead_letters(self._dead_letters, rejected, self._pipeline, self._privacy, commit))

    def _begin(self) -> None:
        if self.is_transactional and not self._is_open:
            self._follow_after_an_outage()
            self._producer.begin_transaction()
            self._is_open, self._since_ms = True, _wall_ms()

    def _follow_after_an_outage(self) -> None:
        """A broker that was away may have forgotten a part of our last commit; a successor sees to that."""
        self._producer.poll(0)
        if self.refusals.was_without_brokers:
            raise self._lost("no broker could be reached for a moment")

    def begin_commit(self, offsets: list[TopicPartition], consumer: Any) -> None:
        """Begin to make everything sent count, together with the offsets it came from.

        Until `end_commit` nothing may be sent in `exactly_once`, and no other commit begun.

        Raises:
            NotCommittedError: see there.
        """
        self._commits += 1
        if not self.is_transactional:
            self._sender.mark()
            commit = Commit(offsets=offsets, sent=(), since_ms=0)
            give_up_s = time.monotonic() + _FLUSH_S
            self._ending = _Ending(commit=commit, consumer=consumer, give_up_s=give_up_s, end=None)
            return
        give_up_s = time.monotonic() + self._timeout_s
        if not offsets and not self._is_open:
            return
        try:
            self._begin()
            offsets = named(offsets, f"{self._name}.{self._commits}")
            since_ms = min(self._since_ms, _wall_ms())  # the clock may have been set back
            commit = Commit(offsets=offsets, sent=tuple(self._sent), since_ms=since_ms)
            self._will = replace(self._will, wanted=commit)
            member = consumer.consumer_group_metadata()
            if not consumer.memberid():
                # The broker takes offsets of nobody without asking whose the partitions are by now.
                raise self._gone()
        except KafkaException as error:
            raise self._give_up(error) from error
        end = in_background(partial(end_transaction, self._producer, offsets, member, give_up_s), "commit")
        self._ending = _Ending(commit=commit, consumer=consumer, give_up_s=give_up_s, end=end)

    def is_committing(self) -> bool:
        """Whether a commit was begun that has no answer yet, and may have one still.

        Raises:
            NotCommittedError: an output was refused.
        """
        if self._ending is None:
            return False
        self._commit_once_acknowledged()
        end = self._ending.end
        return end is None or not (end.done() or time.monotonic() >= self._ending.give_up_s)

    def holds_back(self) -> bool:
        """Whether what is sent now would have to wait for the commit under way."""
        return self.is_transactional and self.is_committing()

    def end_commit(self) -> bool:
        """Wait for the commit that was begun, if one was.

        Returns:
            False: the group is in the middle of a rebalance; everything is sent, commit again soon.

        Raises:
            NotCommittedError: see there.
        """
        if self._ending is None:
            return True
        self._commit_once_acknowledged(may_wait=True)
        ending, self._ending = self._ending, None
        assert ending.end is not None
        if not self.is_transactional:
            return are_committed(ending.end, self.patience, ending.give_up_s)
        try:
            self.patience.answer(ending.end, ending.give_up_s)
        except KafkaException as error:
            if error.args[0].code() in REBALANCING and self._sent_again():
                return False
            raise self._give_up(error) from error
        except TimeoutError as error:
            raise self._lost(f"commit: {error}") from error
        self._is_open, self._sent = False, []
        self._producer.poll(0)
        # After an outage the one before may be the one that was forgotten.
        before = self._will.done if self.refusals.was_without_brokers else ()
        self._will = Will(done=(*before, ending.commit), wanted=None)
        return True

    def _sent_again(self) -> bool:
        """Abort, and send the same records in a new transaction: lanes and rows are as they were."""
        sent = self._sent.copy()
        self.abort()
        if self._remaking is not None:
            return False
        self._log.info("the group is rebalancing: the transaction is done again", calls=len(sent))
        for records in sent:
            self._send(records)
        return True

    def _commit_once_acknowledged(self, *, may_wait: bool = False) -> None:
        """In `at_least_once`, begin to commit the offsets when all outputs before them are acknowledged."""
        ending = self._ending
        if ending is None or ending.end is not None:
            return
        self._producer.poll(0)
        if may_wait and self._sender.under_way():
            self._flush(ending.give_up_s)
        self._stop_if_any_hopeless()
        if failed := self._sender.failed():
            raise self._lost(f"{failed[0][1]}: {failed[0][0].str()}")
        if left := self._sender.under_way():
            if not may_wait and time.monotonic() < ending.give_up_s:
                return
            raise self._lost(f"{left} outputs not acknowledged in time")
        try:
            end = commit_of(ending.consumer, ending.commit.offsets)
        except KafkaException as error:
            raise NotCommittedError(error.args[0].str()) from error
        self._ending = replace(ending, give_up_s=time.monotonic() + _FLUSH_S, end=end)

    def _flush(self, give_up_s: float) -> None:
        """Wait until all that was sent is acknowledged, or refused."""
        self.patience.until(lambda within_s: not self._producer.flush(within_s), give_up_s)

    def abort(self) -> None:
        """Make what was sent since the last commit not count; in at_least_once it stays sent."""
        if self.is_transactional:
            with suppress(NotCommittedError):
                self.end_commit()
        self.let_offsets_arrive()
        self._ending = None
        self._sent.clear()
        if not self._is_open:
            return
        if self.refusals.was_without_brokers:
            self._lost("not aborted here: no broker could be reached for a moment")
            return
        try:
            aborting = in_background(self._producer.abort_transaction, "abort")
            self.patience.answer(aborting, time.monotonic() + _SLACK_S)
            self._is_open, self._will = False, replace(self._will, wanted=None)
        except (KafkaException, TimeoutError) as error:
            self._lost(f"not aborted: {error}")

    def let_offsets_arrive(self) -> None:
        """Wait, not for long, for a commit under way, and let go of it: its consumer may be closed then."""
        if self._ending is not None and self._ending.end is not None:
            with suppress(Exception):
                self.patience.answer(self._ending.end, time.monotonic() + _SLACK_S)
        if not self.is_transactional:
            self._ending = None

    def undecided(self) -> NotCommittedError:
        """The offsets stay undecided for longer than any transaction: end what we may have left open."""
        return self._lost("a transaction has ended without deciding the offsets")

    def is_ready(self) -> bool:
        """Whether records can be sent; False while a new producer is being made, which needs a broker.

        Raises:
            NotCommittedError: no broker could be reached for a moment, see there.
            StopWorker: the broker refuses us for good.
        """
        if self._remaking is None:
            if self.is_transactional and not self._is_open:
                self._follow_after_an_outage()
            return True
        if not self._remaking.done():
            if time.monotonic() > self._remade_by_s:
                self._log.warning("a producer could not begin in time, making a new one")
                self._remake()  # which fences the one that hangs
            return False
        error = self._remaking.exception()
        if error is None:
            self._will = Will(done=self._remaking.result(), wanted=None)
            self._remaking = None
            return True
        if not isinstance(error, KafkaException):
            raise error
        said = error.args[0]
        if said.code() in HOPELESS:
            raise self._cannot_start(error) from error
        if said.code() in FENCED:
            self._twin.note(said)
        self._log.warning("waiting for Kafka to let a producer begin", error=said.str())
        if said.retriable() and not said.fatal():  # this client goes on asking, and would fence another one
            self._follow(_AGAIN_S)
        else:
            self._remake(_AGAIN_S)
        return False

    def _give_up(self, error: KafkaException, topic: str = "") -> NotCommittedError:
        """What an error means for what was sent: aborted here, or left to a new producer."""
        said = error.args[0]
        # A record that fails during a commit may leave that nothing to say but "erroneous state".
        with suppress(KafkaException, SystemError):
            self._producer.poll(0)
        self._stop_if_any_hopeless()
        self._stop_if_hopeless(said, topic)
        if said.fatal() or not said.txn_requires_abort() or said.code() not in GROUP_MOVED_ON:
            if said.code() in FENCED:
                self._twin.note(said)
            return self._lost(said.str(), is_member=said.code() not in FENCED)
        self._log.warning("transaction aborted", error=said.name(), detail=said.str())
        self.abort()
        return NotCommittedError(said.str(), is_member=said.code() not in NOT_A_MEMBER)

    def _gone(self) -> NotCommittedError:
        self.abort()
        return NotCommittedError("this worker is not in the group any more", is_member=False)

    def _stop_if_any_hopeless(self) -> None:
        for error, topic in self._sender.failed():
            self._stop_if_hopeless(error, topic)

    def _stop_if_hopeless(self, said: KafkaError, topic: str) -> None:
        name = self._config.get("transactional.id", "")
        stop_if_hopeless(said, topic=topic, pipeline=self._pipeline, transactional_id=name)

    def _lost(self, why: str, *, is_member: bool = True) -> NotCommittedError:
        if self.patience.is_over:  # a new one could not even begin; whoever takes the lanes decides
            self._is_open, self._sent = False, []
            return NotCommittedError(why, is_member=is_member)
        self._log.warning("producer given up, making a new one", error=why)
        self._remake()
        return NotCommittedError(why, is_member=is_member)

    def _remake(self, pause_s: float = 0.0) -> None:
        """A new producer under the same id: its start ends whatever the old one left open."""
        self._is_open, self._sent = False, []
        in_background(partial(discard, self._producer), "discard")  # destroying a client can take seconds
        self._make()
        if self.is_transactional:
            self._follow(pause_s)

    def _follow(self, pause_s: float) -> None:
        producer, refusals, will = self._producer, self.refusals, self._will

        def begin() -> tuple[Commit, ...]:
            time.sleep(pause_s)
            let_in(producer, refusals)
            return will.done if self._estate is None else follow(producer, self._estate, will)

        self._remaking = in_background(begin, "init")
        self._remade_by_s = time.monotonic() + pause_s + _BEGIN_S

    def close(self) -> None:
        """Drop what was not committed, and let go of connections."""
        self.abort()
        if self._remaking is None:
            self._flush(time.monotonic() + _SLACK_S)


def _wall_ms() -> int:
    # Asked as the client does, which stamps the records with it.
    return time.clock_gettime_ns(time.CLOCK_REALTIME) // 1_000_000
