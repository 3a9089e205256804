"""Counts of voxels and their ratios equal MONAI's."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.extra.numpy as npst
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_confusion_matrix_metric, compute_dice, compute_iou, get_confusion_matrix

from tomoseg.data.overlap import Overlap, count_overlap

# MONAI's names
NAMES = {"precision": "precision", "recall": "sensitivity", "accuracy": "accuracy", "dice": "f1 score"}


@st.composite
def masks(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(npst.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=8))
    elements = st.sampled_from((False, True))
    arrays = npst.arrays(np.bool_, shape, elements=elements, fill=elements)
    return draw(arrays), draw(arrays)


@given(masks())
@settings(deadline=None)
def test_ratios_are_monais(pair: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, reference = pair
    found = count_overlap(prediction, reference, prediction.size)
    ours, theirs = (torch.from_numpy(mask.copy())[None, None].float() for mask in pair)
    confusion = get_confusion_matrix(ours, theirs, include_background=True)
    for name, known in NAMES.items():
        same(getattr(found, name), compute_confusion_matrix_metric(known, confusion)[0, 0])
    if reference.any() or prediction.any():  # of nothing at all, MONAI says 1 or NaN, as asked
        same(found.dice, compute_dice(ours, theirs, include_background=True, ignore_empty=False)[0, 0])
        same(found.jaccard, compute_iou(ours, theirs, include_background=True, ignore_empty=False)[0, 0])


def same(found: float, wanted: Any) -> None:
    assert found == float(wanted) or abs(found - float(wanted)) < 1e-6 or (math.isnan(found) and math.isnan(wanted))


@given(masks())
@settings(deadline=None)
def test_dice_and_jaccard_are_symmetric_and_one_gives_the_other(pair: tuple[np.ndarray, np.ndarray]) -> None:
    prediction, reference = pair
    found = count_overlap(prediction, reference, prediction.size)
    turned = count_overlap(reference, prediction, prediction.size)
    assert (found.dice, found.jaccard) == (turned.dice, turned.jaccard) or math.isnan(found.dice)
    assert (found.precision == turned.recall) or math.isnan(found.precision)
    if found.predicted or found.reference:
        assert math.isclose(found.dice, 2 * found.jaccard / (1 + found.jaccard), abs_tol=1e-12)


def test_voxels_outside_of_the_box_count_as_right() -> None:
    found = count_overlap(np.ones((2, 1, 1), np.bool_), np.array([[[True]], [[False]]]), 1000)
    assert found == Overlap(both=1, predicted_only=1, reference_only=0, neither=998)
    assert found.accuracy == 0.999
    assert found.relative_volume_error == 1.0


def test_of_nothing_nothing_is_said() -> None:
    nothing = Overlap(0, 0, 0, 10)
    assert all(math.isnan(value) for value in (nothing.dice, nothing.jaccard, nothing.precision, nothing.recall))
    assert math.isnan(nothing.relative_volume_error)
    assert nothing.accuracy == 1
    assert Overlap(0, 3, 0, 7).dice == Overlap(0, 0, 3, 7).dice == 0
    assert math.isnan(Overlap(0, 0, 3, 7).precision)
    assert math.isnan(Overlap(0, 3, 0, 7).recall)
