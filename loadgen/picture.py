"""A run's report as a picture: latency percentiles, latency over time, throughput."""

from pathlib import Path
from typing import Any

import numpy as np

_COLOURS = ("#1b6ca8", "#d1495b", "#66a182", "#8d6a9f")


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw the streams of a report; the suffix of the path chooses the format.

    Raises:
        ImportError: matplotlib is not installed (the extra `report` brings it).
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (curve, over_time, rate) = plt.subplots(1, 3, figsize=(16, 4.6), constrained_layout=True)
    for (name, stream), colour in zip(
        report["streams"].items(), _COLOURS * len(report["streams"]), strict=False
    ):
        points = np.array(stream["latency_curve_ms"] or [[0.0, np.nan]])
        curve.plot(1 / (1 - points[:, 0] / 100), points[:, 1], color=colour, label=name)
        seconds = stream["per_second"]
        x = np.arange(len(seconds["events"]))
        over_time.plot(x, np.array(seconds["p50_ms"], float), color=colour, label=f"{name} p50")
        over_time.plot(x, np.array(seconds["p99_ms"], float), color=colour, ls="--", label=f"{name} p99")
        rate.plot(x, seconds["events"], color=colour, alpha=0.4, lw=4, label=f"{name} due")
        rate.plot(x, seconds["outcomes"], color=colour, lw=1, label=f"{name} outcomes")
    curve.set(xscale="log", xlabel="percentile", ylabel="ms", title="event due to score readable")
    nines = [0, 90, 99, 99.9, 99.99, 99.999]
    curve.set_xticks([1 / (1 - p / 100) for p in nines], [f"{p:g}%" for p in nines])
    over_time.set(xlabel="s", ylabel="ms", title="latency by the second in which the event was due")
    rate.set(xlabel="s", ylabel="a second", title="throughput")
    for axis in (curve, over_time, rate):
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)
