"""Bootstrap intervals of statistics of a sample of cases.

Cases are drawn with replacement, as many as there are, `RESAMPLES` times; the interval lies between the 2.5th and the
97.5th percentile of what the draws give (Efron's percentile bootstrap; Efron and Tibshirani, An Introduction to the
Bootstrap, 1993, chapter 13). All labels and metrics of a case go together into each draw. Of few cases (below about 20)
such an interval is too narrow.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
SEED = 0
CONFIDENCE_LEVEL = 0.95
MAX_DRAWS_AT_ONCE = 1 << 22  # draws of cases at a time: 32 MB


def draw_weights(cases: int) -> Iterator[NDArray[np.float64]]:
    """Yield how often each case is drawn, (resamples, cases), a part of the resamples at a time; always the same."""
    random = np.random.default_rng(SEED)
    step = max(1, MAX_DRAWS_AT_ONCE // max(cases, 1))
    for start in range(0, RESAMPLES, step):
        rows = min(step, RESAMPLES - start)
        drawn = random.integers(cases, size=(rows, cases)) + cases * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * cases).reshape(rows, cases).astype(np.float64)


def resample(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ratios of sums over cases, for each resample.

    A mean is such a ratio: of the values, with 0 for those that are not defined, and of ones where they are.

    Args:
        numerators: (cases, quantities).
        denominators: (cases, quantities).

    Returns:
        (resamples, quantities); NaN where nothing defined was drawn.
    """
    cases = len(numerators)
    with np.errstate(invalid="ignore", divide="ignore"):
        parts = [(weights @ numerators) / (weights @ denominators) for weights in draw_weights(cases)]
    return np.concatenate(parts)


def interval(draws: NDArray[np.float64]) -> tuple[float, float]:
    """Return the bounds of the interval of one quantity, (resamples,); NaN where no draw is defined."""
    defined = draws[np.isfinite(draws)]
    if not defined.size:
        return float("nan"), float("nan")
    low, high = np.percentile(defined, (50 * (1 - CONFIDENCE_LEVEL), 50 * (1 + CONFIDENCE_LEVEL)))
    return float(low), float(high)
