"""A wire to a real broker on which requests of one transaction are lost, late, or answered by the wire."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from tests.services.mock_cluster import Api

_ANSWER_S = 20.0


class Fate(Enum):
    """What becomes of one producer's transaction."""

    LOST = "the broker never sees its end"
    UNANSWERED = "the broker ends it, and nobody hears of that"
    LATE = "the broker sees its end when the next producer has begun"
    # As after a crash of the broker that held both: the coordinator has ended it and written no markers.
    OUTPUTS_LEFT_OPEN = "its outputs stay open, its offsets never come"
    LEFT_OPEN = "its outputs and its offsets stay open"
    OFFSETS_LEFT_OPEN = "it is committed, but its offsets stay open; the end of the next one is lost"
    COMMITTED_LEFT_OPEN = "it is committed, but its outputs stay open; the end of the next one is lost"


_FORGOTTEN = {
    Fate.OUTPUTS_LEFT_OPEN: {Api.ADD_PARTITIONS},
    Fate.LEFT_OPEN: {Api.ADD_PARTITIONS, Api.ADD_OFFSETS},
    Fate.OFFSETS_LEFT_OPEN: {Api.ADD_OFFSETS},
    Fate.COMMITTED_LEFT_OPEN: {Api.ADD_PARTITIONS},
}
_NEXT_IS_LOST = {Fate.OFFSETS_LEFT_OPEN, Fate.COMMITTED_LEFT_OPEN}
_LOST = {
    Fate.LOST: {Api.END_TXN},
    Fate.OUTPUTS_LEFT_OPEN: {Api.ADD_OFFSETS, Api.END_TXN},
    Fate.LEFT_OPEN: {Api.END_TXN},
}


@dataclass(slots=True)
class _Call:
    """A client's connection and the one to the broker that goes with it."""

    client: socket.socket
    broker: socket.socket
    asked: dict[int, tuple[int, int] | None] = field(default_factory=dict)  # None: nobody hears the answer
    speaks: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, frame: bytes) -> None:
        with self.speaks:
            _send(self.client, frame)

    def end(self) -> None:
        for side in (self.client, self.broker):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)


class LossyWire:
    """A port that leads to a broker, and that clients take for the broker."""

    def __init__(self, bootstrap: str) -> None:
        host, _, port = bootstrap.rpartition(":")
        self._broker = (host, int(port))
        self._server = socket.create_server(("127.0.0.1", 0))
        ours = self._server.getsockname()[1]
        self.bootstrap = f"{host}:{ours}"
        self._theirs, self._ours = (host.encode() + struct.pack(">i", p) for p in (int(port), ours))
        self._lock = threading.Lock()
        self._fate: Fate | None = None
        self._producer: bytes | None = None  # id and epoch of the one that has met it
        self._ends = 0  # that it has asked for
        self._held: list[bytes] = []
        self.late_codes: list[int] = []  # what the broker said to what came late
        self.met = threading.Event()
        self.deaf_to: Api | None = None  # requests that reach the broker, and whose answers nobody hears
        self._calls: list[_Call] = []
        self._is_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def order(self, fate: Fate) -> None:
        """The producer that next asks for something that this fate concerns meets it, as often as it asks."""
        with self._lock:
            self._fate, self._producer, self._ends = fate, None, 0
            self.met.clear()

    def cut(self) -> None:
        """The broker is away: every connection ends, and none is accepted, until `mend`."""
        self._is_cut = True
        for call in self._calls:
            call.end()

    def mend(self) -> None:
        """The broker is back."""
        self._is_cut = False

    def close(self) -> None:
        """Accept nobody any more."""
        self._server.close()

    def __enter__(self) -> LossyWire:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                if self._is_cut:
                    client.close()
                    continue
                call = _Call(client, socket.create_connection(self._broker))
                self._calls.append(call)
                for pump in (self._ask, self._answer):
                    threading.Thread(target=pump, args=(call,), daemon=True).start()

    def _ask(self, call: _Call) -> None:
        with contextlib.suppress(OSError):
            for frame in _frames(call.client):
                api, version, correlation = struct.unpack(">hhi", frame[:8])
                fate = self._fate_of(api, frame)
                if fate is not None and api in _FORGOTTEN.get(fate, ()):
                    call.answer(frame[4:8] + _welcome(api, frame))
                elif fate is not None and api in _LOST.get(fate, ()):
                    continue
                elif fate is Fate.LATE and api == Api.END_TXN:
                    self._held.append(frame)
                else:
                    unheard = api == self.deaf_to or (fate is Fate.UNANSWERED and api == Api.END_TXN)
                    call.asked[correlation] = None if unheard else (api, version)
                    _send(call.broker, frame)
        call.end()

    def _answer(self, call: _Call) -> None:
        with contextlib.suppress(OSError):
            for frame in _frames(call.broker):
                what = call.asked.pop(struct.unpack(">i", frame[:4])[0])
                if what is None:
                    continue
                if what[0] == Api.INIT_PRODUCER_ID and not _code(frame, tags=what[1] >= 2):
                    self._send_held()
                call.answer(frame.replace(self._theirs, self._ours))
        call.end()

    def _fate_of(self, api: int, frame: bytes) -> Fate | None:
        with self._lock:
            fate = self._fate
            if fate is None or api not in (Api.ADD_PARTITIONS, Api.ADD_OFFSETS, Api.END_TXN):
                return None
            # An end alone concerns whatever has been begun; what stays open must meet it from its beginning.
            if self._producer is None and api != (Api.ADD_PARTITIONS if fate in _FORGOTTEN else Api.END_TXN):
                return None
            producer = _producer(frame)[0]
            if self._producer not in (None, producer):
                return None
            self._producer = producer
            self.met.set()
            self._ends += api == Api.END_TXN
            if fate in _NEXT_IS_LOST and self._ends:
                return Fate.LOST if self._ends > 1 else None
            return fate

    def _send_held(self) -> None:
        held, self._held = self._held, []
        for frame in held:
            with socket.create_connection(self._broker, timeout=_ANSWER_S) as broker:
                _send(broker, frame)
                self.late_codes.append(_code(next(_frames(broker)), tags=False))


def _frames(end: socket.socket) -> Iterator[bytes]:
    """Requests or answers without their length, until the connection ends."""
    with end.makefile("rb") as stream:
        while size := stream.read(4):
            yield stream.read(struct.unpack(">i", size)[0])


def _send(end: socket.socket, frame: bytes) -> None:
    end.sendall(struct.pack(">i", len(frame)) + frame)


def _producer(frame: bytes) -> tuple[bytes, bytes]:
    """Id and epoch of a request that begins with both, behind client and transactional id; and its rest."""
    at = 8
    for _ in range(2):
        at += 2 + struct.unpack(">h", frame[at : at + 2])[0]
    return frame[at : at + 10], frame[at + 10 :]


def _welcome(api: int, frame: bytes) -> bytes:
    """What a broker says that has taken note: no throttle, no error."""
    if api == Api.ADD_OFFSETS:
        return struct.pack(">ih", 0, 0)
    rest, said = _producer(frame)[1], struct.pack(">i", 0)
    (topics,), at = struct.unpack(">i", rest[:4]), 4
    said += rest[:4]
    for _ in range(topics):
        begin, at = at, at + 2 + struct.unpack(">h", rest[at : at + 2])[0]
        (partitions,) = struct.unpack(">i", rest[at : at + 4])
        at += 4
        said += rest[begin:at]
        for _ in range(partitions):
            said += rest[at : at + 4] + struct.pack(">h", 0)
            at += 4
    return said


def _code(answer: bytes, *, tags: bool) -> int:
    """The error of an answer that has it behind id, tags and throttle time."""
    at = 8 + tags
    return int(struct.unpack(">h", answer[at : at + 2])[0])
