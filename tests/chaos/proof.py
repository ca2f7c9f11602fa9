"""`python -m tests.chaos.proof [NAME...]`: plants bugs; a suite that does not find them proves nothing."""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.machine import write_result
from tests.chaos.arena import Services, services
from tests.chaos.page import PAGE, written
from tests.chaos.plants import PLANTS
from tests.chaos.report import table
from tests.chaos.rounds import Settings, as_json, run_round

# The faults that bring each bug out, and for how long they are injected.
FAULTS: dict[str, tuple[tuple[str, ...], float]] = {
    "commit-order": (("kill",), 5.0),  # the round's first worker dies at its first commit
    "watermark-check": (("flush",), 30.0),
    "epoch-check": (("handover",), 45.0),
    "no-replay": (("kill",), 20.0),
}


# A flush brings the missing watermark out only if no other check comes across it first.
SEEDS = (11, 12, 13)


def prove(running: Services, plant: str) -> dict[str, Any]:
    """Rounds with a planted bug until it is found, each from another seed; the last one's account."""
    for seed in SEEDS:
        proof = _round(running, plant, seed)
        if proof["found"]:
            break
    return proof


def _round(running: Services, plant: str, seed: int) -> dict[str, Any]:
    kinds, seconds = FAULTS[plant]
    settings = Settings(
        seconds=seconds, seed=seed, kinds=kinds, workers=2, events_per_s=1_000.0, prefill=5_000, plant=plant
    )

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    say(f"planted: {plant}: {PLANTS[plant].what} Seed {seed}.")
    result = run_round(running, f"{plant}-{seed}", settings, say)
    found = not result.holds
    for example in result.verdict.examples:
        say(f"  {example}")
    say(table([result]))
    say("found" if found else "NOT FOUND")
    return {
        "plant": plant,
        "what": PLANTS[plant].what,
        "seed": seed,
        "found": found,
        "faults": [f"{fault.kind}: {fault.detail}" for fault in result.faults],
        "table": table([result]).splitlines(),
        "round": as_json(result),
    }


def main() -> int:
    """Plant the bugs named, or all; 0 when every one was found."""
    names = sys.argv[1:] or list(PLANTS)
    with services() as running:
        proofs = [prove(running, name) for name in names]
    if len(names) == len(PLANTS):
        print(f"written to {write_result('chaos-planted', {'plants': proofs})}")
        PAGE.write_text(written(PAGE.read_text()))
    for proof in proofs:
        print(f"{proof['plant']:<16} {'found' if proof['found'] else 'NOT FOUND'}")
    return 0 if all(proof["found"] for proof in proofs) else 1


if __name__ == "__main__":
    sys.exit(main())
