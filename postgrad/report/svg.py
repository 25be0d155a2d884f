"""Charts as inline SVG, written by hand: no script, no library, colours from the page's style sheet.

Every mark carries a style class (`s0` ... `s5`, `m-base`, `m-sft`, `m-rl`, ...): the style sheet gives it a colour for
light, dark and print, and a dash; `_MARKERS` gives it a shape, so that nothing is told by colour alone. Axis labels are
measured before the plot is placed, so a long one makes room instead of being cut.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from postgrad.report import text

FONT = 12
MAX_POINTS = 400
"""Points drawn for a series; more are down-sampled by `thin`."""

_NARROW, _BROAD = frozenset("ijlt.,:;|!'()[]{} f"), frozenset("mwMW%@…")
_MARKERS = {
    "m-base": "square",
    "m-sft": "circle",
    "m-rl": "diamond",
    "s0": "circle",
    "s1": "diamond",
    "s2": "triangle",
    "s3": "square",
    "s4": "down",
    "s5": "circle",
}


@dataclass(frozen=True, slots=True)
class Series:
    name: str
    points: Sequence[tuple[float, float]]
    style: str = "s0"
    band: Sequence[tuple[float, float, float]] = ()
    """(x, low, high): an interval drawn as a shade behind the line."""
    smooth: int = 1
    """Above 1: the points are drawn thin, and their centred mean over this many neighbours thick."""
    markers: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    label: str
    percent: bool = False
    """Values are shares; the axis shows them in per cent."""
    log: bool = False
    """Logarithmic; falls back to linear where a value is not positive."""
    include: tuple[float, ...] = ()
    """Values that the axis must reach."""
    floor: float = -math.inf
    ceiling: float = math.inf
    """The axis is not widened past these by its padding."""


@dataclass(frozen=True, slots=True)
class Point:
    name: str
    x: float
    y: float
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None
    style: str = "s0"
    note: str = ""


def text_width(content: str, size: float = FONT) -> float:
    """An upper guess for a proportional sans serif: better too much room than too little."""
    em = sum(0.32 if c in _NARROW else 0.92 if c in _BROAD else 0.72 if c.isupper() else 0.58 for c in content)
    return em * size


def thin(points: Sequence[tuple[float, float]], limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """At most `limit` points that keep the first, the last and every bucket's lowest and highest: spikes survive."""
    if len(points) <= limit:
        return list(points)
    buckets = max(1, (limit - 2) // 2)
    inner = points[1:-1]
    kept = [points[0]]
    for bucket in range(buckets):
        part = inner[bucket * len(inner) // buckets : (bucket + 1) * len(inner) // buckets]
        if part:
            low, high = min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])
            kept += sorted({low, high})
    return [*kept, points[-1]]


def moving_mean(points: Sequence[tuple[float, float]], window: int) -> list[tuple[float, float]]:
    """The centred mean over `window` neighbours; at the ends over those that exist on both sides."""
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    result = []
    for i, (x, _) in enumerate(points):
        half = min(window // 2, i, len(points) - 1 - i)
        result.append((x, (sums[i + half + 1] - sums[i - half]) / (2 * half + 1)))
    return result


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = (
            (math.log10(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def to(self, start: float, end: float) -> _Scale:
        return _Scale(self.low, self.high, start, end, self.log)


def _step(width: float, ticks: int) -> float:
    raw = width / max(1, ticks)
    power: float = 10.0 ** math.floor(math.log10(raw))
    return next(power * m for m in (1.0, 2.0, 2.5, 5.0, 10.0) if power * m >= raw * 0.999)


def _scale(values: Sequence[float], axis: Axis, *, pad: float) -> _Scale:
    values = [*values, *axis.include]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if axis.log and low > 0:
        if high < 100 * low:
            inner = _marks(low / 10, high * 10)
            return _Scale(max(m for m in inner if m <= low), min(m for m in inner if m > high), 0, 1, True)
        low, high = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))
        return _Scale(low, high, 0, 1, True)
    room = (high - low) * pad
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-12):
        room = abs(high) * 0.1 if abs(high) > 1e-100 else 0.5
    return _Scale(
        max(low - room, min(axis.floor, low)) if axis.floor > -math.inf else low - room,
        min(high + room, max(axis.ceiling, high)) if axis.ceiling < math.inf else high + room,
        0,
        1,
    )


def _marks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from low to high."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [float(f"{m}e{power}") for power in powers for m in (1, 2, 5)]
    return [mark for mark in found if low * (1 - 1e-9) <= mark <= high * (1 + 1e-9)]


def _ticks(scale: _Scale, wanted: int, *, percent: bool) -> list[tuple[float, str]]:
    if scale.log:
        if scale.high < 100 * scale.low * (1 - 1e-9):
            return [(mark, text.short(mark)) for mark in _marks(scale.low, scale.high)]
        first, final = round(math.log10(scale.low)), round(math.log10(scale.high))
        every = max(1, math.ceil((final - first) / wanted))
        return [(10.0**e, f"1e{e}".replace("-", text.MINUS)) for e in range(first, final + 1, every)]
    factor = 100 if percent else 1
    low, high = scale.low * factor, scale.high * factor
    step = _step(high - low, wanted)
    places = next((p for p in range(12) if abs(step * 10**p - round(step * 10**p)) < 1e-6 * step * 10**p), 12)
    result = []
    for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1):
        value = i * step
        if value and (step < 1e-4 or step >= 1e5):
            label = text.short(value, 2)
        elif step >= 1000 and high >= 10_000:
            label = f"{value / 1000:,.0f}k"
        else:
            label = f"{value:,.{places}f}"
        result.append((value / factor, (label if value else "0").replace("-", text.MINUS)))
    return result


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{_number(x)},{_number(y)}" for x, y in points)


def _marker(shape: str, x: float, y: float, size: float) -> str:
    if shape == "circle":
        return f'<circle class="mark" cx="{_number(x)}" cy="{_number(y)}" r="{_number(size)}"/>'
    s = size * 1.15
    corners = {
        "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
        "diamond": [(0, -1.2), (1.2, 0), (0, 1.2), (-1.2, 0)],
        "triangle": [(0, -1.1), (1.05, 0.8), (-1.05, 0.8)],
        "down": [(0, 1.1), (1.05, -0.8), (-1.05, -0.8)],
    }[shape]
    return f'<polygon class="mark" points="{_path([(x + dx * s, y + dy * s) for dx, dy in corners])}"/>'


def _label(x: float, y: float, content: str, anchor: str = "start", css: str = "") -> str:
    kind = f' class="{css}"' if css else ""
    place = "" if anchor == "start" else f' text-anchor="{anchor}"'
    return f'<text{kind} x="{_number(x)}" y="{_number(y)}"{place}>{escape(content)}</text>'


def _frame(
    key: str, title: str, description: str, width: float, height: float, data: str, body: Sequence[str]
) -> Markup:
    return Markup(
        f'<svg class="chart" role="img" viewBox="0 0 {_number(width)} {_number(height)}"{data} '
        f'aria-labelledby="{key}-t {key}-d">'
        f'<title id="{key}-t">{escape(title)}</title><desc id="{key}-d">{escape(description)}</desc>'
        f"{''.join(body)}</svg>"
    )


@dataclass(frozen=True, slots=True)
class _Plot:
    x: _Scale
    y: _Scale
    body: list[str]
    data: str


def _plot(x_scale: _Scale, y_scale: _Scale, x: Axis, y: Axis, width: float, height: float, top: float) -> _Plot:
    """Place the plot between its labels; grid, ticks and axis titles first, marks come on top."""
    bottom = height - 36
    y_ticks = _ticks(y_scale, max(2, round((bottom - top) / 38)), percent=y.percent)
    left = 8 + max((text_width(label) for _, label in y_ticks), default=0) + 4
    right = width - 12
    y_placed = y_scale.to(bottom, top)
    x_ticks = _ticks(x_scale, max(2, round((right - left) / 70)), percent=x.percent)
    widest = max((text_width(label) for _, label in x_ticks), default=0) + 14
    if len(x_ticks) * widest > right - left:
        x_ticks = _ticks(x_scale, max(2, int((right - left) / widest)), percent=x.percent)
    if x_ticks:
        right = min(right, width - 4 - text_width(x_ticks[-1][1]) / 2)
    x_placed = x_scale.to(left, right)
    body = [_label(4, top - 13, y.label, css="axis")]
    for value, label in y_ticks:
        py = y_placed(value)
        body.append(f'<path class="grid" d="M{_number(left)} {_number(py)}H{_number(right)}"/>')
        body.append(_label(left - 6, py + 4, label, "end"))
    for value, label in x_ticks:
        px = x_placed(value)
        body.append(f'<path class="tick" d="M{_number(px)} {_number(bottom)}v4"/>')
        body.append(_label(px, bottom + 17, label, "middle"))
    body.append(f'<path class="base" d="M{_number(left)} {_number(bottom)}H{_number(right)}"/>')
    body.append(_label((left + right) / 2, height - 4, x.label, "middle", "axis"))
    data = "".join(
        f' data-{name}="{scale.low!r} {scale.high!r} {_number(scale.start)} {_number(scale.end)} '
        f'{int(scale.log)} {int(axis.percent)}"'
        for name, scale, axis in (("x", x_placed, x), ("y", y_placed, y))
    )
    return _Plot(x_placed, y_placed, body, data)


def _legend(entries: Sequence[tuple[str, str, str, bool]], width: float, dots: int = 0) -> tuple[list[str], float]:
    """(name, value, style, marker) in rows, the first `dots` of them without a line; returns the marks and the height used."""
    body: list[str] = []
    x, y = 4.0, 13.0
    for at, (name, value, style, marker) in enumerate(entries):
        need = 26 + text_width(name) + (text_width(value) + 5 if value else 0) + 14
        if x > 4 and x + need > width:
            x, y = 4.0, y + 18
        shape = _marker(_MARKERS.get(style, "circle"), x + 10, y - 4, 3) if marker else ""
        line = f'<path class="line" d="M{_number(x)} {_number(y - 4)}h20"/>' if at >= dots else ""
        number = f' <tspan class="last">{escape(value)}</tspan>' if value else ""
        body.append(
            f'<g class="{style}">{line}{shape}'
            f'<text x="{_number(x + 26)}" y="{_number(y)}">{escape(name)}{number}</text></g>'
        )
        x += need
    return body, y + 8


def line_chart(
    key: str,
    title: str,
    description: str,
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    width: float = 384,
    height: float = 230,
    last: Callable[[float], str] | None = text.short,
    zero: bool = False,
) -> Markup:
    """Lines over a common x, each with an optional interval band; the legend gives each line's last value.

    zero: draw the line y = 0 (and reach it).
    """
    ys = [v for s in series for _, v in s.points] + [v for s in series for _, low, high in s.band for v in (low, high)]
    xs = [v for s in series for v, _ in s.points]
    if zero:
        y = Axis(y.label, y.percent, y.log, (*y.include, 0.0), y.floor, y.ceiling)
    legend, used = _legend(
        [(s.name, last(s.points[-1][1]) if last and s.points else "", s.style, s.markers) for s in series], width
    )
    plot = _plot(_scale(xs, x, pad=0), _scale(ys, y, pad=0.06), x, y, width, height, used + 27)
    body = [*legend, *plot.body]
    if zero:
        body.append(f'<path class="zero" d="M{_number(plot.x.start)} {_number(plot.y(0))}H{_number(plot.x.end)}"/>')
    body += _bands(series, plot)
    for s in series:
        drawn = [(plot.x(a), plot.y(b)) for a, b in thin(s.points)]
        kind = "faint" if s.smooth > 1 else "line"
        marks = [f'<polyline class="{kind}" data-name="{escape(s.name)}" points="{_path(drawn)}"/>']
        if s.smooth > 1:
            mean = [(plot.x(a), plot.y(b)) for a, b in thin(moving_mean(s.points, s.smooth), 120)]
            marks.append(f'<polyline class="line" points="{_path(mean)}"/>')
        if s.markers or len(s.points) == 1:
            marks += [_marker(_MARKERS.get(s.style, "circle"), a, b, 3.2) for a, b in drawn]
        body.append(f'<g class="{s.style}">{"".join(marks)}</g>')
    return _frame(key, title, description, width, height, plot.data, body)


def _bands(series: Sequence[Series], plot: _Plot) -> list[str]:
    found = []
    for s in series:
        if s.band:
            around = [(plot.x(v), plot.y(high)) for v, _, high in s.band]
            around += [(plot.x(v), plot.y(low)) for v, low, _ in reversed(s.band)]
            found.append(f'<g class="{s.style}"><polygon class="band" points="{_path(around)}"/></g>')
    return found


def cloud_chart(
    key: str,
    title: str,
    description: str,
    clouds: Sequence[Series],
    lines: Sequence[Series],
    x: Axis,
    y: Axis,
    *,
    rules: Sequence[float] = (),
    width: float = 384,
    height: float = 230,
) -> Markup:
    """Many single values as dots (with `markers`, as larger marks), lines with their bands over them, a rule at each y of `rules`."""
    shown = [*clouds, *lines]
    xs = [v for s in shown for v, _ in s.points]
    ys = [v for s in shown for _, v in s.points] + [v for s in lines for _, low, high in s.band for v in (low, high)]
    legend, used = _legend([(s.name, "", s.style, s in clouds) for s in shown], width, len(clouds))
    plot = _plot(_scale(xs, x, pad=0.02), _scale([*ys, *rules], y, pad=0.06), x, y, width, height, used + 27)
    body = [*legend, *plot.body]
    for value in rules:
        body.append(f'<path class="zero" d="M{_number(plot.x.start)} {_number(plot.y(value))}H{_number(plot.x.end)}"/>')
    body += _bands(lines, plot)
    for s in clouds:
        drawn = [(plot.x(a), plot.y(b)) for a, b in thin(s.points)]
        shape, size, kind = (_MARKERS.get(s.style, "circle"), 3.6, "") if s.markers else ("circle", 1.8, " dots")
        body.append(f'<g class="{s.style}{kind}">{"".join(_marker(shape, a, b, size) for a, b in drawn)}</g>')
    for s in lines:
        drawn = [(plot.x(a), plot.y(b)) for a, b in thin(s.points)]
        body.append(
            f'<g class="{s.style}"><polyline class="line" data-name="{escape(s.name)}" points="{_path(drawn)}"/></g>'
        )
    return _frame(key, title, description, width, height, plot.data, body)


def graph(
    key: str,
    title: str,
    description: str,
    nodes: Sequence[Point],
    edges: Sequence[tuple[int, int]],
    background: Sequence[tuple[float, float]],
    x: Axis,
    y: Axis,
    *,
    width: float = 384,
    height: float = 300,
) -> Markup:
    """Named points joined by arrows from one index to another, before a cloud of others."""
    xs = [p.x for p in nodes] + [v for v, _ in background]
    ys = [p.y for p in nodes] + [v for _, v in background]
    plot = _plot(_scale(xs, x, pad=0.06), _scale(ys, y, pad=0.1), x, y, width, height, 30)
    body = plot.body
    around = [(plot.x(a), plot.y(b)) for a, b in thin(sorted(background))]
    body.append(f'<g class="s5 dots">{"".join(_marker("circle", a, b, 1.8) for a, b in around)}</g>')
    placed = [(plot.x(p.x), plot.y(p.y)) for p in nodes]
    taken = [((px - 8, py - 8, px + 8, py + 8), 60) for px, py in placed]
    for start, end in ((placed[a], placed[b]) for a, b in edges):
        body.append(_arrow(start, end))
        taken += _along(start, end)
    for p, at in zip(nodes, placed, strict=True):
        box = (plot.x.start, 14.0, width, plot.y.start)
        lx, ly, anchor, box = _place(at, text_width(p.name), taken, box)
        taken.append((box, 100))
        mark = _marker(_MARKERS.get(p.style, "circle"), *at, 4.5)
        body.append(f'<g class="{p.style}">{mark}{_label(lx, ly, p.name, anchor)}</g>')
    return _frame(key, title, description, width, height, plot.data, body)


_PLACES = (
    (14, -10, "start"),
    (-14, -10, "end"),
    (14, 22, "start"),
    (-14, 22, "end"),
    (16, 2, "start"),
    (-16, 2, "end"),
    (14, -26, "start"),
    (-14, -26, "end"),
    (0, -32, "middle"),
    (0, 30, "middle"),
)
"""Where a point's label may go, best first: from the point, in units of the drawing."""

_Place = tuple[float, float]
_Box = tuple[float, float, float, float]


def _arrow(start: _Place, end: _Place) -> str:
    """An arrow between two marks, short of both; nothing where they are too near to need one."""
    (x0, y0), (x1, y1) = start, end
    away = math.hypot(x1 - x0, y1 - y0)
    if away <= 40:
        return ""
    ux, uy = (x1 - x0) / away, (y1 - y0) / away
    tail, tip = (x0 + 13 * ux, y0 + 13 * uy), (x1 - 13 * ux, y1 - 13 * uy)
    left, right = ((tip[0] - 7 * ux - s * 3.5 * uy, tip[1] - 7 * uy + s * 3.5 * ux) for s in (1, -1))
    line = f'<polyline class="arrow" points="{_path([tail, tip])}"/>'
    return f'{line}<polygon class="head" points="{_path([left, tip, right])}"/>'


def _error_bars(p: Point, plot: _Plot) -> str:
    px, py = plot.x(p.x), plot.y(p.y)
    path = ""
    if p.x_interval:
        low, high = (_number(plot.x(v)) for v in p.x_interval)
        path += f"M{low} {_number(py)}H{high}M{low} {_number(py - 4)}v8M{high} {_number(py - 4)}v8"
    if p.y_interval:
        low, high = (_number(plot.y(v)) for v in p.y_interval)
        path += f"M{_number(px)} {low}V{high}M{_number(px - 4)} {low}h8M{_number(px - 4)} {high}h8"
    return f'<path class="error" d="{path}"/>' if path else ""


def _along(a: _Place, b: _Place) -> list[tuple[_Box, int]]:
    """What an arrow takes up, in small boxes: labels keep off it where they can."""
    dots = max(1, int(math.dist(a, b) / 8))
    along = [(a[0] + (b[0] - a[0]) * i / dots, a[1] + (b[1] - a[1]) * i / dots) for i in range(1, dots)]
    return [((x - 2, y - 2, x + 2, y + 2), 8) for x, y in along]


def _place(at: _Place, wide: float, taken: Sequence[tuple[_Box, int]], room: _Box) -> tuple[float, float, str, _Box]:
    """The label's place that covers least of what is there and leaves the room least: (x, y, anchor, its box)."""

    def option(place: tuple[float, float, str]) -> tuple[float, float, str, _Box]:
        dx, dy, anchor = place
        x, y = at[0] + dx, at[1] + dy
        left = {"start": x, "end": x - wide, "middle": x - wide / 2}[anchor]
        return x, y, anchor, (left, y - 13, left + wide, y + 19)

    def cost(candidate: tuple[float, float, str, _Box]) -> float:
        x0, y0, x1, y1 = candidate[3]
        covered = sum(w for t, w in taken if x0 < t[2] and t[0] < x1 and y0 < t[3] and t[1] < y1)
        outside = max(0.0, room[0] - x0) + max(0.0, room[1] - y0) + max(0.0, x1 - room[2]) + max(0.0, y1 - room[3])
        return covered + 3 * outside

    return min(map(option, _PLACES), key=cost)


def scatter(
    key: str,
    title: str,
    description: str,
    points: Sequence[Point],
    x: Axis,
    y: Axis,
    *,
    width: float = 384,
    height: float = 300,
) -> Markup:
    """Named points with intervals both ways, joined in order by arrows: where each stage moved the model."""
    xs = [v for p in points for v in (p.x, *(p.x_interval or ()))]
    ys = [v for p in points for v in (p.y, *(p.y_interval or ()))]
    plot = _plot(_scale(xs, x, pad=0.14), _scale(ys, y, pad=0.1), x, y, width, height, 30)
    body = plot.body
    placed = [(plot.x(p.x), plot.y(p.y)) for p in points]
    taken = [((px - 8, py - 8, px + 8, py + 8), 60) for px, py in placed]
    for p, (px, py) in zip(points, placed, strict=True):
        if p.x_interval:
            taken.append(((plot.x(p.x_interval[0]), py - 4, plot.x(p.x_interval[1]), py + 4), 40))
        if p.y_interval:
            taken.append(((px - 4, plot.y(p.y_interval[1]), px + 4, plot.y(p.y_interval[0])), 40))
    for a, b in pairwise(placed):
        body.append(_arrow(a, b))
        taken += _along(a, b)
    for p, at in zip(points, placed, strict=True):
        wide = max(text_width(p.name, 14), text_width(p.note))
        lx, ly, anchor, box = _place(at, wide, taken, (plot.x.start, 14, width, plot.y.start))
        taken.append((box, 100))
        body.append(
            f'<g class="{p.style}">{_error_bars(p, plot)}{_marker(_MARKERS.get(p.style, "circle"), *at, 5)}'
            f"{_label(lx, ly, p.name, anchor, 'name')}{_label(lx, ly + 15, p.note, anchor)}</g>"
        )
    return _frame(key, title, description, width, height, "", body)


def bars(
    key: str,
    title: str,
    description: str,
    rows: Sequence[tuple[str, float, str]],
    show: Callable[[float], str] = text.short,
    *,
    width: float = 384,
) -> Markup:
    """Horizontal bars from zero: (label, value, style), the value written at the bar's end."""
    left = 8 + max((text_width(label) for label, _, _ in rows), default=0)
    room = width - left - 14 - max((text_width(show(value)) for _, value, _ in rows), default=0)
    largest = max((value for _, value, _ in rows), default=0) or 1
    body = []
    for i, (label, value, style) in enumerate(rows):
        y, long = 6 + i * 24, max(0.0, room * value / largest)
        body.append(
            f'{_label(left - 6, y + 13, label, "end")}<g class="{style}"><rect class="bar" x="{_number(left)}" y="{y}" '
            f'width="{_number(long)}" height="16"/></g>{_label(left + long + 6, y + 13, show(value))}'
        )
    return _frame(key, title, description, width, 12 + 24 * max(1, len(rows)), "", body)
