# ruff: noqa: E501 a line a part of a picture
"""Draws the pictures of the pages on delivery and state: python docs/images/make_diagrams.py"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
# Light and dark by the reader's own setting; a ground of its own keeps a picture legible on either page.
_STYLE = """
text { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #1c2733; }
.small { font-size: 12px; } .faint { fill: #56677a; } .strong { font-weight: 600; }
.title { font-weight: 600; font-size: 15px; } .mono { font-family: ui-monospace, Menlo, Consolas, monospace; }
.ground { fill: #fbfcfd; } .box { fill: #e9eff5; stroke: #8296ab; } .frame { fill: none; stroke: #8296ab; }
.kafka { fill: #fdeedb; stroke: #c98a3a; } .redis { fill: #fbe3e1; stroke: #c5625a; }
.good { fill: #dff3ea; stroke: #3f9a70; } .bad { fill: #f9dcdc; stroke: #c0504d; }
.muted { fill: #e4e2f4; stroke: #7a70b8; } .line { stroke: #56677a; fill: none; } .tip { fill: #56677a; }
.crash { fill: #c0392b; }
@media (prefers-color-scheme: dark) {
text { fill: #e3e9ef; } .faint { fill: #a3b1c0; } .ground { fill: #1b222b; } .box { fill: #2a3542; stroke: #6f859c; }
.frame { stroke: #6f859c; } .kafka { fill: #463520; stroke: #c98a3a; } .redis { fill: #472725; stroke: #cf7069; }
.good { fill: #1d4032; stroke: #4fae82; } .bad { fill: #512a2a; stroke: #d0635f; }
.muted { fill: #353055; stroke: #9187d6; } .line { stroke: #a3b1c0; } .tip { fill: #a3b1c0; }
.crash { fill: #cf4a3c; }
}
"""


def text(x: float, y: float, words: str, style: str = "", anchor: str = "middle") -> str:
    """One line of text; y is its baseline."""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{style}">{escape(words)}</text>'


def box(x: float, y: float, width: float, height: float, lines: Sequence[str], style: str = "box") -> str:
    """A box with lines in its middle, the first of them strong."""
    first_y = y + height / 2 + 5 - 8.5 * (len(lines) - 1)
    said = [
        text(x + width / 2, first_y + 17 * n, line, "small" if n else "strong")
        for n, line in enumerate(lines)
    ]
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="7" class="{style}"/>'
    return shape + "".join(said)


def arrow(*points: tuple[float, float], dashed: bool = False) -> str:
    """A line through the points with a tip at its end."""
    path = " ".join(f"{'L' if n else 'M'}{x:g} {y:g}" for n, (x, y) in enumerate(points))
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<path d="{path}" class="line" stroke-width="1.6"{dash} marker-end="url(#tip)"/>'


def mark(x: float, y: float, letter: str) -> str:
    """A place where a worker may die."""
    disc = f'<circle cx="{x:g}" cy="{y:g}" r="11" class="crash"/>'
    return f'{disc}<text x="{x:g}" y="{y + 5:g}" text-anchor="middle" style="fill:#fff" class="strong">{letter}</text>'


def picture(width: int, height: int, about: str, *parts: str) -> str:
    """The whole file; `about` is what a screen reader says."""
    tip = (
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" class="tip"/></marker></defs>'
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    ground = f'<rect width="{width}" height="{height}" rx="10" class="ground"/>'
    body = "\n".join([f"<title>{escape(about)}</title><style>{_STYLE}</style>{tip}{ground}", *parts])
    return f"{head}\n{body}\n</svg>\n"


def line() -> str:
    """From a record to a score: the steps in their order, and what passes between them."""
    steps = [
        (("source", "reads records"), "records"),
        (("decode", "bytes to columns"), "columns"),
        (("features", "windows, lookups"), "+ features"),
        (("batcher", "waits, or not"), "(n, F) rows"),
        (("infer", "ONNX Runtime"), "scores"),
        (("decide", "rules, severity"), "+ alerts"),
        (("encode", "columns to bytes"), "bytes"),
        (("sink", "sends"), "acknowledged"),
        (("commit", "Kafka, then rows"), ""),
    ]
    parts = [
        text(30, 34, "From a record to a score", "title", "start"),
        box(30, 66, 104, 60, ("input topic", "Kafka"), "kafka"),
        '<rect x="160" y="52" width="690" height="236" rx="10" class="frame" stroke-dasharray="3 4"/>',
        text(838, 280, "one worker: one thread a pipeline", "small faint", "end"),
        arrow((134, 96), (178, 96)),
    ]
    for n, (lines, out) in enumerate(steps[:5]):
        x = 180 + 134 * n
        parts.append(box(x, 66, 116, 60, lines))
        parts.append(text(x + 58, 145, out, "small faint"))
        if n < 4:
            parts.append(arrow((x + 116, 96), (x + 132, 96)))
    parts.append(arrow((774, 150), (774, 176)))
    for n, (lines, out) in enumerate(steps[5:]):
        x = 716 - 152 * n
        parts.append(box(x, 178, 116, 60, lines))
        parts.append(text(x + (46 if n == 2 else 58), 257, out, "small faint"))
        if n < 3:
            parts.append(arrow((x, 208), (x - 34, 208)))
    parts += [
        box(180, 330, 240, 56, ("Redis", "rows and watermark of each lane"), "redis"),
        arrow((300, 238), (300, 328)),
        text(310, 316, "second: rows", "small", "start"),
        arrow((206, 330), (206, 160), (462, 160), (462, 128), dashed=True),
        box(470, 330, 380, 56, ("scores, alerts, dead letters", "Kafka: in one transaction with the input offsets"), "kafka"),
        arrow((510, 238), (510, 328)),
        text(520, 316, "first: outputs and offsets", "small", "start"),
        text(30, 420, "Past decode everything is columns: no step loops over rows in Python. Dashed: rows that are not in memory.",
             "small faint", "start"),
    ]  # fmt: skip
    return picture(880, 440, "The nine steps from a record to a score, and where each writes", *parts)


def transaction() -> str:
    """One commit interval: who does what, and from when a reader sees it."""
    rows = {"worker": 92, "Kafka": 192, "Redis": 292}
    parts = [text(30, 34, "One commit, from its first record to durable rows", "title", "start")]
    for name, y in rows.items():
        parts.append(text(30, y + 5, name, "strong", "start"))
        parts.append(f'<path d="M110 {y}H850" class="line" stroke-opacity=".35"/>')
    parts += [
        box(120, 66, 120, 52, ("begin, score", "batch after batch")),
        box(270, 66, 130, 52, ("offsets join in", "after the interval")),
        box(426, 66, 96, 52, ("commit", "is asked")),
        box(548, 66, 150, 52, ("next batches", "are read and scored")),
        box(722, 66, 118, 52, ("write rows", "that changed")),
        box(120, 166, 280, 52, ("outputs, not yet committed", "read_committed does not show them"), "kafka"),
        box(548, 166, 150, 52, ("committed", "scores can be read"), "good"),
        box(670, 266, 180, 52, ("compare, then write", "rows and watermark"), "redis"),
        arrow((180, 118), (180, 164)), arrow((335, 118), (335, 164)),
        arrow((474, 118), (474, 192), (546, 192)),
        arrow((698, 192), (781, 192), (781, 120)),
        arrow((810, 118), (810, 264)),
        text(710, 184, "answer", "small faint", "start"),
        text(110, 350, "Kafka first, Redis second: what is stored is never ahead of what is committed.", "small faint", "start"),
        text(110, 370, "If the comparison fails, another worker has the lane: this one forgets what it holds and begins again.",
             "small faint", "start"),
    ]  # fmt: skip
    return picture(
        880, 392, "A transaction holds outputs and offsets; rows are written after its answer", *parts
    )


def crash() -> str:
    """Where a worker may die, and what its successor finds and does."""
    steps = ("read", "score", "send", "ask to commit", "committed", "rows written")
    found = [
        ("A", "before anything was sent", "offset as before", "reads the same records again", "box"),
        ("B", "outputs sent, not committed", "an open transaction", "it is aborted: nobody saw them; reads again", "box"),
        ("C", "commit asked, no answer seen", "done, or not: Kafka says", "as B if it was not done, as D if it was", "muted"),
        ("D", "committed, rows not written", "watermark behind offset", "replays the difference muted, then goes on", "muted"),
        ("E", "rows written", "watermark = offset", "goes on", "good"),
    ]  # fmt: skip
    parts = [text(30, 34, "A worker dies: what its successor finds, and does", "title", "start")]
    for n, name in enumerate(steps):
        x = 30 + 139 * n
        parts.append(
            box(x, 56, 122, 38, (name,), "kafka" if name == "committed" else "redis" if n == 5 else "box")
        )
        if n < 5:
            parts.append(arrow((x + 122, 75), (x + 137, 75)))
    for x, letter in ((239, "A"), (378, "B"), (517, "C"), (656, "D"), (795, "E")):
        parts.append(f'<path d="M{x} 94V112" class="line"/>')
        parts.append(mark(x, 122, letter))
    heads = ((72, "died when"), (312, "found in Kafka and Redis"), (528, "what the successor does"))
    parts += [text(x, 168, head, "small faint", "start") for x, head in heads]
    for n, (letter, when, state, then, style) in enumerate(found):
        y = 180 + 44 * n
        parts += [
            mark(46, y + 18, letter),
            text(72, y + 23, when, "", "start"),
            text(312, y + 23, state, "", "start"),
            f'<rect x="520" y="{y}" width="330" height="36" rx="7" class="{style}"/>',
            text(532, y + 23, then, "", "start"),
        ]
    parts.append(
        text(30, 424, "In every case: one outcome for each record, and the score that an undisturbed worker gives. "
             "Muted: state changes, nothing is published.", "small faint", "start")
    )  # fmt: skip
    return picture(880, 442, "Five places where a worker may die, and what follows from each", *parts)


def lanes() -> str:
    """A lane changes hands: epoch, watermark, offset, and why the former owner can do no harm."""
    parts = [
        text(30, 34, "A lane gets a new owner", "title", "start"),
        text(30, 74, "partition 3", "strong", "start"),
    ]
    for n in range(12):
        x = 130 + 60 * n
        style = "good" if n < 4 else "muted" if n < 8 else "box"
        parts.append(box(x, 54, 56, 32, (str(1000 + n),), style))
    parts += [
        text(248, 106, "in the rows already", "small faint"),
        text(488, 106, "replayed muted: state only", "small faint"),
        text(728, 106, "scored and published", "small faint"),
        arrow((368, 152), (368, 90)), text(368, 168, "watermark W = 1004 (Redis)", "small strong"),
        arrow((608, 152), (608, 90)), text(608, 168, "committed offset C = 1008 (Kafka)", "small strong"),
        box(30, 200, 240, 64, ("worker 1, epoch 7", "paused, or thought dead"), "bad"),
        box(610, 200, 240, 64, ("worker 2, epoch 8", "takes the lane: raises the epoch"), "good"),
        box(320, 300, 240, 84, ("Redis: the lane's meta", "epoch 8, watermark 1004, owner …", "rows C1, C2, C3, …"), "redis"),
        arrow((150, 264), (150, 342), (318, 342)),
        text(160, 300, "wakes up, writes:", "small", "start"),
        text(160, 316, "meta differs, refused", "small", "start"),
        arrow((730, 264), (730, 342), (562, 342)),
        text(722, 300, "reads W, replays to C,", "small", "end"),
        text(722, 316, "then writes as epoch 8", "small", "end"),
        text(30, 414, "W = C: go on at C.   W < C: replay [W, C) muted.   Nothing stored, or W > C: build the rows anew from the topic.",
             "small faint", "start"),
    ]  # fmt: skip
    return picture(
        880, 432, "A new owner raises the epoch, replays from watermark to offset, and goes on", *parts
    )


PICTURES = {"line": line, "transaction": transaction, "crash": crash, "lanes": lanes}

if __name__ == "__main__":
    for name, drawn in PICTURES.items():
        (HERE / f"{name}.svg").write_text(drawn(), encoding="utf-8")
