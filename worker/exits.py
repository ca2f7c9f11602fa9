"""What the worker's exit codes mean; supervisors and tests read them from here."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `penstock`."""

    OK = 0
    BUG = 1
    USAGE = 2
    CONFIG = 3
    MODEL = 4
    KAFKA = 5
    STORE = 6
    FENCED = 7
    DEAD_LETTERS = 8
    DEVICE = 9
    UNHEALTHY = 10

    @property
    def meaning(self) -> str:
        """What the code says, in a few words."""
        return _MEANINGS[self]


_MEANINGS = {
    Exit.OK: "asked to stop, and everything polled was scored and committed",
    Exit.BUG: "an error of our own; the traceback is in the log",
    Exit.USAGE: "the command line was wrong",
    Exit.CONFIG: "a pipeline file, schema or model card is wrong; a restart will not help",
    Exit.MODEL: "the model does not load, does not run on its device, or fails its golden vectors; "
    "or a lighter version of it would lose too much",
    Exit.KAFKA: "Kafka or its schema registry refused, or could not be reached for too long",
    Exit.STORE: "the feature store refused or could not be reached for too long",
    Exit.FENCED: "another live worker uses our transactional id or our group instance id",
    Exit.DEAD_LETTERS: "too large a share of a minute's records could not be scored",
    Exit.DEVICE: "the accelerator failed; only a new process can use it again",
    Exit.UNHEALTHY: "`penstock healthcheck` or `penstock doctor` found something wrong, or `features skew` "
    "or `explain` another result than was published",
}


class StopWorker(Exception):
    """Ends the worker with a code and one line that says why and what to do."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code
