"""How often the lanes may be taken again before a person has to look."""

from __future__ import annotations

from worker.exits import Exit, StopWorker

SAME_TROUBLE_TIMES = 5  # recoveries in a row without a commit between them: waiting does not mend it
SAME_TROUBLE_MS = 60_000.0  # later than this after the last one, it is a new trouble


class Trouble:
    """Counts recoveries in a row, each soon after the one before."""

    def __init__(self) -> None:
        self._times = 0
        self._at_ms = 0.0

    def note(self, error: Exception, now_ms: float) -> None:
        """One more.

        Raises:
            StopWorker: there were too many.
        """
        self._times = 1 + (self._times if now_ms - self._at_ms < SAME_TROUBLE_MS else 0)
        self._at_ms = now_ms
        if self._times > SAME_TROUBLE_TIMES:
            raise StopWorker(
                Exit.KAFKA, f"{SAME_TROUBLE_TIMES} tries in a row were in vain: {error}"
            ) from error

    def is_on(self, now_ms: float) -> bool:
        """Whether nothing was committed since a recovery that is not long ago."""
        return self._times > 0 and now_ms - self._at_ms < SAME_TROUBLE_MS

    def is_over(self) -> None:
        """Something was committed."""
        self._times = 0


def unfinished() -> StopWorker:
    """How a worker ends that was asked to, and could not commit all that it had polled."""
    return StopWorker(
        Exit.KAFKA,
        "asked to stop, and not all that was polled could be committed in time: whoever takes the lanes "
        "scores the rest again",
    )
