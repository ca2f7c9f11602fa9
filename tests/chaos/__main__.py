"""`python -m tests.chaos`: rounds of faults against running workers, and the table of what came of it."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from typing import Any

from benchmarks.machine import write_result
from tests.chaos.arena import services
from tests.chaos.faults import KINDS
from tests.chaos.measures import measure
from tests.chaos.page import PAGE, written
from tests.chaos.plants import PLANTS
from tests.chaos.report import summary, table
from tests.chaos.rounds import Result, Settings, run_round
from tests.chaos.world import Variation, variation


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0, help="of faults, over all rounds")
    parser.add_argument("--round-minutes", type=float, default=5.0, help="a round has topics of its own")
    parser.add_argument("--seed", type=int, default=1, help="of the first round; the next has the next one")
    parser.add_argument("--faults", default="", help=f"some of {','.join(KINDS)}; default all")
    parser.add_argument("--mode", default="exactly_once", choices=["exactly_once", "at_least_once"])
    parser.add_argument("--workers", type=int, default=3, choices=[1, 2, 3, 4])
    parser.add_argument("--rate", type=float, default=3000.0, help="events a second")
    parser.add_argument("--prefill", type=int, default=20_000, help="events before the first worker starts")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="a bug that must be found")
    parser.add_argument("--measure", action="store_true", help="also the outage after SIGKILL and FLUSHALL")
    parser.add_argument("--result", default="", help="write benchmarks/results/RESULT.json")
    parser.add_argument("--vary", action="store_true", help="other settings of the pipeline in each round")
    parser.add_argument("--keep", action="store_true", help="keep the workers' logs even if all is well")
    parser.add_argument(
        "--json", action="store_true", help="the summary on stdout, everything else on stderr"
    )
    arguments = parser.parse_args()
    arguments.kinds = tuple(kind for kind in arguments.faults.split(",") if kind) or tuple(KINDS)
    if unknown := set(arguments.kinds) - set(KINDS):
        parser.error(f"unknown faults {sorted(unknown)}, expected some of {', '.join(KINDS)}")
    return arguments


def main() -> int:
    """Run until the minutes are over; 0 when the promise held."""
    arguments = _arguments()
    results: list[Result] = []
    measured: dict[str, Any] | None = None

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    count = max(1, round(arguments.minutes / arguments.round_minutes))
    begun_s = time.monotonic()
    trouble = ""
    with services() as running:
        say(f"three brokers and a Redis after {time.monotonic() - begun_s:.0f} s; logs in {running.folder}")
        if arguments.measure:
            measured = measure(running, "measure", seed=arguments.seed, say=say).as_json()
        for number in range(count):
            settings = Settings(
                seconds=arguments.minutes * 60 / count,
                seed=arguments.seed + number,
                mode=arguments.mode,
                kinds=arguments.kinds,
                workers=arguments.workers,
                events_per_s=arguments.rate,
                prefill=arguments.prefill,
                plant=arguments.plant,
                variation=variation(arguments.seed + number) if arguments.vary else Variation(),
            )
            say(f"round {number + 1} of {count}, seed {settings.seed}, {settings.variation}")
            try:
                result = run_round(running, f"r{number}", settings, say)
            except RuntimeError as error:
                trouble = str(error)
                say(f"the round did not end: {trouble}")
                break
            results.append(result)
            for example in result.verdict.examples:
                say(f"  {example}")
            say(table([result]))
            say(
                f"exits {dict(result.exits)}, the last ones {result.last_exits}; "
                f"judged in {result.judged_s:.0f} s"
            )
            if arguments.plant and not result.holds:
                break
    holds = not trouble and (
        measured is None
        or (
            measured["kill_one_of_two"]["within"]
            and not any(measured[k] for k in ("lost", "doubled", "different"))
        )
    )
    holds = holds and all(result.holds for result in results)
    said = summary(results, {"mode": arguments.mode, "seed": arguments.seed, "rate": arguments.rate})
    said |= {"measured": measured, "holds": holds, "trouble": trouble, "plant": arguments.plant}
    if arguments.result:
        say(f"written to {write_result(arguments.result, said)}")
        PAGE.write_text(written(PAGE.read_text()))
    print(json.dumps(said, indent=2) if arguments.json else table(results))
    if holds and not arguments.keep:
        shutil.rmtree(running.folder, ignore_errors=True)  # otherwise the logs tell why
    say("held" if holds else "DID NOT HOLD")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
