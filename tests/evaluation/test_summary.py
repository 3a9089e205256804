"""Means, intervals and presence: against SciPy's bootstrap, and against counts by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tomoseg.data.overlap import Overlap
from tomoseg.evaluation import bootstrap
from tomoseg.evaluation.bootstrap import draw_weights, interval, resample
from tomoseg.evaluation.case import CaseScores, LabelScores
from tomoseg.evaluation.config import EvaluationConfig
from tomoseg.evaluation.summary import LabelSummary, summarise
from tomoseg.evaluation.surface import SurfaceScores

NAMES = {1: "a", 2: "b"}
PERFECT = SurfaceScores(0.0, 0.0, 1.0)


def label(value: int, both: int, predicted_only: int, reference_only: int) -> LabelScores:
    overlap = Overlap(both, predicted_only, reference_only, 1000 - both - predicted_only - reference_only)
    one_is_empty = not (overlap.predicted and overlap.reference)
    nothing = not (overlap.predicted or overlap.reference)
    surface = SurfaceScores(math.inf, math.inf, 0.0) if one_is_empty else PERFECT
    return LabelScores(value, overlap, SurfaceScores(*[math.nan] * 3) if nothing else surface, 0.002)


def case(name: str, *labels: LabelScores, annotated: frozenset[int] | None = None) -> CaseScores:
    absent = Overlap(0, 0, 0, 1000)
    return CaseScores(name, Path("p"), Path("r"), "done", labels=labels, absent=absent, annotated=annotated)


def test_each_resample_draws_as_many_cases_as_there_are() -> None:
    for cases in (1, 7, 3000):
        weights = np.concatenate(list(draw_weights(cases)))
        assert weights.shape == (bootstrap.RESAMPLES, cases)
        assert (weights.sum(axis=1) == cases).all()
        # each case is drawn once on average: 4 SD of a mean of Poisson numbers
        assert np.abs(weights.mean(axis=0) - 1).max() < 5 / math.sqrt(bootstrap.RESAMPLES)


@given(st.integers(0, 1000), st.integers(15, 60), st.booleans())
@settings(deadline=None, max_examples=15)
def test_the_interval_is_scipys(seed: int, cases: int, some_undefined: bool) -> None:
    array = np.random.default_rng(seed).beta(8, 2, cases)
    defined = np.ones(len(array))
    if some_undefined:
        defined[::4] = 0
    low, high = interval(resample((array * defined)[:, None], defined[:, None])[:, 0])
    known = array[defined > 0]
    spread = known.std() / math.sqrt(len(known))
    found = stats.bootstrap((known,), np.mean, method="percentile", n_resamples=10_000, rng=1)
    wanted = found.confidence_interval
    # by chance the bounds of 10,000 resamples vary by about 0.05 of the standard error; a case that may be missing from
    # the sample widens them a little
    assert low == pytest.approx(wanted[0], abs=(0.35 if some_undefined else 0.2) * spread + 1e-9)
    assert high == pytest.approx(wanted[1], abs=(0.35 if some_undefined else 0.2) * spread + 1e-9)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Of 200 samples of 50 normal values, 95 % ± 4 SD of a binomial."""
    samples = np.random.default_rng(5).normal(0.8, 0.1, (50, 200))
    draws = resample(samples, np.ones_like(samples))
    held = sum(low <= 0.8 <= high for low, high in (interval(draws[:, index]) for index in range(200)))
    assert 0.88 * 200 < held < 0.99 * 200


def summaries() -> dict[str, LabelSummary]:
    cases = [
        case("both", label(1, 80, 20, 20), label(2, 50, 0, 50)),
        case("missed", label(1, 0, 0, 30)),
        case("made up", label(1, 0, 10, 0), label(2, 10, 10, 0)),
        case("partly", label(1, 90, 10, 10), annotated=frozenset({1})),
        CaseScores("failed", None, Path("r"), "failed", "why"),
    ]
    return {one.name: one for one in summarise(cases, EvaluationConfig(NAMES))}


def test_empty_labels_enter_as_documented() -> None:
    found = summaries()["a"]
    dice = found.metrics["dice"]
    assert dice.mean.value == pytest.approx((0.8 + 0 + 0 + 0.9) / 4)
    assert (dice.cases, dice.undefined) == (4, 0)
    hd95 = found.metrics["hd95_mm"]
    assert (hd95.mean.value, hd95.cases, hd95.infinite, hd95.undefined) == (0, 2, 2, 0)
    assert hd95.median == math.inf
    precision = found.metrics["precision"]
    assert (precision.cases, precision.undefined) == (3, 1)
    error = found.metrics["volume_error_ml"]
    assert error.mean.value == pytest.approx((0 - 0.06 + 0.02 + 0) / 4)
    assert error.cases == 4
    relative = found.metrics["relative_volume_error"]
    assert relative.mean.value == pytest.approx((0 - 1 + 0) / 3)
    assert (relative.cases, relative.undefined) == (3, 1)


def test_what_was_not_annotated_counts_nowhere() -> None:
    found = summaries()["b"]
    dice = found.metrics["dice"]
    assert dice.mean.value == pytest.approx(2 / 3)
    assert (dice.cases, dice.undefined) == (2, 1)
    assert found.metrics["accuracy"].cases == 3
    presence = found.presence
    assert (presence.both, presence.predicted_only, presence.reference_only, presence.neither) == (2, 0, 0, 1)


def test_presence_is_counted_by_cases() -> None:
    found = summaries()
    presence = found["a"].presence
    assert (presence.both, presence.predicted_only, presence.reference_only, presence.neither) == (2, 1, 1, 0)
    values = (presence.accuracy.value, presence.precision.value, presence.recall.value, presence.f1.value)
    assert values == pytest.approx((1 / 2, 2 / 3, 2 / 3, 2 / 3))
    assert 0 <= presence.accuracy.low < 0.5 < presence.accuracy.high <= 1
    together = found["all labels"].presence
    assert (together.both, together.predicted_only, together.reference_only, together.neither) == (4, 1, 1, 1)
    assert together.accuracy.value == pytest.approx(5 / 7)


def test_all_labels_are_the_mean_of_the_labels() -> None:
    found = summaries()
    for key, together in found["all labels"].metrics.items():
        means = [found[name].metrics[key].mean.value for name in ("a", "b")]
        assert together.mean.value == pytest.approx(np.mean(means))
        assert together.mean.low <= together.mean.value <= together.mean.high


def test_limits_of_agreement_are_those_of_the_formula() -> None:
    errors = np.array([3, -1, 0, 10, 4])
    cases = [case(str(number), label(1, 20, max(e, 0), max(-e, 0))) for number, e in enumerate(errors.tolist())]
    (found,) = summarise(cases, EvaluationConfig({1: "a"}))
    assert found.agreement is not None
    ml = errors * 0.002
    wanted = (ml.mean(), ml.mean() - 1.96 * ml.std(ddof=1), ml.mean() + 1.96 * ml.std(ddof=1))
    assert (found.agreement.bias_ml, found.agreement.low_ml, found.agreement.high_ml) == pytest.approx(wanted)


def test_one_case_has_no_interval() -> None:
    (found,) = summarise([case("x", label(1, 5, 0, 0))], EvaluationConfig({1: "a"}))
    assert found.metrics["dice"].mean.value == 1
    assert math.isnan(found.metrics["dice"].mean.low)
    assert math.isnan(found.presence.f1.low)
    assert math.isnan(found.metrics["dice"].sd)


def test_one_value_of_each_label_has_no_interval_however_many_cases_there_are() -> None:
    found = summarise([case("x", label(1, 5, 1, 0), label(2, 5, 0, 2)), case("y")], EvaluationConfig({1: "a", 2: "b"}))
    assert [one.metrics["dice"].cases for one in found] == [1, 1, 2]
    assert all(math.isnan(one.metrics["dice"].mean.low) for one in found)


def test_without_names_every_label_of_any_case_is_summarised() -> None:
    found = summarise([case("x", label(1, 5, 0, 0)), case("y", label(4, 5, 0, 0))], EvaluationConfig())
    assert [(one.label, one.name) for one in found] == [(1, "label 1"), (4, "label 4"), (0, "all labels")]
    assert [one.presence.neither for one in found] == [1, 1, 2]
    assert found[0].metrics["accuracy"].mean.value == 1


def test_nothing_is_summarised_of_nothing() -> None:
    assert summarise([CaseScores("x", None, None, "failed", "why")], EvaluationConfig(NAMES)) == []
    found = summarise([case("x"), case("y")], EvaluationConfig(NAMES))
    assert math.isnan(found[0].metrics["dice"].mean.value)
    assert math.isnan(found[-1].metrics["dice"].mean.value)
    assert found[0].presence.accuracy.value == 1
    assert math.isnan(found[0].presence.f1.value)


def test_the_same_cases_give_the_same_numbers() -> None:
    assert str(summaries()) == str(summaries())
