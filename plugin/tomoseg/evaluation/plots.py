"""Plots as inline SVG; the page's own style colours them, in light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

PLOT_WIDTH_PX = 550
MAX_POINTS_PER_BOX = 200  # points in one box; of more, those beyond the whiskers are drawn
WHISKER_IQRS = 1.5  # of the interquartile range: Tukey's
LETTER_WIDTH_PX = 7.2  # pixels of an average letter of a label


@dataclass(frozen=True)
class Point:
    """One case in a plot.

    Args:
        name: of the case.
        x, y: where it lies; a box plot has no `y`.
    """

    name: str
    x: float
    y: float = 0.0


def draw_boxes(title: str, unit: str, groups: Sequence[tuple[str, Sequence[Point]]], decimals: int) -> str:
    """Draw one box a label: quartiles, median, whiskers to the last point within 1.5 interquartile ranges, points.

    Args:
        title: what is plotted.
        unit: of the values; "" for shares.
        groups: (label, cases); infinite values are counted at the right, and not drawn.
        decimals: with which values are told.
    """
    finite = [point.x for _, points in groups for point in points if math.isfinite(point.x)]
    left = min(max([len(name) for name, _ in groups], default=0) * LETTER_WIDTH_PX + 16, 230)
    right = PLOT_WIDTH_PX - 44
    shares = not unit and finite and min(finite) >= 0 and max(finite) <= 1
    low, high = (math.floor(9.8 * min(finite)) / 10, 1.0) if shares else _limits(finite)
    scale = _Scale(low, high, left, right)
    height = 30 * len(groups)
    parts = [_grid(scale, height, unit)]
    for row, (name, points) in enumerate(groups):
        middle = 30 * row + 15
        parts.append(f'<text class=label x="{left - 8:.0f}" y="{middle + 4}">{escape(_cut(name))}</text>')
        parts.append(_box(points, scale, middle, decimals))
        infinite = sum(math.isinf(point.x) for point in points)
        if infinite:
            parts.append(f'<text class=far x="{right + 6}" y="{middle + 4}">∞ {infinite}</text>')
    told = f"{title} of {len(groups)} label{'s' * (len(groups) != 1)}, a box each"
    return _svg(PLOT_WIDTH_PX, height + 22, told, "".join(parts))


def draw_agreement(name: str, points: Sequence[Point], bias: float, limits: tuple[float, float]) -> str:
    """Draw the difference of two volumes over their mean, with bias and limits of agreement (Bland and Altman).

    Args:
        name: of the label.
        points: x is the mean of both volumes in mL, y their difference, predicted minus reference.
        bias: the mean difference; NaN if there is none.
        limits: of agreement; NaN if there are none.
    """
    width, height, left, top = 330, 210, 54, 10
    right, bottom = width - 12, height - 40
    across = _Scale(*_limits([point.x for point in points]), left, right)
    lines = [value for value in (bias, *limits) if math.isfinite(value)]
    up = _Scale(*_limits([0.0, *lines, *(point.y for point in points)]), bottom, top)
    parts = []
    for value, text in up.ticks(5):
        y = up(value)
        parts.append(f'<line class=grid x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class=label x="{left - 6}" y="{y + 4:.1f}">{text}</text>')
    for value, text in across.ticks(4):
        parts.append(f'<text class=tick x="{across(value):.1f}" y="{bottom + 16}">{text}</text>')
    parts.append(f'<text class=tick x="{(left + right) / 2:.0f}" y="{height - 6}">mean of both volumes, mL</text>')
    for value, kind, text in (
        (bias, "bias", "bias"),
        (limits[0], "limit", "−1.96 SD"),
        (limits[1], "limit", "+1.96 SD"),
    ):
        if math.isfinite(value):
            y = up(value)
            parts.append(
                f'<line class={kind} x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}">'
                f"<title>{text}: {value:.3g} mL</title></line>"
            )
    for point in points:
        told = f"{escape(point.name)}: {point.y:+.3g} mL at {point.x:.3g} mL"
        parts.append(
            f'<circle cx="{across(point.x):.1f}" cy="{up(point.y):.1f}" r="2.6"><title>{told}</title></circle>'
        )
    told = f"Volumes of {name}: predicted minus reference volume over the mean of both, {len(points)} cases"
    return _svg(width, height, told, "".join(parts))


class _Scale:
    """A linear axis from values to pixels."""

    def __init__(self, low: float, high: float, start: float, stop: float) -> None:
        self.low, self.high, self._start, self._stop = low, high, start, stop

    def __call__(self, value: float) -> float:
        return self._start + (value - self.low) / (self.high - self.low) * (self._stop - self._start)

    def ticks(self, count: int) -> list[tuple[float, str]]:
        """Return about so many round values, with their text."""
        step = _round_step((self.high - self.low) / count)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        # adding 0 turns -0 into 0
        return [(index * step, f"{index * step + 0.0:.{decimals}f}") for index in range(first, last + 1)]


def _round_step(length: float) -> float:
    """Return the smallest of 1, 2, 5, 10, … that is at least so long."""
    power = float(10 ** math.floor(math.log10(length)))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= length * (1 - 1e-9))


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """Return what an axis spans: all values, and 0 where they come close to it, with room at both ends."""
    if not values:
        return 0.0, 1.0
    low, high = min(values), max(values)
    if 0 < low < 0.6 * high:
        low = 0.0
    if low > 0 or low < 0 or high < 0:
        room = 0.06 * (high - low)
        low, high = (low - room if low else 0.0), high + room
    else:
        high *= 1.04
    if high - low < 1e-9 * max(abs(low), abs(high), 1.0):
        low, high = low - 0.5, high + 0.5
    return low, high


def _grid(scale: _Scale, height: float, unit: str) -> str:
    parts = []
    for value, text in scale.ticks(6):
        x = scale(value)
        parts.append(f'<line class=grid x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}"/>')
        parts.append(f'<text class=tick x="{x:.1f}" y="{height + 16}">{text}</text>')
    if unit:
        parts.append(f'<text class=tick x="{scale(scale.high) + 24:.1f}" y="{height + 16}">{unit}</text>')
    return "".join(parts)


def _box(points: Sequence[Point], scale: _Scale, middle: float, decimals: int) -> str:
    shown = [point for point in points if math.isfinite(point.x)]
    if not shown:
        return ""
    values = np.array([point.x for point in shown])
    first, median, third = np.percentile(values, (25, 50, 75)).tolist()
    reach = WHISKER_IQRS * (third - first)
    inside = values[(values >= first - reach) & (values <= third + reach)]
    low, high = float(inside.min()), float(inside.max())
    parts = [
        f'<line class=whisker x1="{scale(low):.1f}" x2="{scale(high):.1f}" y1="{middle}" y2="{middle}"/>',
        f'<rect class=box x="{scale(first):.1f}" y="{middle - 8}" width="{scale(third) - scale(first):.1f}" '
        f'height="16"><title>median {median:.{decimals}f}, quartiles {first:.{decimals}f} and {third:.{decimals}f}'
        "</title></rect>",
        f'<line class=median x1="{scale(median):.1f}" x2="{scale(median):.1f}" y1="{middle - 8}" y2="{middle + 8}"/>',
    ]
    for index, point in enumerate(shown):
        if len(shown) > MAX_POINTS_PER_BOX and low <= point.x <= high:
            continue
        y = middle + (index * 0.618034 % 1 - 0.5) * 10  # points of like value lie beside each other
        told = f"{escape(point.name)}: {point.x:.{decimals}f}"
        parts.append(f'<circle cx="{scale(point.x):.1f}" cy="{y:.1f}" r="2.2"><title>{told}</title></circle>')
    return "".join(parts)


def _cut(name: str) -> str:
    return name if len(name) <= 30 else name[:29] + "…"


def _svg(width: float, height: float, told: str, content: str) -> str:
    return (
        f'<svg class=plot viewBox="0 0 {width} {height}" width="{width}" height="{height}" role=img '
        f'aria-label="{escape(told)}">{content}</svg>'
    )
