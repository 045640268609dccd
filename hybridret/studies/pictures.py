"""Pictures of a study's page, as SVG: seeds as dots with means and intervals, and curves."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hybridret.studies.scores import RANK_DISTANCE

_BLUE = "hsl(212 70% 50%)"


@dataclass(frozen=True)
class Line:
    """One system: its name, the value of each seed, and the interval of their mean."""

    name: str
    values: Sequence[float]
    interval: tuple[float, float]

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))


def dots(lines: Sequence[Line], measure: str) -> str:
    """A line for each system: seeds as dots, mean and interval."""
    width, left, row = 640, 240, 22
    height = row * len(lines) + 26
    x, ticks = _axis(lines, left, width - 60)
    parts = [
        f"<line x1='{x(tick):.1f}' x2='{x(tick):.1f}' y1='0' y2='{height - 22}' "
        f"stroke='currentColor' opacity='.15'/><text x='{x(tick):.1f}' y='{height - 6}' "
        f"text-anchor='middle'>{_tick(tick)}</text>"
        for tick in ticks
    ]
    for n, line in enumerate(lines):
        y = row * n + row / 2
        start, end, mean = x(line.interval[0]), x(line.interval[1]), x(line.mean)
        parts.append(
            f"<text x='{left - 10}' y='{y + 4:.1f}' text-anchor='end'>{html.escape(line.name)}"
            f"</text><line x1='{start:.1f}' x2='{end:.1f}' y1='{y}' y2='{y}' "
            f"stroke='currentColor' stroke-width='2' opacity='.5'/>"
        )
        parts += [
            f"<circle cx='{x(v):.1f}' cy='{y}' r='3.5' fill='{_BLUE}' opacity='.7'>"
            f"<title>{value(measure, v)}</title></circle>"
            for v in line.values
        ]
        parts.append(
            f"<line x1='{mean:.1f}' x2='{mean:.1f}' y1='{y - 7}' y2='{y + 7}' "
            f"stroke='currentColor' stroke-width='2'/><text x='{width - 50}' y='{y + 4:.1f}'>"
            f"{value(measure, line.mean)}</text>"
        )
    return _svg(width, height, parts)


def curve(points: Mapping[float, Line], measure: str) -> str:
    """A measure by a number from 0 to 1: means, seeds and the band of their intervals."""
    width, height, left, bottom = 300, 190, 52, 26
    y, ticks = _axis(points.values(), height - bottom - 4, 18)

    def x(number: float) -> float:
        return left + 10 + number * (width - left - 24)

    parts = [f"<text x='{left}' y='11' font-weight='600'>{html.escape(measure)}</text>"]
    parts += [
        f"<line x1='{left}' x2='{width - 8}' y1='{y(tick):.1f}' y2='{y(tick):.1f}' "
        f"stroke='currentColor' opacity='.15'/><text x='{left - 6}' y='{y(tick) + 4:.1f}' "
        f"text-anchor='end'>{_tick(tick)}</text>"
        for tick in ticks
    ]
    low = [f"{x(n):.1f},{y(line.interval[0]):.1f}" for n, line in points.items()]
    high = [f"{x(n):.1f},{y(line.interval[1]):.1f}" for n, line in points.items()]
    means = [f"{x(n):.1f},{y(line.mean):.1f}" for n, line in points.items()]
    parts.append(
        f"<polygon points='{' '.join([*low, *reversed(high)])}' fill='{_BLUE}' opacity='.15'/>"
        f"<polyline points='{' '.join(means)}' fill='none' stroke='{_BLUE}' stroke-width='2'/>"
    )
    for number, line in points.items():
        parts += [
            f"<circle cx='{x(number):.1f}' cy='{y(v):.1f}' r='2.5' fill='{_BLUE}' opacity='.6'/>"
            for v in line.values
        ]
        parts.append(
            f"<text x='{x(number):.1f}' y='{height - 8}' text-anchor='middle'>{number:g}</text>"
        )
    return _svg(width, height, parts)


def value(measure: str, number: float | None) -> str:
    """As it is printed."""
    if number is None:
        return "–"
    return f"{number:,.0f}" if measure == RANK_DISTANCE else f"{number:.4f}"


def signed(measure: str, number: float) -> str:
    """A difference as it is printed."""
    return f"{number:+,.1f}" if measure == RANK_DISTANCE else f"{number:+.4f}"


def _axis(
    lines: Iterable[Line], start: float, end: float
) -> tuple[Callable[[float], float], list[float]]:
    """Where a value is drawn, from the least at ``start``, and about four round values."""
    edges = [x for line in lines for x in (*line.values, *line.interval)]
    low, high = min(edges), max(edges)
    room = (high - low) * 0.05 or 1.0
    low, high = low - room, high + room
    step = 10 ** math.floor(math.log10((high - low) / 2))
    step *= next((f for f in (1, 2, 5) if (high - low) / (step * f) <= 5), 1)
    ticks = [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return lambda number: start + (number - low) / (high - low) * (end - start), ticks


def _tick(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 10 else f"{number:.3f}".rstrip("0").rstrip(".")


def _svg(width: int, height: float, parts: Sequence[str]) -> str:
    return (
        f"<div class='scroll'><svg width='{width}' height='{height:.0f}' "
        f"viewBox='0 0 {width} {height:.0f}' style='max-width:100%;height:auto' "
        f"font-size='12' fill='currentColor' role='img'>{''.join(parts)}</svg></div>"
    )
