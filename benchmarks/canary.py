"""Guards on real transactions: versions that learnt nothing are taken back, good ones stay.

The comparison that a worker makes, event by event as a canary of a tenth of the keys gets them, on the
handbook's days with the features of the live engine. Good versions are trees trained on bootstraps of the
training week, bad ones the same on shuffled labels; the version that serves is the shipped one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from benchmarks.machine import write_result
from feature_cache.key_index import keys_of, stable_hash
from training.fraud_data import load_features, training_week
from worker.comparison import Comparison
from worker.rollout_types import Guards

ROOT = Path(__file__).resolve().parents[1]
EVENTS_PER_S = 5_000
WITHIN_S = 60
SHARE = 0.1
BATCH = 256
CALL_S = 1e-3  # both calls take as long: time is not looked at here
Scores = NDArray[np.float32]


def main() -> int:
    """Run it and write the result; the exit code is 3 when a guard was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--runs", type=int, default=20, help="of each kind")
    arguments = parser.parse_args()
    rows = load_features(arguments.data)
    train = training_week(rows)
    champion = _shipped(rows.features)
    print(f"{len(rows.features):,} transactions", file=sys.stderr)
    found: dict[str, list[dict[str, Any]]] = {"good": [], "bad": []}
    for run in range(arguments.runs):
        rng = np.random.default_rng(run)
        sample = rng.integers(0, len(train.features), len(train.features))
        labels = {"good": train.truth[sample], "bad": rng.permutation(train.truth[sample])}
        for kind, truth in labels.items():
            score = _trained(train.features[sample], truth, run)
            found[kind].append(_canary(rows, champion, score, rng))
            print(kind, run, found[kind][-1], file=sys.stderr)
    result = {
        "events_per_s": EVENTS_PER_S,
        "share": SHARE,
        "within_s": WITHIN_S,
        "good_taken_back": sum(run["guard"] is not None for run in found["good"]),
        "bad_taken_back": sum(run["guard"] is not None for run in found["bad"]),
        "bad_after_s": [run.get("after_s") for run in found["bad"]],
        "runs": found,
    }
    print(json.dumps({name: value for name, value in result.items() if name != "runs"}, indent=2))
    print(write_result("canary", result))
    return 0 if (result["good_taken_back"], result["bad_taken_back"]) == (0, arguments.runs) else 3


def _shipped(features: NDArray[np.float32]) -> Scores:
    import onnxruntime as ort

    session = ort.InferenceSession(ROOT / "models" / "fraud" / "2" / "model.onnx")
    parts = [
        session.run(None, {session.get_inputs()[0].name: features[at : at + 4096].astype(np.float32)})[0]
        for at in range(0, len(features), 4096)
    ]
    return np.concatenate(parts).reshape(-1).astype(np.float32)


def _trained(
    features: NDArray[np.float32], truth: NDArray[Any], seed: int
) -> Callable[[NDArray[np.float32]], Scores]:
    trees = HistGradientBoostingClassifier(max_iter=60, random_state=seed)
    trees.fit(features, truth)
    return lambda rows: trees.predict_proba(rows)[:, 1].astype(np.float32)


def _canary(
    rows: Any, champion: Scores, score: Callable[[NDArray[np.float32]], Scores], rng: np.random.Generator
) -> dict[str, Any]:
    """A minute of a canary, from some day on; which guard spoke and after how many seconds."""
    wanted = EVENTS_PER_S * WITHIN_S
    start = int(rng.integers(0, len(champion) - wanted))
    part = slice(start, start + wanted)
    salt = int(rng.integers(1 << 30))
    keys = keys_of([b"%d-%d" % (salt, customer) for customer in rows.customer[part].tolist()])
    chosen = np.flatnonzero(stable_hash(keys) % 10_000 < SHARE * 10_000)
    old, new = champion[part][chosen], score(rows.features[part][chosen])
    comparison = Comparison(Guards(), 0.5, alerts_below=False)
    for at in range(0, len(chosen), BATCH):
        here = slice(at, at + BATCH)
        trip = comparison.add(old[here], new[here], CALL_S, CALL_S)
        if trip is not None:
            after_s = round(float(chosen[min(at + BATCH, len(chosen)) - 1]) / EVENTS_PER_S, 1)
            return {"guard": trip.guard, "found": round(trip.found, 4), "after_s": after_s}
    agreement = comparison.agreement()
    return {
        "guard": None,
        "rank_correlation": round(agreement.rank_correlation, 3),
        "score_psi": round(agreement.score_psi, 3),
        "alert_share": [round(float(share), 5) for share in agreement.alert_share],
    }


if __name__ == "__main__":
    sys.exit(main())
