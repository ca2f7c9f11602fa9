"""What each weather of a link does to a connection through it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.chaos.proxy import Proxy
from tests.services.processes import free_port


def echo(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def answer(connection: socket.socket) -> None:
    with connection:
        while data := connection.recv(100):
            connection.sendall(data)


@pytest.fixture(scope="module")
def link() -> Iterator[tuple[Proxy, int]]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        threading.Thread(target=echo, args=(server,), daemon=True).start()
        port = free_port()
        with Proxy({"a": (port, server.getsockname()[1])}) as proxy:
            yield proxy, port


@pytest.fixture
def connection(link: tuple[Proxy, int]) -> Iterator[socket.socket]:
    link[0].heal("a")
    with socket.create_connection(("127.0.0.1", link[1]), timeout=5) as made:
        yield made
    link[0].heal("a")


def says(connection: socket.socket, word: bytes) -> bytes:
    connection.sendall(word)
    return connection.recv(100)


def test_a_healthy_link_lets_everything_through(connection: socket.socket) -> None:
    assert says(connection, b"hello") == b"hello"


def has_ended(connection: socket.socket) -> bool:
    try:
        return says(connection, b"hello") == b""
    except OSError:
        return True


def test_a_cut_ends_connections_and_refuses_new_ones_until_healed(
    link: tuple[Proxy, int], connection: socket.socket
) -> None:
    proxy, port = link
    assert says(connection, b"hello") == b"hello"
    proxy.cut("a")
    assert has_ended(connection)
    with socket.create_connection(("127.0.0.1", port), timeout=5) as again:
        assert has_ended(again)
    proxy.heal("a")
    with socket.create_connection(("127.0.0.1", port), timeout=5) as again:
        assert says(again, b"hello") == b"hello"


def test_a_stalled_link_is_silent_and_loses_nothing(
    link: tuple[Proxy, int], connection: socket.socket
) -> None:
    proxy, _ = link
    proxy.stall("a")
    connection.settimeout(0.3)
    with pytest.raises(TimeoutError):
        says(connection, b"hello")
    proxy.heal("a")
    connection.settimeout(5)
    assert connection.recv(100) == b"hello"


def test_a_slow_link_holds_each_chunk_up(link: tuple[Proxy, int], connection: socket.socket) -> None:
    link[0].delay("a", 0.2)
    begun_s = time.monotonic()
    assert says(connection, b"hello") == b"hello"
    assert time.monotonic() - begun_s >= 0.4, "once on the way there and once on the way back"
