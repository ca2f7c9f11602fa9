"""Why Kafka does not let a client in, which librdkafka tells apart from the call that then fails."""

from __future__ import annotations

import re
from typing import Any

import structlog
from confluent_kafka import KafkaError

_WHEN = re.compile(r" \(after \d+ms in state \w+(, \d+ identical error\(s\) suppressed)?\)")
# A broker that is down may come back; a password or certificate that is refused stays refused.
_DEFINITE = {KafkaError._AUTHENTICATION, KafkaError._SSL}
_MEND = {
    KafkaError._AUTHENTICATION: "check sasl.mechanism and the login in kafka.properties, and that the broker "
    "knows this user",
    KafkaError._SSL: "check ssl.ca.location and the certificate's host name in kafka.bootstrap",
}
_MEND_CERTIFICATE = (
    "the broker refused our certificate: check ssl.certificate.location and ssl.key.location, and that the "
    "broker trusts who signed it"
)


class Refusals:
    """The last reason that one client gave; `note` is its `error_cb`."""

    def __init__(self) -> None:
        self.reason = ""  # empty: none so far
        self.is_definite = False  # waiting will not help, somebody must mend something
        self.was_without_brokers = False  # since it was last set to False
        self._log = structlog.get_logger()

    def note(self, error: Any) -> None:
        """Remember an error that is more than `all brokers are down`, and log it when it is news."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.was_without_brokers = True
            return
        is_alert = "alert" in error.str() and "certificate" in error.str()
        is_definite = error.code() in _DEFINITE or is_alert
        if self.is_definite and not is_definite:
            return  # a refusal is followed by disconnects, which explain less
        mend = _MEND_CERTIFICATE if is_alert else _MEND.get(error.code(), "")
        said = _WHEN.sub("", error.str()).strip()
        reason = f"{said}; {mend}" if mend else said
        if is_definite and reason != self.reason:
            self._log.warning("kafka refuses", why=reason)
        self.reason, self.is_definite = reason, is_definite

    def forget(self) -> None:
        """Brokers answer again."""
        self.reason, self.is_definite = "", False
