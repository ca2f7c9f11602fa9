"""Line plots as SVG text whose colours the page around them decides."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import groupby

WIDTH, HEIGHT = 560, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 14, 12, 42
_LOG_FROM = 20.0  # highest by lowest value: beyond, a linear axis shows a line along its bottom

Point = tuple[float, float | None]  # None: a gap


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line: its colour is the page's variable --c0, --c1, ..."""

    name: str
    points: Sequence[Point]
    colour: int
    is_dashed: bool = False
    is_filled: bool = False  # down to the axis
    has_dots: bool = False  # each with its values, where there are few


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis: what it shows, and where its labels stand."""

    label: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    is_log: bool = False

    def share(self, value: float) -> float:
        """Where a value stands: 0 at the beginning of the axis, 1 at its end."""
        if not self.is_log:
            return (value - self.low) / (self.high - self.low)
        return math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)


def plot(
    title: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    mark: tuple[float, str] | None = None,
    bands: Sequence[tuple[float, float]] = (),
) -> str:
    """A figure with a legend.

    Args:
        title: above it.
        series: drawn in this order.
        x, y: the axes.
        mark: a height that is ruled across, and its name.
        bands: stretches of x that are shaded.
    """
    across, up = WIDTH - _LEFT - _RIGHT, HEIGHT - _TOP - _BOTTOM

    def place(px: float, py: float) -> tuple[float, float]:
        return _LEFT + x.share(px) * across, _TOP + (1 - min(max(y.share(py), 0.0), 1.0)) * up

    shapes = [*_grid(x, y, place)]
    for begin, end in bands:
        left, right = (place(min(max(value, x.low), x.high), y.low)[0] for value in (begin, end))
        width = max(right - left, 2.0)
        shapes.append(f'<rect class="band" x="{left:.1f}" y="{_TOP}" width="{width:.1f}" height="{up}"/>')
    for one in series:
        shapes += _line(one, place, _TOP + up, x.label, y.label)
    if mark is not None and y.low <= mark[0] <= y.high:
        at = place(x.low, mark[0])[1]
        shapes.append(f'<path class="mark" d="M{_LEFT} {at:.1f}H{WIDTH - _RIGHT}"/>')
        shapes.append(
            f'<text class="mark-name" x="{WIDTH - _RIGHT - 4}" y="{at - 5:.1f}">{escape(mark[1])}</text>'
        )
    legend = "".join(
        f'<li><i style="--c: var(--c{one.colour})"{_class(one)}></i>{escape(one.name)}</li>' for one in series
    )
    return (
        f"<figure><figcaption>{escape(title)}</figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(shapes)}</svg>'
        f'<ul class="legend">{legend}</ul></figure>'
    )


def _class(one: Series) -> str:
    return ' class="dashed"' if one.is_dashed else ' class="filled"' if one.is_filled else ""


def _grid(x: Axis, y: Axis, place: Callable[[float, float], tuple[float, float]]) -> Iterable[str]:
    bottom = HEIGHT - _BOTTOM
    for value, text in y.ticks:
        at = place(x.low, value)[1]
        yield f'<path class="grid" d="M{_LEFT} {at:.1f}H{WIDTH - _RIGHT}"/>'
        yield f'<text class="y" x="{_LEFT - 7}" y="{at + 4:.1f}">{escape(text)}</text>'
    for value, text in x.ticks:
        at = place(value, y.low)[0]
        yield f'<path class="grid" d="M{at:.1f} {_TOP}V{bottom}"/>'
        last = " last" if at > WIDTH - _RIGHT - 12 and len(text) > 3 else ""
        at = WIDTH - 4 if last else at
        yield f'<text class="x{last}" x="{at:.1f}" y="{bottom + 16}">{escape(text)}</text>'
    yield f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{WIDTH - _RIGHT}"/>'
    centre, middle = (_LEFT + WIDTH - _RIGHT) / 2, (_TOP + bottom) / 2
    yield f'<text class="x name" x="{centre:.0f}" y="{HEIGHT - 6}">{escape(x.label)}</text>'
    yield (
        f'<text class="x name" transform="rotate(-90 11 {middle:.0f})" x="11" y="{middle:.0f}">'
        f"{escape(y.label)}</text>"
    )


def _line(
    one: Series,
    place: Callable[[float, float], tuple[float, float]],
    bottom: float,
    x_name: str,
    y_name: str,
) -> Iterable[str]:
    style = f'style="--c: var(--c{one.colour})"'
    for is_there, run in groupby(one.points, key=lambda point: point[1] is not None):
        if not is_there:
            continue
        known = [(px, py) for px, py in run if py is not None]
        at = [place(px, py) for px, py in known]
        path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in at)
        if one.is_filled:
            yield f'<path class="area" {style} d="{path}L{at[-1][0]:.1f} {bottom}L{at[0][0]:.1f} {bottom}Z"/>'
        else:
            yield f'<path class="line{" dashed" if one.is_dashed else ""}" {style} d="{path}"/>'
        if one.has_dots or len(at) == 1:
            for (px, py), (cx, cy) in zip(known, at, strict=True):
                said = f"{one.name}: {py:,.4g} {y_name} at {px:,.6g} {x_name}"
                title = f"<title>{escape(said)}</title>"
                yield f'<circle {style} cx="{cx:.1f}" cy="{cy:.1f}" r="3.5">{title}</circle>'


def axis(label: str, values: Iterable[float | None], *, may_log: bool = False, from_0: bool = True) -> Axis:
    """An axis with room for these values, and round numbers at its ticks.

    Args:
        label: with the unit.
        values: all that will be shown.
        may_log: logarithmic where the values span more than twentyfold.
        from_0: begin at 0; else at the lowest value.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    above_0 = [value for value in known if value > 0]
    if may_log and above_0 and max(above_0) / min(above_0) > _LOG_FROM:
        return _log_axis(label, min(above_0), max(above_0))
    low, high = (0.0 if from_0 else min(known, default=0.0)), max(known, default=1.0)
    high = high if high > low else low + 1.0
    step = _step((high - low) / 5)
    top = low + math.ceil((high - low) / step - 1e-9) * step
    count = round((top - low) / step)
    return Axis(
        label=label,
        low=low,
        high=top,
        ticks=[(low + i * step, short(low + i * step)) for i in range(count + 1)],
    )


def _log_axis(label: str, low: float, high: float) -> Axis:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    round_ones = [m * 10.0**d for d in decades for m in (1, 2, 5)]
    low = max(value for value in round_ones if value <= low * (1 + 1e-9))
    high = min(value for value in (*round_ones, 10.0 ** decades[-1]) if value >= high * (1 - 1e-9))
    shown = [value for value in round_ones if low <= value <= high]
    if len(shown) > 7:
        shown = [value for value in shown if math.isclose(value, 10.0 ** round(math.log10(value)))]
    return Axis(
        label=label, low=low, high=high, ticks=[(value, short(value)) for value in shown], is_log=True
    )


def nines_axis(highest_percentile: float) -> Axis:
    """Percentiles as HdrHistogram plots them: each nine as wide as the one before; values are 1 / (1 - p)."""
    last = 1 / (1 - min(highest_percentile, 99.999) / 100)
    nines = [
        (1.0, "0"),
        (2.0, "50"),
        (10.0, "90"),
        (100.0, "99"),
        (1e3, "99.9"),
        (1e4, "99.99"),
        (1e5, "99.999"),
    ]
    shown = [tick for tick in nines if tick[0] <= last * 1.01]
    return Axis(label="percentile", low=1.0, high=max(last, 10.0), ticks=shown, is_log=True)


def short(value: float) -> str:
    """A number for a tick: 1.5k rather than 1,500."""
    for limit, divisor, unit in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= limit:
            return f"{value / divisor:.3g}{unit}"
    return f"{value:,.4g}"


def _step(at_least: float) -> float:
    """The round number (1, 2, 2.5 or 5 times a power of ten) that is not less."""
    power = 10.0 ** math.floor(math.log10(at_least))
    return next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= at_least * (1 - 1e-9))
