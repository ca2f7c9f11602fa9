"""TLS and users of Redis work with exactly the rights that docs/security.md names, and show no password."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
import trustme
from redis.connection import SSLConnection

from feature_cache.redis_store import RedisStore
from feature_cache.store import StoreRefusedError, StoreUnavailableError
from tests.builders import pipeline
from tests.contract.test_store import new_meta
from tests.services import Service, start_redis
from tests.services.processes import free_port
from tests.services.redis_group import RedisGroup, start_cluster, start_sentinel
from tests.services.redis_server import tls_arguments
from worker.config import Pipeline
from worker.doctor import Finding, examine_store, show

pytestmark = pytest.mark.redis

ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "open/ses@me#1"
PATIENT = "timeout=5s"


def documented_rights(only: str = "") -> list[str]:
    """The rules of the documented line for the user, as ACL SETUSER takes them; `only` picks a line."""
    text = (ROOT / "docs" / "security.md").read_text()
    line = next(line for line in re.findall(r"^user penstock (.*)$", text, re.MULTILINE) if only in line)
    return [rule.replace("PASSWORD", PASSWORD) for rule in line.split()]


def works(store: RedisStore, lane: str = "g:0") -> None:
    """Everything that a worker does, also the first time, when the server does not know the scripts."""
    taken = store.take(lane, generation=1)
    assert store.write(lane, taken, new_meta(taken, 1), [b"a"], [b"1"])
    assert store.read([(lane, [b"a", b"b"])]) == [(new_meta(taken, 1), [b"1", None])]
    assert store.meta(lane) == new_meta(taken, 1)
    assert store.ping()


def examined(made: Pipeline) -> dict[str, Finding]:
    """What the doctor says of the store."""
    return {finding.what: finding for finding in examine_store(made)}


def with_store(folder: Path, address: str) -> Pipeline:
    """A pipeline file with this store; its password, or all of it, comes from a file."""
    if "${" not in address:
        (folder / "store").write_text(address)
        address = "${file:store}"
    return pipeline(folder, "  amount: {kind: field, field: amount}", rest=f"state: {{store: '{address}'}}")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, server.*, client.* of one authority; other.pem is of an authority that signed nothing here."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    for name, host in (("server", "127.0.0.1"), ("client", "penstock"), ("elsewhere", "elsewhere.test")):
        issued = authority.issue_cert(host)
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
    return folder


@pytest.fixture(scope="module")
def guarded(certificates: Path) -> Iterator[tuple[Service, int]]:
    """A Redis with TLS and the documented user, and its TLS port; its own address is plain."""
    port = free_port()
    with start_redis(*tls_arguments(certificates, port)) as service:
        with redis.Redis.from_url(service.address) as client:
            client.execute_command("ACL", "SETUSER", "penstock", *documented_rights())
        yield service, port


def test_the_documented_user_can_do_what_the_store_does_over_tls(
    guarded: tuple[Service, int], certificates: Path, tmp_path: Path
) -> None:
    """From the pipeline file, with the password in a file."""
    (tmp_path / "redis-password").write_text(f"{PASSWORD}\n")
    address = (
        f"rediss://penstock:${{file:redis-password}}@127.0.0.1:{guarded[1]}/0"
        f"?ssl_ca_certs={certificates / 'ca.pem'}&{PATIENT}"
    )
    made = with_store(tmp_path, address)

    store = RedisStore(str(made.state.store))
    works(store)
    store.close()

    found = examined(made)
    assert len(found) == 5
    assert all(finding.works for finding in found.values()), found
    assert "+config|get" in found["store persistence"].found
    assert PASSWORD not in repr(made)


def test_the_documented_user_can_do_nothing_else(guarded: tuple[Service, int]) -> None:
    plain = guarded[0].address.removeprefix("redis://127.0.0.1:").removesuffix("/0")
    with redis.Redis(port=int(plain), username="penstock", password=PASSWORD) as client:
        for command in (
            ("GET", "other:key"),
            ("SET", "other", "1"),
            ("DEL", "ps:{g:0}"),
            ("KEYS", "*"),
            ("FLUSHALL",),
            ("CONFIG", "SET", "maxmemory", "1"),
            ("EVAL", "return redis.call('GET', 'other')", "0"),
            ("EVAL", "return redis.call('DEL', KEYS[1])", "1", "ps:{g:0}"),
        ):
            with pytest.raises(redis.ResponseError, match=r"permission|can't access|can't run"):
                client.execute_command(*command)


def test_a_wrong_password_is_told_clearly_and_never_shown(
    guarded: tuple[Service, int], tmp_path: Path
) -> None:
    where = guarded[0].address.removeprefix("redis://")
    for address in (f"redis://penstock:{PASSWORD}x@{where}", f"redis://nobody:{PASSWORD}@{where}"):
        store = RedisStore(address)
        for _ in range(5):
            with pytest.raises(StoreRefusedError, match="user, password and rights") as raised:
                store.take("g:0", generation=1)
            assert PASSWORD not in str(raised.value)
        assert PASSWORD not in repr(store.address)
        found = show(examine_store(with_store(tmp_path, address)), as_json=False)
        assert "does not let us in" in found
        assert PASSWORD not in found


def test_a_right_that_is_missing_is_named(guarded: tuple[Service, int]) -> None:
    service = guarded[0]
    with redis.Redis.from_url(service.address) as client:
        client.execute_command("ACL", "SETUSER", "reader", "on", ">secret", "~ps:*", "-@all", "+get", "+mget")
    store = RedisStore(service.address.replace("redis://", "redis://reader:secret@"))

    with pytest.raises(StoreRefusedError, match="evalsha"):
        store.take("g:0", generation=1)
    assert store.meta("never") is None
    with redis.Redis.from_url(service.address) as client:
        client.execute_command("ACL", "SETUSER", "reader", "+evalsha", "+eval")
    with pytest.raises(StoreRefusedError, match="run this command"):  # SET, within the script
        store.take("g:0", generation=1)
    store.close()


def test_a_server_without_a_certificate_that_we_trust_is_refused(
    guarded: tuple[Service, int], certificates: Path
) -> None:
    where = f"rediss://penstock:{PASSWORD}@127.0.0.1:{guarded[1]}"
    for address in (
        where,  # the system's authorities do not know ours
        f"{where}?ssl_ca_certs={certificates / 'other.pem'}",
        f"{where.replace('127.0.0.1', 'localhost')}?ssl_ca_certs={certificates / 'ca.pem'}",  # another name
    ):
        with pytest.raises(StoreRefusedError, match="not trusted") as raised:
            RedisStore(f"{address}{'&' if '?' in address else '?'}{PATIENT}").meta("g:0")
        assert PASSWORD not in str(raised.value)

    with pytest.raises(StoreRefusedError, match="no-such-file"):
        RedisStore(f"{where}?ssl_ca_certs=/no-such-file.pem").meta("g:0")


def test_without_tls_a_server_that_wants_it_is_no_crash(guarded: tuple[Service, int]) -> None:
    with pytest.raises(StoreUnavailableError):
        RedisStore(f"redis://127.0.0.1:{guarded[1]}").meta("g:0")
    plain = guarded[0].address.replace("redis://", "rediss://")
    with pytest.raises((StoreUnavailableError, StoreRefusedError)):
        RedisStore(plain).meta("g:0")


def test_a_server_that_asks_for_our_certificate_gets_it(certificates: Path) -> None:
    port = free_port()
    with start_redis(*tls_arguments(certificates, port, asks_clients=True)):
        address = f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificates / 'ca.pem'}&{PATIENT}"
        with pytest.raises((StoreRefusedError, StoreUnavailableError)):  # some servers just hang up
            RedisStore(address).meta("g:0")

        store = RedisStore(
            f"{address}&ssl_certfile={certificates / 'client.pem'}&ssl_keyfile={certificates / 'client.key'}"
        )
        works(store)
        store.close()


def test_what_a_server_sends_late_in_the_handshake_is_no_answer_that_nobody_waited_for(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client on a busy machine finds session tickets of TLS 1.3 where it looks for leftovers."""
    port = free_port()
    connect = SSLConnection.connect

    def slowly(connection: SSLConnection) -> None:
        connect(connection)  # type: ignore[no-untyped-call]
        time.sleep(0.1)

    monkeypatch.setattr(SSLConnection, "connect", slowly)
    with start_redis(*tls_arguments(certificates, port)):
        store = RedisStore(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificates / 'ca.pem'}&{PATIENT}")
        works(store)
        store.close()


@pytest.fixture(scope="module")
def guarded_cluster(certificates: Path) -> Iterator[tuple[RedisGroup, str]]:
    """A cluster that talks TLS also within itself, with the documented user, and its TLS address."""
    ports = [free_port() for _ in range(3)]
    settings = [
        (*tls_arguments(certificates, port), "--tls-cluster", "yes", "--tls-replication", "yes")
        for port in ports
    ]
    with start_cluster(each=settings) as group:
        for server in group.servers:
            with redis.Redis.from_url(server.address) as client:
                client.execute_command("ACL", "SETUSER", "penstock", *documented_rights("+cluster|slots"))
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        yield (
            group,
            f"rediss+cluster://penstock:{PASSWORD}@{hosts}?ssl_ca_certs={certificates / 'ca.pem'}&{PATIENT}",
        )


def test_a_cluster_over_tls_needs_three_rights_more(
    guarded_cluster: tuple[RedisGroup, str], tmp_path: Path
) -> None:
    store = RedisStore(guarded_cluster[1])
    for number in range(6):  # lanes at all of its nodes
        works(store, f"g:{number}")
    store.close()

    found = examined(with_store(tmp_path, guarded_cluster[1]))
    assert all(finding.works for finding in found.values()), found
    assert found["store version"].found.count("127.0.0.1:") == 3
    assert PASSWORD not in json.dumps([finding.found for finding in found.values()])


def test_a_cluster_refuses_a_wrong_password_too(guarded_cluster: tuple[RedisGroup, str]) -> None:
    with pytest.raises(StoreRefusedError, match="user, password and rights") as raised:
        RedisStore(guarded_cluster[1].replace(PASSWORD, f"{PASSWORD}x")).meta("g:0")
    assert PASSWORD not in str(raised.value)


def test_sentinels_and_the_servers_that_they_name_are_asked_over_tls(
    certificates: Path, tmp_path: Path
) -> None:
    with start_sentinel(folder=certificates) as group:
        for server in group.servers[:2]:
            with redis.Redis.from_url(server.address) as client:
                client.execute_command("ACL", "SETUSER", "penstock", *documented_rights())
        with redis.Redis.from_url(group.servers[2].address) as client:
            rules = ("on", ">watch&me", "~*", "-@all", "+sentinel|masters")
            client.execute_command("ACL", "SETUSER", "looker", *rules)
        login = "sentinel_username=looker&sentinel_password=watch%26me"
        options = f"ssl_ca_certs={certificates / 'ca.pem'}&{PATIENT}&{login}"
        address = f"{group.address.replace('://', f'://penstock:{PASSWORD}@')}?{options}"

        store = RedisStore(address)
        works(store)
        store.close()
        assert all(finding.works for finding in examined(with_store(tmp_path, address)).values())

        with pytest.raises(StoreRefusedError, match="user, password and rights") as raised:
            RedisStore(address.replace("%26me", "%26you")).meta("g:0")
        assert "you" not in str(raised.value).replace("your", "")
        with pytest.raises(StoreRefusedError, match="not trusted"):
            RedisStore(address.replace("ca.pem", "other.pem")).meta("g:0")
