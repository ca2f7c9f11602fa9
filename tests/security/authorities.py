"""Certificates, keys and an OAuth token endpoint, made for one test session."""

from __future__ import annotations

import base64
import json
import ssl
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

ISSUER = "https://issuer.test"
AUDIENCE = "penstock-kafka"


def save_certificate(
    authority: trustme.CA, folder: Path, name: str, *hosts: str, common_name: str = ""
) -> Path:
    """Issue a certificate and save it as NAME.pem (chain), NAME.key, and NAME.both.pem; returns the last.

    Java reads keys as PKCS#8 only, so that is what is written.
    """
    leaf = authority.issue_cert(*hosts, common_name=common_name or None)
    key = load_pem_private_key(leaf.private_key_pem.bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    chain = b"".join(pem.bytes() for pem in leaf.cert_chain_pems)
    (folder / f"{name}.pem").write_bytes(chain)
    (folder / f"{name}.key").write_bytes(key)
    both = folder / f"{name}.both.pem"
    both.write_bytes(key + chain)
    return both


@dataclass(slots=True)
class Issuer:
    """An OpenID token endpoint for the client-credentials grant, over HTTPS."""

    clients: dict[str, str]  # client id to secret
    lifetime_s: int = 300
    issued: int = 0
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, {"kid": "k1", "alg": "RS256"}))
    url: str = ""

    def jwks(self) -> str:
        """The public keys, as brokers read them."""
        return json.dumps(KeySet([self.key]).as_dict(private=False))

    def token(self, client: str) -> str:
        """A signed token of this client."""
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": client,
            "iat": now + min(0, self.lifetime_s) - 1,
            "exp": now + self.lifetime_s,
        }
        return jwt.encode({"alg": "RS256", "kid": "k1"}, claims, self.key)

    def answer(self, authorization: str, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        """What the endpoint says to one request."""
        kind, _, coded = authorization.partition(" ")
        client, _, secret = (
            base64.b64decode(coded).decode().partition(":") if kind == "Basic" else ("", "", "")
        )
        client, secret = urllib.parse.unquote(client), urllib.parse.unquote(secret)
        if form.get("grant_type") != "client_credentials" or self.clients.get(client) != secret:
            return 401, {"error": "invalid_client", "error_description": "unknown client or wrong secret"}
        self.issued += 1
        return 200, {
            "access_token": self.token(client),
            "token_type": "Bearer",
            "expires_in": self.lifetime_s,
        }


@contextmanager
def serving(issuer: Issuer, certificate: Path) -> Iterator[Issuer]:
    """The issuer's endpoint on a loopback port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
            status, said = issuer.answer(
                self.headers["Authorization"] or "", dict(urllib.parse.parse_qsl(text))
            )
            body = json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing to read."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    issuer.url = f"https://127.0.0.1:{server.server_address[1]}/token"
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5.0)
