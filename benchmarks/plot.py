"""A picture of a side-by-side run: what an event costs, and how long its score takes."""

from __future__ import annotations

from pathlib import Path

LABELS = {
    "penstock-fraud": "penstock: whole fraud pipeline",
    "penstock-fraud-exactly-once": "penstock: fraud, exactly once",
    "penstock-exactly-once": "penstock, exactly once",
    "penstock-nowait": "penstock, never waits",
    "hand": "hand-written loop",
    "hand-nowait": "hand-written, never waits",
    "bytewax": "Bytewax",
    "quix-lowlevel": "Quix Streams, low level",
    "quix-batch": "Quix Streams, batching sink",
    "quix": "Quix Streams, as its docs show",
    "faust": "Faust",
    "naive": "one message at a time",
    "passthrough": "consume and produce only",
}
_OURS, _THEIRS = "#0f766e", "#94a3b8"


def draw(figures: dict[str, dict[str, float]], title: str, path: Path) -> Path:
    """Bars of CPU time an event and of p99 latency, cheapest first; both axes are logarithmic.

    Raises:
        ImportError: matplotlib is not installed (the extra `report` brings it).
    """
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "penstock"
    panels = [("cpu_us_per_event", "CPU µs an event"), ("p99_ms", "p99 ms, produced to scored")]
    panels = [(key, label) for key, label in panels if figures.get(key)]
    rows = max(len(figures[key]) for key, _ in panels)
    picture, axes = plt.subplots(
        1, len(panels), figsize=(5.6 * len(panels), 0.34 * rows + 1.1), squeeze=False
    )
    for axis, (key, label) in zip(axes[0], panels, strict=True):
        names = sorted(figures[key], key=lambda name: -figures[key][name])
        values = [figures[key][name] for name in names]
        colors = [_OURS if name.startswith("penstock") else _THEIRS for name in names]
        bars = axis.barh([LABELS.get(name, name) for name in names], values, color=colors)
        axis.bar_label(bars, [f"{value:.3g}" for value in values], padding=3, fontsize=8)
        axis.set_xscale("log")
        axis.set_xlim(right=max(values) * 2)
        axis.set_xlabel(label)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    picture.suptitle(title, fontsize=10)
    picture.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, metadata={"Date": None})
    plt.close(picture)
    return path
