"""Line charts as inline SVG; colours come from the page's style sheet, so light and dark both work."""

import html
import math
from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from loadtest.load import Result

WIDTH, HEIGHT = 520, 290
LEFT, RIGHT, TOP, BOTTOM = 54, 66, 12, 42
LEAST_US = 10.0  # what is quicker is drawn here: nobody bids in less
NINES: tuple[float, ...] = (50.0, 90.0, 99.0, 99.9, 99.99, 99.999)
BUCKETS = 120  # points of a curve over time

Ints = npt.NDArray[np.int64]


class Line(msgspec.Struct, frozen=True):
    """points: (x, y) in the axes' units, by x. tone: class in the style sheet ("a", "b", "c", "quiet")."""

    label: str
    points: list[tuple[float, float]]
    tone: str


class Axis(msgspec.Struct, frozen=True):
    """ticks: (value, text), ascending; low and high bound the axis."""

    title: str
    low: float
    high: float
    ticks: list[tuple[float, str]]


def microseconds(value: float) -> str:
    """A duration for people.

    >>> microseconds(85), microseconds(1_500), microseconds(2_000_000)
    ('85 µs', '1.5 ms', '2 s')
    """
    for size, unit in ((1e6, "s"), (1e3, "ms")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} µs"


def percentile_curve(latency_us: Ints, lag_us: Ints) -> str:
    """Latency at each percentile, the upper ones spread out by nines; the generator's own lag beside it."""
    lines = [
        Line("latency", _curve(latency_us), "a"),
        Line("send lag", _curve(lag_us), "quiet"),
    ]
    deepest = max((x for line in lines for x, _ in line.points), default=1.0)
    ticks = [(_nines(q), f"{q:g} %") for q in NINES if _nines(q) <= deepest + 1e-9]
    return chart("Latency by percentile", lines, Axis("percentile of requests", 0.0, deepest, ticks))


def over_time(result: Result) -> str:
    """Median, 99th percentile and maximum of the requests due in each slice of the run."""
    answered = result.status > 0
    due_s, latency = result.due_us[answered] / 1e6, result.latency_us[answered]
    end_s = float(result.due_us[-1]) / 1e6 if len(result.due_us) else 1.0
    edges = np.linspace(0, max(end_s, 1e-6), min(BUCKETS, max(2, len(latency) // 20)) + 1)
    slices = np.clip(np.searchsorted(edges, due_s, side="right") - 1, 0, len(edges) - 2)
    points: list[list[tuple[float, float]]] = [[], [], []]
    for k in np.unique(slices):
        values = latency[slices == k]
        middle = float(edges[k] + edges[k + 1]) / 2
        for line, value in zip(points, np.percentile(values, (50, 99, 100)), strict=True):
            line.append((middle, float(value)))
    lines = [Line(name, line, tone) for name, line, tone in zip(("p50", "p99", "max"), points, "abc", strict=True)]
    step = _step(end_s)
    ticks = [(x * step, f"{x * step:g} s") for x in range(int(end_s / step) + 1)]
    return chart("Latency over time", lines, Axis("time of the intended send", 0.0, max(end_s, 1e-6), ticks))


def chart(title: str, lines: Sequence[Line], x_axis: Axis) -> str:
    """An SVG of lines over a logarithmic axis of microseconds; says so when there is nothing to draw."""
    values = [max(y, LEAST_US) for line in lines for _, y in line.points]
    if not values:
        return '<p class="none">No answers, nothing to draw.</p>'
    low = math.floor(math.log10(min(values)))
    high = max(math.ceil(math.log10(max(values))), low + 1)

    def x_of(x: float) -> float:
        return LEFT + (x - x_axis.low) / ((x_axis.high - x_axis.low) or 1.0) * (WIDTH - LEFT - RIGHT)

    def y_of(y: float) -> float:
        return HEIGHT - BOTTOM - (math.log10(max(y, LEAST_US)) - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">',
        f"<title>{html.escape(title)}</title>",
    ]
    for power in range(low, high + 1):
        y = y_of(10.0**power)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick end" x="{LEFT - 8}" y="{y + 4:.1f}">{microseconds(10.0**power)}</text>')
    floor = HEIGHT - BOTTOM
    for value, text in x_axis.ticks:
        x = x_of(value)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{floor}" y2="{floor + 4}"/>')
        parts.append(f'<text class="tick middle" x="{x:.1f}" y="{floor + 17}">{html.escape(text)}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text class="axis middle" x="{middle}" y="{HEIGHT - 5}">{html.escape(x_axis.title)}</text>')
    taken: list[float] = []
    for line in sorted((line for line in lines if line.points), key=lambda line: -line.points[-1][1]):
        path = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in line.points)
        parts.append(f'<polyline class="line {line.tone}" points="{path}"/>')
        label_y = _apart(y_of(line.points[-1][1]) + 4, taken)
        taken.append(label_y)
        x = x_of(line.points[-1][0]) + 6
        parts.append(f'<text class="label {line.tone}" x="{x:.1f}" y="{label_y:.1f}">{html.escape(line.label)}</text>')
    parts.append("</svg>")
    return "".join(parts)


def _curve(values: Ints) -> list[tuple[float, float]]:
    """(nines, value) from the least to the greatest; drawn no deeper than there are values to show it."""
    if not len(values):
        return []
    ordered, n = np.sort(values), len(values)
    ranks = np.unique(
        np.concatenate([np.arange(1, min(n, 10)), n - n / np.geomspace(1.0, n, 160) + 1]).astype(np.int64)
    )
    return [(-math.log10((n - rank + 1) / n), float(ordered[rank - 1])) for rank in ranks if 1 <= rank <= n]


def _nines(percentile: float) -> float:
    return -math.log10(1 - percentile / 100)


def _step(end: float) -> float:
    """A round distance between ticks, for at most about eight of them."""
    rough = max(end, 1e-6) / 8
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * m for m in (1, 2, 5, 10) if power * m >= rough)


def _apart(y: float, taken: Sequence[float]) -> float:
    """The nearest height at which a label does not cover another one."""
    while any(abs(y - other) < 13 for other in taken):
        y += 1
    return y
