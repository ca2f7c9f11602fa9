"""A TCP proxy in a process of its own, whose links can be cut, stalled, delayed and healed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CHUNK_BYTES = 1 << 16
DEAF_S = 30.0  # a proxy that does not answer a command for so long is broken


@dataclass(slots=True)
class _Link:
    """One port that leads to another."""

    target_port: int
    is_cut: bool = False
    delay_s: float = 0.0
    flows: asyncio.Event = field(default_factory=asyncio.Event)
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    def order(self, what: str, delay_s: float) -> None:
        """Change the weather: cut ends connections and refuses new ones; stall keeps them, silent."""
        self.is_cut = what == "cut"
        self.delay_s = delay_s if what == "delay" else 0.0
        if what == "stall":
            self.flows.clear()
        else:
            self.flows.set()
        if self.is_cut:
            for writer in self.open:
                writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, both ways, until either end or a cut ends it."""
        if self.is_cut:
            writer.transport.abort()
            return
        self.open.add(writer)
        try:
            there = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.transport.abort()
            self.open.discard(writer)
            return
        self.open.add(there[1])
        pumps = [
            asyncio.ensure_future(self._pump(reader, there[1])),
            asyncio.ensure_future(self._pump(there[0], writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            for end in (writer, there[1]):
                end.transport.abort()
                self.open.discard(end)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK_BYTES):
                await self.flows.wait()
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                writer.write(data)
                await writer.drain()


async def _run(ports: Mapping[str, list[int]]) -> None:
    links = {name: _Link(target_port=target) for name, (_, target) in ports.items()}
    servers = []
    for name, (port, _) in ports.items():
        links[name].flows.set()
        servers.append(await asyncio.start_server(links[name].serve, "127.0.0.1", port))
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        links[order["link"]].order(order["do"], order["delay_s"])
        print("done", flush=True)


class Proxy:
    """The running proxy; use it as a context."""

    def __init__(self, links: Mapping[str, tuple[int, int]]) -> None:
        """Open every link: name to the port to listen on and the loopback port that it leads to."""
        self.links = tuple(links)
        self._lock = threading.Lock()  # faults overlap
        self._process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.proxy", json.dumps(links)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            start_new_session=True,  # Ctrl-C ends it through its closed stdin, after everything else
        )
        self._answer()

    def cut(self, link: str) -> None:
        """End the link's connections and refuse new ones."""
        self._order(link, "cut")

    def stall(self, link: str) -> None:
        """Keep connections open and let nothing through; what was sent arrives when it is healed."""
        self._order(link, "stall")

    def delay(self, link: str, delay_s: float) -> None:
        """Hold each chunk up for so long."""
        self._order(link, "delay", delay_s)

    def heal(self, link: str) -> None:
        """Let everything through at once again."""
        self._order(link, "heal")

    def close(self) -> None:
        """End every connection and the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _order(self, link: str, what: str, delay_s: float = 0.0) -> None:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps({"link": link, "do": what, "delay_s": delay_s}) + "\n")
            self._process.stdin.flush()
            self._answer()

    def _answer(self) -> None:
        assert self._process.stdout is not None
        watchdog = threading.Timer(DEAF_S, self._process.kill)
        watchdog.start()
        try:
            if not self._process.stdout.readline():
                raise RuntimeError(f"the proxy ended with {self._process.wait(5)}")
        finally:
            watchdog.cancel()


if __name__ == "__main__":
    asyncio.run(_run(json.loads(sys.argv[1])))
