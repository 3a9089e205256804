"""Plan plots: what lies where. `plots.html` draws them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

PLOT_WIDTH_PX = 550
MAX_POINTS_PER_BOX = 200  # points in one box; of more, those beyond the whiskers are drawn
WHISKER_IQRS = 1.5  # of the interquartile range: Tukey's
LETTER_WIDTH_PX = 7.2  # pixels of an average letter of a label


@dataclass(frozen=True)
class Point:
    """One case in a plot.

    Attributes:
        name: of the case.
        x, y: where it lies; in a box plot, `y` is the distance from the middle of the box in pixels.
    """

    name: str
    x: float
    y: float = 0.0


@dataclass(frozen=True)
class Axis:
    """A linear axis from values to pixels.

    Attributes:
        low, high: the values at its ends.
        start, stop: the pixels there.
    """

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def ticks(self, count: int) -> list[tuple[float, str]]:
        """Return about so many round values, with their text."""
        step = _round_step((self.high - self.low) / count)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        # adding 0 turns -0 into 0
        return [(index * step, f"{index * step + 0.0:.{decimals}f}") for index in range(first, last + 1)]


@dataclass(frozen=True)
class Box:
    """One label of a box plot.

    Attributes:
        name: of the label.
        infinite: number of values that are counted, and not drawn.
        quartiles: first, median, third; None without a finite value.
        reach: `[lowest, highest]` value within 1.5 interquartile ranges of the quartiles.
        points: the cases that are drawn.
    """

    name: str
    infinite: int
    quartiles: tuple[float, ...] | None = None
    reach: tuple[float, float] = (math.nan, math.nan)
    points: tuple[Point, ...] = ()


@dataclass(frozen=True)
class BoxPlot:
    """One box a label, beneath each other, on one axis."""

    axis: Axis
    boxes: tuple[Box, ...]

    @property
    def is_empty(self) -> bool:
        """Whether there is no value to show."""
        return not any(box.quartiles or box.infinite for box in self.boxes)


@dataclass(frozen=True)
class AgreementPlot:
    """The difference of two volumes over their mean (Bland and Altman).

    Attributes:
        across, up: the axes.
        lines: (kind, title, value) of the bias and the limits of agreement.
        points: the cases; x is the mean of both volumes in mL, y their difference, predicted minus reference.
    """

    across: Axis
    up: Axis
    lines: tuple[tuple[str, str, float], ...]
    points: tuple[Point, ...]


def plan_boxes(unit: str, groups: Sequence[tuple[str, Sequence[Point]]]) -> BoxPlot:
    """Plan one box a label: quartiles, median, whiskers to the last point within 1.5 interquartile ranges, points.

    Args:
        unit: of the values; "" for shares.
        groups: (label, cases); infinite values are counted, and not drawn; NaN is no value.
    """
    finite = [point.x for _, points in groups for point in points if math.isfinite(point.x)]
    left = min(max([len(name) for name, _ in groups], default=0) * LETTER_WIDTH_PX + 16, 230)
    shares = not unit and finite and min(finite) >= 0 and max(finite) <= 1
    low, high = (math.floor(9.8 * min(finite)) / 10, 1.0) if shares else _limits(finite)
    return BoxPlot(Axis(low, high, left, PLOT_WIDTH_PX - 44), tuple(_box(name, points) for name, points in groups))


def plan_agreement(points: Sequence[Point], bias: float, limits: tuple[float, float]) -> AgreementPlot:
    """Plan the plot of Bland and Altman for the volumes of one label.

    Args:
        points: x is the mean of both volumes in mL, y their difference, predicted minus reference.
        bias: the mean difference; NaN if there is none.
        limits: of agreement; NaN if there are none.
    """
    low, high = limits
    lines = [("bias", "bias", bias), ("limit", "−1.96 SD", low), ("limit", "+1.96 SD", high)]
    lines = [line for line in lines if math.isfinite(line[2])]
    across = Axis(*_limits([point.x for point in points]), 54, 318)
    up = Axis(*_limits([0.0, *(value for _, _, value in lines), *(point.y for point in points)]), 170, 10)
    return AgreementPlot(across, up, tuple(lines), tuple(points))


def _box(name: str, points: Sequence[Point]) -> Box:
    infinite = sum(math.isinf(point.x) for point in points)
    shown = [point for point in points if math.isfinite(point.x)]
    if not shown:
        return Box(name, infinite)
    values = np.array([point.x for point in shown])
    quartiles = np.percentile(values, (25, 50, 75)).tolist()
    reach = WHISKER_IQRS * (quartiles[2] - quartiles[0])
    inside = values[(values >= quartiles[0] - reach) & (values <= quartiles[2] + reach)]
    low, high = float(inside.min()), float(inside.max())
    drawn = tuple(
        Point(point.name, point.x, (index * 0.618034 % 1 - 0.5) * 10)  # points of like value lie beside each other
        for index, point in enumerate(shown)
        if len(shown) <= MAX_POINTS_PER_BOX or not low <= point.x <= high
    )
    return Box(name, infinite, tuple(quartiles), (low, high), drawn)


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
