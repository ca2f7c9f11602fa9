"""What a pipeline file may say of logins, personal fields and the admin port, one field a key."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from worker.feature_types import SECTION
from worker.key_types import Int, PathInFile, Secret, Text, wrong


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class RegistryLogin:
    """How to log in to the schema registries that `source.registry` and `outputs.registry` name."""

    username: Text | None = Field(default=None, description="For basic auth; or in the URL.")
    password: Text | None = Field(
        default=None, description="For basic auth; from outside: `${file:...}` or `${VAR}`."
    )
    ca_file: PathInFile | None = Field(
        default=None, description="Authorities to trust, PEM. Default: those of the system."
    )
    certificate_file: PathInFile | None = Field(
        default=None, description="Client certificate, PEM, for mutual TLS."
    )
    key_file: PathInFile | None = Field(default=None, description="Its private key, PEM.")

    def __post_init__(self) -> None:
        if (self.username is None) != (self.password is None):
            raise wrong("one of username and password", "both, or neither")
        if (self.certificate_file is None) != (self.key_file is None):
            raise wrong("one of certificate_file and key_file", "both, or neither")


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class PrivacyOptions:
    """Fields that the schema marks `"pii": true`, as keyed hashes."""

    hash_key: Secret = Field(
        description="Key of the hashes (HMAC-SHA-256), at least 16 characters, from outside: `${file:...}`."
    )
    in_: Annotated[tuple[Literal["alerts", "dead_letters"], ...], Field(min_length=1)] = Field(
        default=("alerts", "dead_letters"),
        description="Where: keys and ids of `alerts`, the header `penstock.key_hash` of `dead_letters`.",
    )


@dataclass(frozen=True, slots=True, kw_only=True, config=SECTION)
class Admin:
    """Where metrics and health are served."""

    host: Text = Field(default="127.0.0.1", description="Address to listen on.")
    port: Annotated[Int, Field(ge=0, le=65535)] | None = Field(
        default=8080, description="Port of `/metrics`, `/healthz`, `/readyz`; 0: any free one, `null`: none."
    )
    token: Secret | None = Field(
        default=None,
        description="Bearer token, at least 16 characters, without which nothing can be changed over HTTP.",
    )
