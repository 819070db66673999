"""Small SVG charts, written by hand: no library draws them, and nothing in them is markup but what is written here."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 360, 210
WIDE = 760
"""Of a chart that has a row of the page to itself."""
FOREST = 520
"""Of a forest chart: narrow enough to be read on a phone as it stands."""
LETTERS = 60
"""Letters of a name that fit across a forest chart, on a phone too, where they are drawn larger."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 14, 12, 34
COLOURS = 8
"""Classes c0 … c7 of the style sheet."""


@dataclass(frozen=True)
class Chart:
    """A drawing with what must be read to understand it."""

    title: str
    about: str
    """What it shows, and which side is better."""
    svg: str
    legend: Sequence[tuple[int, str]] = ()
    """(colour, name)."""


@dataclass(frozen=True)
class Point:
    """A figure at a round with its interval; a bound of None is unknown or infinite."""

    x: int
    value: float
    low: float | None
    high: float | None
    marked: bool = False


def interval_chart(points: Sequence[Point], title: str, percent: bool = False, first: str = "round 0") -> str:
    """Values by round with interval bars; the marked point is drawn larger. Round 0 is called `first`, and its value, where it
    has one, is a dashed line to compare the others with."""
    ticks = nice_ticks(*_bounds([(p.value, p.low, p.high) for p in points]))
    x, y = _across(points[0].x, points[-1].x, pad=0.5), _up(ticks[0], ticks[-1])
    line = " ".join(f"{x(p.x):.1f},{y(p.value):.1f}" for p in points)
    parts = [_y_axis(ticks, y, percent)]
    for p in points:
        name = first if p.x == 0 else f"round {p.x}" if len(points) < 5 else str(p.x)
        parts.append(_label(x(p.x), HEIGHT - 14, name))
        if p.x == 0:
            parts.append(f'<line class="base" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(p.value):.1f}" y2="{y(p.value):.1f}"/>')
    parts.append(f'<polyline class="line c0" points="{line}"/>')
    for p in points:
        low = y(ticks[0] if p.low is None else p.low)
        high = y(ticks[-1] if p.high is None else p.high)
        at, left, right = (f"{x(p.x) + shift:.1f}" for shift in (0, -5, 5))
        parts.append(f'<line class="bar c0" x1="{at}" x2="{at}" y1="{low:.1f}" y2="{high:.1f}"/>')
        for end in (low, high):
            parts.append(f'<line class="bar c0" x1="{left}" x2="{right}" y1="{end:.1f}" y2="{end:.1f}"/>')
        parts.append(f'<circle class="dot c0" cx="{at}" cy="{y(p.value):.1f}" r="{7 if p.marked else 4.5}"/>')
    return _svg(title, HEIGHT, parts)


def stacked_chart(rows: Sequence[tuple[str, Sequence[tuple[str, int, int]]]], title: str) -> str:
    """A bar for each row, cut into its parts (name, count, colour) in their order."""
    most = max((sum(count for _, count, _ in parts) for _, parts in rows), default=0) or 1
    left, step = 104, 36  # room for the labels on a phone, where they are drawn larger
    drawn: list[str] = []
    for place, (label, parts) in enumerate(rows):
        top, at = 6 + place * step, float(left)
        drawn.append(_label(left - 8, top + 18, label, "end"))
        for name, count, colour in (part for part in parts if part[1]):
            size = (WIDE - left) * count / most
            place_and_size = f'x="{at:.2f}" y="{top}" width="{size:.2f}" height="26"'
            drawn.append(f'<rect class="part c{colour}" {place_and_size}><title>{escape(name)}: {count}</title></rect>')
            at += size
    return _svg(title, 10 + step * len(rows), drawn, WIDE, "chart stacked")


def forest_chart(
    rows: Sequence[tuple[str, float, float | None, float | None, bool]],
    sides: tuple[str, str],
    title: str,
    percent: bool = False,
) -> str:
    """Differences (name, value, low, high, coloured) one below the other, each under its name, with a line through zero.

    Args:
        sides: what it means that a difference lies left and right of zero.
        percent: they are shares, given in points.
    """
    ticks = nice_ticks(*_bounds([(0.0,), *(row[1:4] for row in rows)]))
    side, step, top = 30, 44, 26
    height = top + step * len(rows) + 30

    def x(value: float) -> float:
        return side + (FOREST - 2 * side) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    zero = x(0.0)
    parts: list[str] = []
    for tick in ticks:
        parts.append(f'<line class="axis" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{height - 26}"/>')
        parts.append(_label(x(tick), height - 8, f"{'+' if tick > 0 else ''}{_tick(tick, percent).removesuffix(' %')}"))
    parts.append(f'<line class="zero" x1="{zero:.1f}" x2="{zero:.1f}" y1="{top}" y2="{height - 26}"/>')
    parts.append(_label(8, 16, f"← {shortened(sides[0], LETTERS // 2 - 4)}", "start"))
    parts.append(_label(FOREST - 8, 16, f"{shortened(sides[1], LETTERS // 2 - 4)} →", "end"))
    for place, (name, value, low, high, coloured) in enumerate(rows):
        at, colour = top + step * place + 30, "c0" if coloured else "c7"
        ends = f'x1="{x(ticks[0] if low is None else low):.1f}" x2="{x(ticks[-1] if high is None else high):.1f}"'
        name_label = _label(8, at - 14, shortened(name), "start", "name")
        parts.append(f"<g><title>{escape(name)}</title>{name_label}</g>")
        parts.append(f'<line class="bar {colour}" {ends} y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<circle class="dot {colour}" cx="{x(value):.1f}" cy="{at:.1f}" r="5"/>')
    return _svg(title, height, parts, FOREST, "chart forest")


def curve_chart(lines: Sequence[tuple[str, Sequence[Point]]], title: str, percent: bool = False) -> str:
    """Values by a number that doubles and doubles (a logarithmic axis), each with its interval; a line for each name, in the
    colours c0, c1 … The lines stand a little beside each other, so that no interval hides another."""
    points = [point for _, each in lines for point in each]
    ticks = nice_ticks(*_bounds([(p.value, p.low, p.high) for p in points]))
    sizes = sorted({point.x for point in points})
    across, y = _across(math.log(sizes[0]), math.log(sizes[-1]), pad=0.25), _up(ticks[0], ticks[-1])
    parts = [_y_axis(ticks, y, percent)]
    far = -math.inf
    for size in sizes:
        if across(math.log(size)) - far >= 26:  # else its number would run into the one before
            far = across(math.log(size))
            parts.append(_label(far, HEIGHT - 14, str(size)))
    for colour, (_, each) in enumerate(lines):
        shift = 8 * (colour - (len(lines) - 1) / 2)
        at = [(across(math.log(point.x)) + shift, point) for point in each]
        if len(at) > 1:
            path = " ".join(f"{x:.1f},{y(point.value):.1f}" for x, point in at)
            parts.append(f'<polyline class="line c{colour}" points="{path}"/>')
        for x, point in at:
            low, high = y(ticks[0] if point.low is None else point.low), y(ticks[-1] if point.high is None else point.high)
            parts.append(f'<line class="bar c{colour}" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
            parts.append(f'<circle class="dot c{colour}" cx="{x:.1f}" cy="{y(point.value):.1f}" r="4.5"/>')
    return _svg(title, HEIGHT, parts)


def shortened(name: str, letters: int = LETTERS) -> str:
    """Without its middle where it is too long: arms that vary an option differ at the end."""
    return name if len(name) <= letters else f"{name[: letters // 2 - 1]}…{name[-(letters // 2) :]}"


def line_chart(lines: Sequence[tuple[str, Sequence[float | None]]], title: str) -> str:
    """Each line over its own steps, counted from 1; what is no number leaves a gap."""
    values = [value for _, line in lines for value in line if value is not None]
    ticks = nice_ticks(min(values), max(values))
    longest = max(len(line) for _, line in lines)
    x, y = _across(1, max(longest, 2), pad=0.0), _up(ticks[0], ticks[-1])
    parts = [_y_axis(ticks, y, False), _label(_LEFT, HEIGHT - 14, "step 1", "start")]
    parts.append(_label(WIDTH - _RIGHT, HEIGHT - 14, str(longest), "end"))
    for number, (_, line) in enumerate(lines):
        colour = f"c{min(number, COLOURS - 1)}"
        for run in _runs(line):
            if len(run) == 1:
                parts.append(f'<circle class="dot {colour}" cx="{x(run[0][0]):.1f}" cy="{y(run[0][1]):.1f}" r="4"/>')
            else:
                path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in run)
                parts.append(f'<polyline class="line {colour}" points="{path}"/>')
    return _svg(title, HEIGHT, parts)


def nice_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers that enclose the range."""
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-9):
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * place, 12) for place in range(first, last + 1)]


def escape(text: str) -> str:
    """For text and attributes of SVG; characters that XML does not know are left out."""
    return _NO_XML.sub("", html.escape(text))


_NO_XML = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def _svg(title: str, height: int, parts: Iterable[str], width: int = WIDTH, kind: str = "chart") -> str:
    body = "".join(parts)
    return f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img"><title>{escape(title)}</title>{body}</svg>'


def _across(low: float, high: float, pad: float) -> Callable[[float], float]:
    wide = WIDTH - _LEFT - _RIGHT
    return lambda value: _LEFT + wide * (value - low + pad) / (high - low + 2 * pad)


def _up(low: float, high: float) -> Callable[[float], float]:
    tall = HEIGHT - _TOP - _BOTTOM
    return lambda value: _TOP + tall * (high - value) / (high - low)


def _y_axis(ticks: Sequence[float], y: Callable[[float], float], percent: bool) -> str:
    parts = []
    for tick in ticks:
        parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(_label(_LEFT - 6, y(tick) + 4, _tick(tick, percent), "end"))
    return "".join(parts)


def _tick(value: float, percent: bool) -> str:
    if percent:
        text = f"{100 * value:.3g} %"
    else:
        size, unit = next(((size, unit) for least, size, unit in _UNITS if abs(value) >= least), (1.0, ""))
        text = f"{value / size:.4g}{unit}"
    return text.replace("-", "−")


_UNITS = ((1e9, 1e9, " G"), (1e6, 1e6, " M"), (1e4, 1e3, " k"))
"""(from which value on, size, name): there is room for six signs next to a chart."""


def _bounds(rows: Iterable[Iterable[float | None]]) -> tuple[float, float]:
    known = [each for row in rows for each in row if each is not None]
    return min(known), max(known)


def _label(x: float, y: float, text: str, anchor: str = "middle", kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(text)}</text>'


def _runs(line: Sequence[float | None]) -> list[list[tuple[int, float]]]:
    """(step, value) in pieces without a gap."""
    pieces: list[list[tuple[int, float]]] = [[]]
    for step, value in enumerate(line, 1):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append((step, value))
    return [piece for piece in pieces if piece]
