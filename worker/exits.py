"""What the worker's exit codes mean; supervisors and tests read them from here."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of `penstock`."""

    OK = 0  # asked to stop, and everything polled was scored and committed
    BUG = 1  # an error of our own; the traceback is in the log
    USAGE = 2  # the command line was wrong
    CONFIG = 3  # a pipeline file, schema or model card is wrong; a restart will not help
    MODEL = 4  # the model does not load, does not run on its device, or fails its golden vectors
    KAFKA = 5  # Kafka or its schema registry refused, or could not be reached for too long
    STORE = 6  # the feature store refused or could not be reached for too long
    FENCED = 7  # another member owns a lane we held; restart and rejoin
    DEAD_LETTERS = 8  # too large a share of a minute's records could not be scored
    DEVICE = 9  # the accelerator failed; only a new process can use it again
    UNHEALTHY = 10  # `penstock healthcheck` or `penstock doctor` found something wrong


class StopWorker(Exception):
    """Ends the worker with a code and one line that says why and what to do."""

    def __init__(self, code: Exit, message: str) -> None:
        super().__init__(message)
        self.code = code
