"""One real broker that speaks every kind of security we support, each on a listener of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme
from confluent_kafka.admin import (
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from tests.security.authorities import AUDIENCE, ISSUER, Issuer, save_certificate, serving
from tests.services import start_broker
from tests.services.processes import free_port

USER = "worker"  # who every way of logging in makes us
PASSWORD = "correct-horse-battery-7731"
CLIENT_SECRET = "oauth-secret-5520-staple"
_WAIT_S = 30.0
_MODULES = "org.apache.kafka.common.security"
_PROTOCOLS = {"LOGIN": "SASL_SSL", "OPEN": "SASL_PLAINTEXT", "MUTUAL": "SSL"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Secured:
    """A broker with an authorizer, and what its clients need."""

    plain: str  # bootstrap of the listener where everything is allowed, for setting up
    ports: dict[
        str, int
    ]  # LOGIN: SASL over TLS; OPEN: SASL without TLS; MUTUAL: TLS with client certificates
    folder: Path  # ca.pem, other-ca.pem, worker.pem, worker.key
    issuer: Issuer

    def address(self, listener: str) -> str:
        """The bootstrap address of a listener."""
        return f"127.0.0.1:{self.ports[listener]}"


@contextmanager
def secured_broker(folder: Path) -> Iterator[Secured]:
    """Start it, with USER known to every mechanism; it has no rights yet.

    Raises:
        Unavailable: no Java, no jars, or it did not come up.
    """
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    other.cert_pem.write_to_path(folder / "other-ca.pem")
    server = save_certificate(authority, folder, "server", "127.0.0.1", "localhost")
    save_certificate(authority, folder, "worker", "worker.test", common_name=USER)
    save_certificate(other, folder, "stranger", "worker.test", common_name=USER)
    issuer = Issuer(clients={USER: CLIENT_SECRET})
    jwks = folder / "jwks.json"
    jwks.write_text(issuer.jwks())
    ports = {name: free_port() for name in _PROTOCOLS}
    with (
        serving(issuer, server),
        start_broker(
            _settings(folder, server, jwks),
            listeners=ports,
            jvm=[f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={jwks.as_uri()}"],
        ) as broker,
    ):
        _add_scram_users(broker.address)
        yield Secured(plain=broker.address, ports=ports, folder=folder, issuer=issuer)


def _settings(folder: Path, server: Path, jwks: Path) -> dict[str, str]:
    listeners = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **_PROTOCOLS}
    settings = {
        "listener.security.protocol.map": ",".join(f"{name}:{kind}" for name, kind in listeners.items()),
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(server),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(folder / "ca.pem"),
        "listener.name.mutual.ssl.client.auth": "required",
        "listener.name.mutual.ssl.principal.mapping.rules": "RULE:^.*CN=([^,]+).*$/$1/,DEFAULT",
        "listener.name.login.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
        "listener.name.open.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        # The PLAINTEXT and CONTROLLER listeners are the tests' own back door; nobody else has any right.
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "false",
    }
    login = "listener.name.login"
    settings |= {
        f"{login}.plain.sasl.jaas.config": (
            f'{_MODULES}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        ),
        f"{login}.oauthbearer.sasl.jaas.config": (f"{_MODULES}.oauthbearer.OAuthBearerLoginModule required;"),
        f"{login}.oauthbearer.sasl.server.callback.handler.class": (
            f"{_MODULES}.oauthbearer.OAuthBearerValidatorCallbackHandler"
        ),
        f"{login}.oauthbearer.sasl.oauthbearer.jwks.endpoint.url": jwks.as_uri(),
        f"{login}.oauthbearer.sasl.oauthbearer.expected.audience": AUDIENCE,
        f"{login}.oauthbearer.sasl.oauthbearer.expected.issuer": ISSUER,
        # A client that lets its token expire without a new login is cut off.
        f"{login}.oauthbearer.connections.max.reauth.ms": "60000",
    }
    for listener, mechanism in (
        ("login", "scram-sha-256"),
        ("login", "scram-sha-512"),
        ("open", "scram-sha-512"),
    ):
        settings[f"listener.name.{listener}.{mechanism}.sasl.jaas.config"] = (
            f"{_MODULES}.scram.ScramLoginModule required;"
        )
    return settings


def _add_scram_users(bootstrap: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
        change = UserScramCredentialUpsertion(USER, ScramCredentialInfo(mechanism, 4096), PASSWORD.encode())
        for future in admin.alter_user_scram_credentials([change]).values():
            future.result(_WAIT_S)
