"""What an error of the Redis client means for whoever asked: wait, call a person, or mend our code."""

from __future__ import annotations

import ssl

import redis
from redis.exceptions import (
    BusyLoadingError,
    ClusterError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    TryAgainError,
)

from feature_cache.store import StoreRefusedError, StoreUnavailableError

ERRORS = (redis.RedisError, RedisClusterException, OSError)  # what a client may raise

_NO_ENTRY = (redis.AuthenticationError, NoPermissionError)
_NO_ENTRY_IN_SCRIPT = "The user executing the script can't"
# Answers of a server that cannot serve now; anything else that it refuses is a mistake of ours.
_NOT_NOW = ("BUSY", "MISCONF", "NOREPLICAS", "UNKILLABLE")
_NOT_NOW_KINDS = (BusyLoadingError, ClusterError, OutOfMemoryError, ReadOnlyError, TryAgainError)


def was_answered(error: Exception) -> bool:
    """Whether a server said this at once; a cluster that is down takes its time to say so."""
    return isinstance(error, redis.ResponseError) and not isinstance(error, ClusterError)


def explained(error: Exception, text: str) -> StoreUnavailableError | StoreRefusedError | None:
    """The error to raise instead; None: a mistake of ours, which is to be seen as it is.

    Args:
        error: one of ERRORS.
        text: the error in words, without any password.
    """
    if (refused := _refused(error)) is not None:
        return StoreRefusedError(f"Redis {refused} ({text})")
    if isinstance(error, _NOT_NOW_KINDS) or str(error).startswith(_NOT_NOW):
        return StoreUnavailableError(f"Redis cannot serve now ({text})")
    if isinstance(error, redis.ResponseError | redis.DataError):
        return None
    return StoreUnavailableError(f"Redis did not answer ({text}): is state.store right, is it running?")


def _refused(error: Exception) -> str | None:
    """What a person has to mend, if that is so."""
    causes = _causes(error)
    said = " ".join(map(str, causes))  # a cluster's client tells of a node in words only
    if any(isinstance(cause, _NO_ENTRY) for cause in causes) or _NO_ENTRY_IN_SCRIPT in said:
        return "does not let us in: see the user, password and rights of state.store"
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes) or "VERIFY_FAILED" in said:
        return "shows a certificate that is not trusted: see ssl_ca_certs in state.store"
    if any(isinstance(cause, FileNotFoundError) for cause in causes):
        return "cannot be asked without a file that state.store names"
    if "Cluster mode is not enabled" in said:
        return "is no cluster: write redis:// in state.store"
    if isinstance(error, MovedError):
        return "is a cluster: write redis+cluster:// in state.store"
    return None


def _causes(error: BaseException) -> list[BaseException]:
    """The error and those that it came from."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    return chain
