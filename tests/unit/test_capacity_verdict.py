"""What gives out first is told from who was busy."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

from worker.capacity_cpu import Others, is_this_machine, listeners
from worker.capacity_verdict import bottleneck


def busy(*, poll: float, infer: float, machine: float | None, **cores: float | None) -> dict[str, Any]:
    used = {"worker": 0.5, "redis": 0.1, "brokers": 0.1, "machine": machine, "of": 8, **cores}
    return {"cores": used, "stage_share": {"poll": poll, "infer": infer, "features": 0.02}}


@pytest.mark.parametrize(
    ("given", "part"),
    [
        (busy(poll=0.01, infer=0.95, machine=7.9), "machine"),
        (busy(poll=0.01, infer=0.95, machine=3.0), "worker"),
        (busy(poll=0.01, infer=0.95, machine=None, worker=None, brokers=None), "worker"),
        (busy(poll=0.60, infer=0.30, machine=3.0, redis=0.97), "redis"),
        (busy(poll=0.60, infer=0.30, machine=7.1, brokers=6.5), "brokers"),
        (busy(poll=0.60, infer=0.30, machine=3.0, redis=None), "waiting"),
    ],
)
def test_the_cause_furthest_up_is_named(given: dict[str, Any], part: str) -> None:
    found = bottleneck(given)

    assert found["part"] == part
    assert found["model_share"] == given["stage_share"]["infer"]
    assert found["loop_busy"] == pytest.approx(given["stage_share"]["infer"] + 0.02)


def test_whoever_listens_on_a_port_here_is_found_and_nobody_else() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = listeners({port})
        spent = Others([("127.0.0.1", port)], None).spent()
        elsewhere = Others([("192.0.2.1", port)], None).spent()  # an address that no machine has (RFC 5737)

    assert found == [os.getpid()]
    assert spent.brokers_s is not None
    assert 0 < spent.brokers_s <= sum(os.times()[:2]) + 1
    assert elsewhere.brokers_s is None
    assert listeners({port}) == []


def test_an_address_of_another_machine_is_told_from_one_of_this() -> None:
    assert is_this_machine("127.0.0.1")
    assert is_this_machine("localhost")
    assert not is_this_machine("192.0.2.1")
    assert not is_this_machine("no-such-host.invalid")
