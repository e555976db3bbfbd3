"""Small pictures as SVG text, without any library: they stand inside the page and ask for nothing outside it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 680, 220, 64, 20, 14, 40
ROW_HEIGHT, NAME_WIDTH = 30, 260


@dataclass(frozen=True, slots=True)
class Dot:
    """A named mean with its interval; `ours` is drawn in colour."""

    name: str
    mean: float
    low: float
    high: float
    ours: bool = False


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round numbers from at most `low` to at least `high`, about `wanted` of them."""
    span = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(span / wanted))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= wanted)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def lines(points: Sequence[tuple[float, float]], across: str, upward: str) -> str:
    """Return a line through (x, y) points, its axis from 0 or the smallest y up; needs one point at least."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    marks = ticks(min(0.0, *ys), max(ys) or 1.0)
    low, high = marks[0], marks[-1]
    first, last = min(xs), max(max(xs), min(xs) + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return LEFT + (x - first) / (last - first) * wide, TOP + (high - y) / (high - low) * tall

    parts = [_rule(place(first, mark)[1], mark) for mark in marks]
    parts += [_below(place(x, low)[0], f"{x:g}") for x in sorted({first, round((first + last) / 2), last})]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in points))
    parts.append(f'<polyline class="ours" points="{path}"/>')
    parts += [f'<circle class="ours" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in (place(*p) for p in points)]
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(across)}</text>')
    return _svg(WIDTH, HEIGHT, f"{upward} against {across}", parts)


def dots(rows: Sequence[Dot], across: str) -> str:
    """Return one line a row: its name, its mean as a dot, its interval as a bar."""
    height = TOP + ROW_HEIGHT * len(rows) + BOTTOM
    marks = ticks(0.0, max(row.high for row in rows) or 1.0)

    def place(value: float) -> float:
        return NAME_WIDTH + value / marks[-1] * (WIDTH - NAME_WIDTH - RIGHT)

    parts = [
        f'<line class="grid" x1="{place(m):.1f}" x2="{place(m):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>' for m in marks
    ]
    parts += [_below(place(mark), f"{mark:g}", height - BOTTOM + 16) for mark in marks]
    for number, row in enumerate(rows):
        y, kind = TOP + ROW_HEIGHT * (number + 0.5), "ours" if row.ours else "other"
        parts += [
            f'<text x="{NAME_WIDTH - 12}" y="{y + 4:.1f}" text-anchor="end">{escape(row.name)}</text>',
            f'<line class="{kind}" x1="{place(row.low):.1f}" x2="{place(row.high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>',
            f'<circle class="{kind}" cx="{place(row.mean):.1f}" cy="{y:.1f}" r="5"/>',
        ]
    parts.append(
        f'<text x="{(NAME_WIDTH + WIDTH) / 2:.0f}" y="{height - 6}" text-anchor="middle">{escape(across)}</text>'
    )
    return _svg(WIDTH, height, across, parts)


def _rule(y: float, mark: float) -> str:
    return (
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{mark:g}</text>'
    )


def _below(x: float, text: str, y: float = HEIGHT - BOTTOM + 16) -> str:
    return f'<text x="{x:.1f}" y="{y:.0f}" text-anchor="middle">{text}</text>'


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    named = f'role="img" aria-label="{escape(title, quote=True)}"'
    return f'<svg viewBox="0 0 {width} {height}" {named}>{"".join(parts)}</svg>'
