"""Write what the training cases of a bundle are like into it, so that other scans can be compared with them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tomoseg.bundle.domain import Domain, Range
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.trust import changed_by_us
from tomoseg.core.errors import TomosegError, one_line
from tomoseg.data.datasets import Pair
from tomoseg.inference.config import InferenceConfig
from tomoseg.inference.domain import QUANTILES, TURNS, Traits, measure_traits, standardise
from tomoseg.inference.segmenter import Segmenter
from tomoseg.training.monitor import TrainingMonitor
from tomoseg.training.options import TrainingOptions

MIN_CASES = 10  # for percentiles, and so that no case shows in the sums
MAX_CASES = 400  # that are measured, evenly spread
USUAL = (1, 99)  # percentiles over the cases
RIDGE = 0.001  # chosen by cross-validation on the two bundles of this repository
PARTS = 5  # of the cases, each compared with a look fitted on the others
LIKENESS_PERCENTILE = 5  # of these; its half is the least likeness


def measure_domain(segmenter: Segmenter, pairs: Sequence[Pair]) -> Domain:
    """Return what cases are like after a bundle's preprocessing.

    Args:
        segmenter: of the bundle.
        pairs: at least 10 cases.

    Raises:
        TomosegError: a case cannot be read.
    """
    prepared = (segmenter.prepare(pair.source, as_it_is=True) for pair in pairs)
    traits = [measure_traits(one.image, one.grid) for one in prepared]
    return fit_domain(traits, mirrored=0 in InferenceConfig(segmenter.bundle).mirror_axes)


def fit_domain(traits: Sequence[Traits], mirrored: bool) -> Domain:
    """Return what cases with these traits are like; `mirrored`: so are the other side's."""
    looks = [one.look for one in traits]
    parts = [looks[part::PARTS] for part in range(PARTS)]
    likeness = []
    for part, held_out in enumerate(parts):
        weights = _fit_look([look for other, some in enumerate(parts) if other != part for look in some], mirrored)
        likeness += [float(standardise(look) @ weights) for look in held_out]
    intensities = np.array([one.intensities for one in traits])
    (i, j, k), (x, y, z) = (
        map(_range, np.array([getattr(one, name) for one in traits]).T) for name in ("spacing_mm", "extent_mm")
    )
    return Domain(
        cases=len(traits),
        spacing_mm=(i, j, k),
        extent_mm=(x, y, z),
        quantiles=QUANTILES,
        intensities=tuple(tuple(map(_range, channel.T)) for channel in np.moveaxis(intensities, 1, 0)),
        roughness=_range(np.array([one.roughness for one in traits])),
        look=tuple(round(weight, 3) for weight in _fit_look(looks, mirrored).tolist()),
        least_likeness=round(max(float(np.percentile(likeness, LIKENESS_PERCENTILE)) / 2, 0.0), 3),
    )


def _range(values: NDArray[np.float64]) -> Range:
    low, high = (round(value, 4) for value in np.percentile(values, USUAL).tolist())
    return low, high


def _fit_look(looks: Sequence[NDArray[np.float64]], mirrored: bool) -> NDArray[np.float64]:
    """Return the weights that separate cases (1) from those turned (-1), by ridge regression."""
    upright = [*looks, *(np.flip(look, 0) for look in looks if mirrored)]
    turned = [np.flip(look, axes) for look in upright for axes in TURNS.values()]
    ours, others = (np.array(list(map(standardise, some))) for some in (upright, turned))
    squares = ours.T @ ours / len(ours) + others.T @ others / len(others)
    found: NDArray[np.float64] = np.linalg.solve(
        squares + RIDGE * np.eye(len(squares)), ours.mean(axis=0) - others.mean(axis=0)
    )
    return found


def save_domain(bundle: Bundle, pairs: Sequence[Pair], options: TrainingOptions, hidden: bool) -> None:
    """Measure the cases that a bundle was trained on, and write the result into it; a fault is a line.

    Args:
        bundle: the bundle.
        pairs: cases with scans; for few nothing is written.
        options: of the training.
        hidden: show nothing.
    """
    pairs = pairs[:: -(-len(pairs) // MAX_CASES) or 1]
    if len(pairs) < MIN_CASES:
        return
    with TrainingMonitor("training cases", hidden) as monitor:
        try:
            domain = measure_domain(Segmenter(bundle, RunOptions("cpu", "torch", threads=options.threads)), pairs)
        except TomosegError as error:  # the weights are good
            monitor.tell(f"training cases: not measured: {one_line(error)}")
            return
        with changed_by_us(bundle):
            domain.save(bundle.root)
