"""Who used the processors meanwhile: the worker, Redis, brokers on this machine, and everybody together."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_cache.redis_store import RedisStore
from feature_cache.store import StoreRefusedError, StoreUnavailableError

_LISTENS = "0A"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """CPU seconds so far; None where nobody says."""

    redis_s: float | None
    brokers_s: float | None  # of those on this machine
    machine_s: float | None  # all processors of this machine together


class Others:
    """Knows the processes to ask: looked up once."""

    def __init__(self, brokers: Sequence[tuple[str, int]], store: RedisStore | None) -> None:
        """Args:
        brokers: host and port of each; those of other machines are left out.
        store: asked by INFO, wherever it is.
        """
        self._store = store
        here = {port for host, port in brokers if is_this_machine(host)}
        self._broker_pids = listeners(here)

    def spent(self) -> Spent:
        """What they have used so far."""
        return Spent(
            redis_s=_redis_s(self._store),
            brokers_s=sum(map(_process_s, self._broker_pids)) if self._broker_pids else None,
            machine_s=_machine_s(),
        )


def is_this_machine(host: str) -> bool:
    """Whether a host is this one: only then can a socket be bound to its address."""
    with suppress(OSError):
        for family, _, _, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM):
            with suppress(OSError), closing(socket.socket(family, socket.SOCK_DGRAM)) as probe:
                probe.bind(address)
                return True
    return False


def listeners(ports: set[int]) -> list[int]:
    """Processes of this machine that listen on these TCP ports, as far as we may look; none without /proc."""
    inodes = set[str]()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) in ports:
                    inodes.add(f"socket:[{fields[9]}]")
    return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if inodes & _sockets(folder)]


def _sockets(process: Path) -> set[str]:
    found = set[str]()
    with suppress(OSError):
        for handle in (process / "fd").iterdir():
            with suppress(OSError):
                found.add(os.readlink(handle))
    return found


def _process_s(pid: int) -> float:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _machine_s() -> float | None:
    with suppress(OSError):
        found = re.match(r"cpu +(.*)", Path("/proc/stat").read_text())
        if found is not None:
            user, nice, system, _idle, _iowait, *rest = map(int, found[1].split())
            return (user + nice + system + sum(rest[:2])) / os.sysconf("SC_CLK_TCK")
    return None


def _redis_s(store: RedisStore | None) -> float | None:
    if store is None:
        return None
    try:
        said: list[dict[str, Any]] = [store.ask(b"", b"INFO", b"cpu", node=node) for node in store.masters()]
    except (StoreUnavailableError, StoreRefusedError):
        return None
    return sum(float(one["used_cpu_sys"]) + float(one["used_cpu_user"]) for one in said)
