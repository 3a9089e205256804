"""What all cases together say."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tomoseg.evaluation.bootstrap import interval, resample
from tomoseg.evaluation.case import CaseScores, LabelScores, scores_of
from tomoseg.evaluation.config import EvaluationConfig
from tomoseg.evaluation.metrics import METRICS

PRESENCE = ("accuracy", "precision", "recall", "f1")
LIMITS_OF_AGREEMENT_SD = 1.96  # SDs around the mean that hold 95 % of a normal distribution: the limits of agreement


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: NaN where it is not defined.
        low, high: of the 95 % bootstrap interval; NaN where the value is, and for a single case.
    """

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class MetricSummary:
    """One metric of one label over all cases.

    Attributes:
        mean: of the finite values.
        sd: of the finite values (of a sample, divided by n - 1).
        median: of all defined values, infinite ones included.
        cases: number of finite values.
        infinite: number of infinite values, which are in the median and not in the mean.
        undefined: number of cases without a value, which are in neither; those in which the label was not annotated are
            not counted at all.
    """

    mean: Estimate
    sd: float
    median: float
    cases: int
    infinite: int
    undefined: int


@dataclass(frozen=True)
class PresenceSummary:
    """Whether a label was found in the cases that have it, and in those only; it is there if one voxel carries it.

    Attributes:
        both, predicted_only, reference_only, neither: numbers of cases.
        accuracy, precision, recall, f1: NaN where nothing stands below the line.
    """

    both: int
    predicted_only: int
    reference_only: int
    neither: int
    accuracy: Estimate
    precision: Estimate
    recall: Estimate
    f1: Estimate


@dataclass(frozen=True)
class VolumeAgreement:
    """How predicted volumes differ from the reference's (Bland and Altman, Lancet 327:307, 1986).

    Attributes:
        bias_ml: mean difference.
        low_ml, high_ml: the limits of agreement, 1.96 SD on both sides of the bias; NaN for a single case.
    """

    bias_ml: float
    low_ml: float
    high_ml: float


@dataclass(frozen=True)
class LabelSummary:
    """One label over all cases; or all labels.

    Attributes:
        label: its value; 0 for all labels.
        name: as people call it.
        tolerance_mm: of its normalised surface distance; None for all labels.
        metrics: by key. For all labels, the mean of the labels' means, and nothing else.
        presence: of all labels, cases times labels are counted.
    """

    label: int
    name: str
    tolerance_mm: float | None
    metrics: dict[str, MetricSummary]
    presence: PresenceSummary

    @property
    def agreement(self) -> VolumeAgreement | None:
        """Agreement of volumes; None for all labels."""
        error = self.metrics["volume_error_ml"]
        bias, spread = error.mean.value, LIMITS_OF_AGREEMENT_SD * error.sd
        return VolumeAgreement(bias, bias - spread, bias + spread) if self.label else None


def summarise(cases: Sequence[CaseScores], config: EvaluationConfig) -> list[LabelSummary]:
    """Summarise all labels, one after the other, then all of them together if there are several.

    Cases that failed are left out, and of a partly annotated case the labels that were not drawn.

    Args:
        cases: in any order; the intervals depend on it by no more than chance.
        config: if it names no labels, those that occur in any case are summarised.
    """
    done = [case for case in cases if case.status == "done"]
    labels = sorted(config.names or {scores.label for case in done for scores in case.labels})
    if not done or not labels:
        return []
    table = [scores_of(case, labels) for case in done]
    values = np.array(
        [[[math.nan if one is None else metric.of(one) for metric in METRICS] for one in row] for row in table]
    )
    counts = np.array([[_presence(one) for one in row] for row in table], dtype=np.float64)
    scored = np.array([[one is not None for one in row] for row in table])
    finite = np.isfinite(values)
    shape = (len(done), -1)
    draws = resample(np.where(finite, values, 0).reshape(shape), finite.astype(np.float64).reshape(shape))
    draws = draws.reshape(-1, len(labels), len(METRICS))
    presences = _summarise_presence(counts)
    summaries = [
        LabelSummary(
            label=label,
            name=config.name(label),
            tolerance_mm=config.tolerance(label),
            metrics={
                metric.key: _summarise(values[scored[:, place], place, index], draws[:, place, index])
                for index, metric in enumerate(METRICS)
            },
            presence=presences[place],
        )
        for place, label in enumerate(labels)
    ]
    if len(labels) == 1:
        return summaries
    together = LabelSummary(
        label=0,
        name="all labels",
        tolerance_mm=None,
        metrics={
            metric.key: _mean_of_means([one.metrics[metric.key] for one in summaries], draws[:, :, index])
            for index, metric in enumerate(METRICS)
        },
        presence=presences[-1],
    )
    return [*summaries, together]


def _presence(scores: LabelScores | None) -> tuple[int, int, int, int]:
    """Return a 1 for both, prediction only, reference only or neither."""
    if scores is None:
        return 0, 0, 0, 0
    ours, theirs = scores.overlap.predicted > 0, scores.overlap.reference > 0
    return int(ours and theirs), int(ours and not theirs), int(theirs and not ours), int(not ours and not theirs)


def _estimate(values: NDArray[np.float64], draws: NDArray[np.float64], several: bool) -> Estimate:
    """Return a mean; one value has no interval, nor has a mean of such."""
    return Estimate(float(values.mean()) if values.size else math.nan, *(interval(draws) if several else ()))


def _summarise(values: NDArray[np.float64], draws: NDArray[np.float64]) -> MetricSummary:
    finite, defined = values[np.isfinite(values)], values[~np.isnan(values)]
    return MetricSummary(
        mean=_estimate(finite, draws, finite.size > 1),
        sd=float(finite.std(ddof=1)) if finite.size > 1 else math.nan,
        median=float(np.median(defined)) if defined.size else math.nan,
        cases=finite.size,
        infinite=defined.size - finite.size,
        undefined=values.size - defined.size,
    )


def _mean_of_means(parts: Sequence[MetricSummary], draws: NDArray[np.float64]) -> MetricSummary:
    means = np.array([part.mean.value for part in parts])
    means = means[~np.isnan(means)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a draw in which no label is defined
        draws = np.nanmean(draws, axis=1)
    return MetricSummary(
        mean=_estimate(means, draws, any(part.cases > 1 for part in parts)),
        sd=math.nan,
        median=math.nan,
        cases=sum(part.cases for part in parts),
        infinite=sum(part.infinite for part in parts),
        undefined=sum(part.undefined for part in parts),
    )


def _summarise_presence(counts: NDArray[np.float64]) -> list[PresenceSummary]:
    """Return the presence of each label, then that of all together.

    Args:
        counts: (cases, labels, 4), a 1 for both, prediction only, reference only or neither.
    """
    counts = np.concatenate([counts, counts.sum(axis=1, keepdims=True)], axis=1)
    both, predicted_only, reference_only, neither = np.moveaxis(counts, 2, 0)
    right, everything = both + neither, counts.sum(axis=2)
    numerators = np.stack([right, both, both, 2 * both], axis=2)  # in the order of PRESENCE
    denominators = np.stack(
        [everything, both + predicted_only, both + reference_only, 2 * both + predicted_only + reference_only], axis=2
    )
    cases, labels = counts.shape[:2]
    draws = resample(numerators.reshape(cases, -1), denominators.reshape(cases, -1)).reshape(-1, labels, len(PRESENCE))
    with np.errstate(invalid="ignore"):
        shares = numerators.sum(axis=0) / denominators.sum(axis=0)
    summaries = []
    for place, totals in enumerate(counts.sum(axis=0).astype(int).tolist()):
        estimates = (_estimate(shares[place, [n]], draws[:, place, n], cases > 1) for n in range(len(PRESENCE)))
        summaries.append(PresenceSummary(*totals, *estimates))
    return summaries
