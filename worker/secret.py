"""Text that does not show itself: repr() of a secret is ten stars."""

from __future__ import annotations

import re
from urllib.parse import unquote

STARS = "**********"
SECRET_KEY = re.compile(
    r"password|passwd|passphrase|secret|token(?!\.endpoint)|credential|jaas|key\.pem|hash_key"
    r"|oauthbearer\.config|assertion\.private\.key(?!\.file)",
    re.IGNORECASE,
)
# To the last @: a password with a slash is one that somebody forgot to escape, and no less secret.
URL_PASSWORD = re.compile(r"(?<=://)(?P<name>[^/@?#:]*):(?P<password>.*)(?=@)")
QUERY_PASSWORD = re.compile(r"(?<=[?&])(?P<name>[a-z_]*password)=(?P<password>[^&]*)")


class Masked(str):
    """A text whose repr() hides it, or hides the password of the URL it is.

    It is a `str` so that clients take it as it is. What formats or serializes it must look at
    `hidden`: those are the parts that no log line may show.
    """

    __slots__ = ()

    @property
    def hidden(self) -> frozenset[str]:
        """The parts to hide, as written and as sent (percent escapes undone)."""
        found = {match["password"] for match in _passwords(self)} or {str(self)}
        return frozenset((found | set(map(unquote, found))) - {""})

    def __repr__(self) -> str:
        return repr(shown(self))


def is_secret_key(key: str) -> bool:
    """Return whether a setting of this name holds a secret."""
    return SECRET_KEY.search(key) is not None


def is_literal_secret(written: str, is_secret: bool) -> bool:
    """Return whether a file shows a secret to whoever reads it.

    Args:
        written: the scalar before substitution.
        is_secret: it stands under a secret's name and nothing of it comes from outside.
    """
    passwords = [match["password"] for match in _passwords(written)]
    return any("${" not in password for password in passwords) if passwords else is_secret and bool(written)


def masked_url(text: str) -> str:
    """Return the text as `Masked` when it is a URL with a password, else as it is."""
    return Masked(text) if _passwords(text) else text


def shown(text: str) -> str:
    """Return what may be shown of a text: all of it, or for a secret the stars."""
    if not isinstance(text, Masked):
        return text
    if not _passwords(text):
        return STARS
    return QUERY_PASSWORD.sub(rf"\g<name>={STARS}", URL_PASSWORD.sub(rf"\g<name>:{STARS}", text))


def _passwords(text: str) -> list[re.Match[str]]:
    in_url = URL_PASSWORD.search(text)
    in_query = list(QUERY_PASSWORD.finditer(text)) if "://" in text else []
    return [*([in_url] if in_url else []), *in_query]


def redact(text: str, secrets: frozenset[str]) -> str:
    """Return the text with every occurrence of a secret replaced; for log lines and crash reports."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, STARS)
    return text
