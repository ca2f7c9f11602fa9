"""Prints which kernels are compiled only when events come, for a process that has compiled none yet.

The pipeline has windows, a decision with reasons and scores over HTTP.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from numba.core.dispatcher import Dispatcher

from feature_cache.key_index import keys_of, stable_hash
from feature_cache.resp import Packer
from tests.http_line import open_stream, transaction

_OURS = ("worker", "feature_cache", "schemas")
_HOUR_MS = 3_600_000


def compiled() -> dict[str, int]:
    """By kernel, how many kinds of arguments it is compiled for."""
    found: dict[str, int] = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _OURS:
            for each in vars(module).values():
                if isinstance(each, Dispatcher):
                    found[f"{each.py_func.__module__}.{each.py_func.__name__}"] = len(each.signatures)
    return found


def main() -> None:
    """Score, alert, write, forget, load and answer: once the line is there, nothing is compiled."""
    with tempfile.TemporaryDirectory() as folder, open_stream(Path(folder)) as stream:
        before = compiled()
        stream.take()
        stream.send([transaction(i, i % 3000, i * 60_000, 20.0) for i in range(3600)])
        stream.send([transaction(90, 1, 61 * _HOUR_MS, 4000.0)])
        stream.write()  # of more keys than are turned into objects one by one
        Packer().pack("MGET", *[b"key"] * 40)  # as the rows of a write to Redis are
        for lane in range(3):
            stream.line.lanes.rows.drop_lane(lane)
        stream.send([transaction(91, 2, 62 * _HOUR_MS, 20.0)])
        [[told]] = stream.ask([transaction(92, 2, 63 * _HOUR_MS, 4000.0)])
        assert told["alert"] is not None, told
        stable_hash(keys_of([b"C1"]))  # as a canary has it done
        late = sorted(name for name, kinds in compiled().items() if kinds > before.get(name, 0))
    print("compiled late:", *late)


if __name__ == "__main__":
    main()
