"""`python -m tests.services` starts both until Ctrl-C; `python -m tests.services install` fetches them."""

from __future__ import annotations

import signal
import sys
import threading

from tests.services.found import KAFKA_VARIABLE, REDIS_VARIABLE, real_services
from tests.services.install import install
from tests.services.processes import Unavailable


def main(arguments: list[str]) -> int:
    """Run one of the two commands and return the exit code."""
    if arguments == ["install"]:
        for trouble in install():
            print(f"services: {trouble}", file=sys.stderr)
        return 0  # the tests themselves say what was skipped, and fail for it in CI
    if arguments:
        print("usage: python -m tests.services [install]", file=sys.stderr)
        return 2
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    try:
        with real_services() as services:
            print(f"export {KAFKA_VARIABLE}={services.kafka_bootstrap}")
            print(f"export {REDIS_VARIABLE}={services.redis_url}", flush=True)
            ended.wait()
    except Unavailable as error:
        print(f"services: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
