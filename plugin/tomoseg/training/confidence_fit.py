"""Fit how the sums of a label become its expected Dice, and how far below that the Dice may lie."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression, least_squares
from scipy.special import expit

from tomoseg.bundle.confidence import (
    COVERED,
    LEAST_ERROR,
    SMALLEST,
    Confidence,
    LabelConfidence,
    describe_sums,
)

CLEAN: Final = "clean"
GROUPS: Final = 5  # of patients; each is predicted by a fit on the others
POINTS: Final = 24  # of a curve
MIN_PATIENTS, MIN_RESULTS, MIN_ABSENT = 3, 12, 5  # for a label to be calibrated, and its presence

Numbers = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Result:
    """One label of one result.

    Attributes:
        case: name of the patient.
        copy: `CLEAN`, or the corruption and its severity.
        label: its name.
        present: whether the reference has it.
        dice: with the reference, 0 where only one of them has it.
        sums: (temperature, 5), as `ConfidenceSums` makes them, in mL and cm².
    """

    case: str
    copy: str
    label: str
    present: bool
    dice: float
    sums: Numbers


@dataclass(frozen=True, eq=False)
class Fitted:
    """A label's calibration, and its results for patients that were left out of a fit.

    Attributes:
        label: fitted on all.
        dice, expected: (results,) true and expected, of results that have the label.
        presence: (results,) probability that the label is there, for all results; empty where none lacks it.
        bounded: share of the true values that are not below the lower bound, patient by patient.
    """

    label: LabelConfidence
    dice: Numbers
    expected: Numbers
    presence: Numbers


def fit_confidence(results: Sequence[Result], checkpoints: Sequence[str], temperatures: Sequence[float]) -> Confidence:
    """Return the calibration of a bundle; labels with too few patients or results are left out.

    Args:
        results: of cases that the networks were not trained on, clean and corrupted.
        checkpoints: SHA-256 of the files of weights that it holds for.
        temperatures: those of the sums; the one whose expected Dice is nearest to the true one is taken.
    """
    names = dict.fromkeys(one.label for one in results)
    tried = []
    for place, temperature in enumerate(temperatures):
        every = {name: fit_label([one for one in results if one.label == name], place) for name in names}
        fitted = {name: one.label for name, one in every.items() if one is not None}
        error = float(np.mean([one.error for one in fitted.values()])) if fitted else 0.0
        tried.append((error, temperature, fitted))
    _, temperature, labels = min(tried, key=lambda one: one[:2])
    return Confidence(tuple(checkpoints), temperature, labels)


def fit_label(results: Sequence[Result], temperature: int) -> Fitted | None:
    """Return what one label's results say at one of the temperatures; None where there are too few.

    Patients are left out in turn for the correlation, the error and the lower bound (cross-conformal; Lei and others,
    doi:10.1080/01621459.2017.1307116), with all copies of theirs, and each patient counts as one.
    """
    found = [one for one in results if one.sums[temperature, 0] > 0]
    usual = [one.sums[temperature, 0] for one in found if one.copy == CLEAN and one.present]
    if len({one.case for one in found}) < MIN_PATIENTS or len(found) < MIN_RESULTS or not usual:
        return None
    volume_ml = float(np.median(usual))
    sums, dice = np.stack([one.sums[temperature] for one in found]), np.array([one.dice for one in found])
    features, cases = describe_sums(sums, volume_ml), [one.case for one in found]
    expected = np.empty(len(found))
    for left_out in _groups(cases):
        expected[left_out] = _Curve(features[~left_out], dice[~left_out])(features[left_out])
    curve = _Curve(features, dice)
    varied = expected.std() > 0 and dice.std() > 0
    missed = [one.present for one in results if one.sums[temperature, 0] == 0]
    soft = np.log(np.array([one.sums[temperature, 2] for one in results]) + SMALLEST * volume_ml)
    present = np.array([float(one.present) for one in results])
    varies = (1 - present).sum() >= MIN_ABSENT and present.any()
    shown = np.empty(len(results) if varies else 0)
    for left_out in _groups([one.case for one in results]) if varies else ():
        shown[left_out] = np.interp(soft[left_out], *_rising(soft[~left_out], present[~left_out]))
    label = LabelConfidence(
        volume_ml=volume_ml,
        weights=tuple(curve.weights.tolist()),
        curve=_points(curve.index, curve.values),
        spread=_spread(dice, expected, cases),
        presence=_points(*_rising(soft, present)) if varies else (),
        found_when_missing=float(np.mean(missed)) if missed else 1.0,
        cases=len({*cases}),
        results=len(found),
        pearson=float(np.corrcoef(expected, dice)[0, 1]) if varied else 0.0,
        error=float(np.abs(expected - dice).mean()),
    )
    return Fitted(label, dice, expected, shown)


class _Curve:
    """A Dice that falls with each feature: a logistic function of their sum with weights of 0 or more, made monotone.

    Args:
        features: (results, features).
        dice: (results,).
    """

    def __init__(self, features: Numbers, dice: Numbers) -> None:
        centre, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
        rows = (features - centre) / scale

        def misses(weights: Numbers) -> Numbers:
            difference: Numbers = expit(weights[0] - rows @ weights[1:]) - dice
            return difference

        least = np.array([-np.inf, *np.zeros(features.shape[1])])
        found = least_squares(misses, np.array([1.0, *np.full(features.shape[1], 0.5)]), bounds=(least, np.inf))
        self.weights: Numbers = found.x[1:] / scale
        self.index, self.values = _rising(-features @ self.weights, dice)

    def __call__(self, features: Numbers) -> Numbers:
        """Return the expected Dice (results,)."""
        expected: Numbers = np.interp(-features @ self.weights, self.index, self.values)
        return expected


def _rising(places: Numbers, values: Numbers) -> tuple[Numbers, Numbers]:
    """Return sorted places, and the rising values that are nearest to those there."""
    order = np.argsort(places, kind="stable")
    return places[order], isotonic_regression(values[order]).x


def _points(places: Numbers, values: Numbers) -> tuple[tuple[float, float], ...]:
    """Return a few points of a rising curve, with as many results between any two of them."""
    chosen = np.unique(np.linspace(0, len(places) - 1, POINTS).round().astype(int))
    return tuple((round(float(places[one]), 5), round(float(values[one]), 5)) for one in chosen)


def _groups(cases: Sequence[str]) -> Iterator[NDArray[np.bool_]]:
    """Yield masks of the results of some patients, each patient once."""
    patients = sorted({*cases})
    group = {case: number % min(GROUPS, len(patients)) for number, case in enumerate(patients)}
    numbers = np.array([group[case] for case in cases])
    yield from (numbers == number for number in range(numbers.max() + 1))


def _spread(dice: Numbers, expected: Numbers, cases: Sequence[str]) -> float:
    """Return by how much the error of a result exceeds the expected one at most, in 90 % of the results of a patient.

    Results of a patient share its weight: Lee, Barber and Willett, https://arxiv.org/abs/2306.06342.
    """
    scores = (1 - dice) / np.maximum(1 - expected, LEAST_ERROR)
    names, inverse, counts = np.unique(cases, return_inverse=True, return_counts=True)
    order = np.argsort(scores)
    mass = np.cumsum(1 / counts[inverse][order]) / (len(names) + 1)  # the patient to come has the rest
    return float(scores[order][min(int(np.searchsorted(mass, COVERED)), len(scores) - 1)])
