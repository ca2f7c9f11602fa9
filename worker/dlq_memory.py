"""Which dead letters were sent in again, as text beside the offsets of a consumer group."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from confluent_kafka import Consumer, TopicPartition

from worker.dlq import DeadLetter
from worker.exits import Exit, StopWorker

_ANSWER_S = 10.0
_MEMORY_BYTES = 4000  # Kafka keeps 4096 bytes beside an offset, unless its settings were changed
_MARK = re.compile(r"(?P<kind>[^=+ ]+)=(?P<offset>\d+)|\+(?P<single>\d+)")


@dataclass(slots=True)
class Memory:
    """Which dead letters of a partition were sent in again: by kind all before an offset, and single ones."""

    before: dict[str, int] = field(default_factory=dict)
    single: set[int] = field(default_factory=set)

    def has(self, letter: DeadLetter) -> bool:
        """Whether this one was sent in again."""
        return letter.offset < self.before.get(letter.kind, 0) or letter.offset in self.single

    @property
    def end(self) -> int:
        """The offset after the last of them; 0 when there is none."""
        return max([0, *self.before.values(), *(offset + 1 for offset in self.single)])

    def note(self, letter: DeadLetter, *, single: bool) -> None:
        """It is sent in again; unless single, so were all of its kind before it."""
        if letter.offset < self.before.get(letter.kind, 0):
            return
        if single:
            self.single.add(letter.offset)
            return
        self.before[letter.kind] = letter.offset + 1
        self.single.discard(letter.offset)

    def text(self) -> str:
        """As it is kept beside the group's offset.

        Raises:
            StopWorker: too many single ones to be kept.
        """
        words = [f"{kind}={offset}" for kind, offset in sorted(self.before.items())]
        text = " ".join([*words, *(f"+{offset}" for offset in sorted(self.single))])
        if len(text) > _MEMORY_BYTES:
            raise StopWorker(
                Exit.USAGE,
                f"{len(self.single)} dead letters of a partition were chosen one by one, which is more than "
                f"can be remembered: replay by --reason",
            )
        return text


def remembered(text: str | None) -> Memory:
    """The memory that a text stands for; what is not understood is left out."""
    memory = Memory()
    for mark in _MARK.finditer(text or ""):
        if mark["single"]:
            memory.single.add(int(mark["single"]))
        else:
            memory.before[mark["kind"]] = int(mark["offset"])
    return memory


def memories(consumer: Consumer, topic: str, ends: dict[int, tuple[int, int]]) -> dict[int, Memory]:
    """What was sent in again, by partition; nothing where the topic was made anew since."""
    asked = [TopicPartition(topic, p) for p in ends]
    return {
        tp.partition: remembered(tp.metadata) if 0 <= tp.offset <= ends[tp.partition][1] else Memory()
        for tp in consumer.committed(asked, timeout=_ANSWER_S)
    }
