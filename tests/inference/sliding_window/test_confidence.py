"""The sums of each label are those of the whole volume, however it is cut into slabs, and at no second pass."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from numpy.typing import NDArray

from support.tiers import examples
from tomoseg import Grid
from tomoseg.inference.sliding_window.blend import Slab
from tomoseg.inference.sliding_window.confidence import ConfidenceSums
from tomoseg.inference.sliding_window.discretizer import POSSIBLE_MARGIN, ArgMax, Discretizer, Threshold
from tomoseg.inference.sliding_window.placement import place
from tomoseg.inference.sliding_window.restore import Restorer

TEMPERATURES = (1.0, 2.5)


def dense(logits: NDArray[np.float64], temperature: float, overlapping: bool) -> NDArray[np.float64]:
    """Return the sums (label, 5) of logits (labels, D, H, W), from the definitions."""
    if overlapping:
        chosen, possible = logits >= 0, logits > -POSSIBLE_MARGIN
        shares = 1 / (1 + np.exp(-logits / temperature))
    else:
        chosen = np.arange(len(logits))[:, None, None, None] == logits.argmax(axis=0)
        possible = np.broadcast_to(logits[1:].max(axis=0) - logits[0] > -POSSIBLE_MARGIN, logits.shape)
        shares = np.exp(logits / temperature) / np.exp(logits / temperature).sum(axis=0)
    shares = shares * possible
    faces = sum(np.abs(np.diff(chosen.astype(int), axis=axis)).sum(axis=(1, 2, 3)) for axis in (1, 2, 3))
    sums = [(chosen & possible), shares * chosen, shares, shares**2]
    return np.stack([*(one.sum(axis=(1, 2, 3)) for one in sums), faces], axis=1)


@settings(max_examples=examples(60), deadline=None)
@given(
    shape=st.tuples(*[st.integers(3, 14)] * 3), axis=st.integers(0, 2), thickness=st.integers(1, 6),
    overlapping=st.booleans(), last=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_streamed_sums_equal_the_dense_ones(
    shape: tuple[int, int, int], axis: int, thickness: int, overlapping: bool, last: bool, seed: int
) -> None:
    logits = torch.randn(4, *shape, generator=torch.Generator().manual_seed(seed)) * 6
    if last:  # as networks on OpenVINO leave them
        logits = logits.movedim(0, -1).contiguous().movedim(-1, 0)
    scan = Grid(shape, np.eye(4))
    image = MetaTensor(torch.zeros(1, *shape), affine=torch.eye(4, dtype=torch.float64))
    parts = [slice(index, index + 1) for index in range(4)] if overlapping else [slice(None)]
    sums = [ConfidenceSums(1 if overlapping else 4, False, overlapping, TEMPERATURES) for _ in parts]
    decision: Discretizer = Threshold(0.5, torch.sigmoid) if overlapping else ArgMax(4)
    moved = logits.movedim(axis + 1, 1)
    for part, one in zip(parts, sums, strict=True):
        labels = np.zeros(shape, np.uint8)
        restorer = Restorer(labels, place(image, scan), axis, decision, one)
        for start in range(0, shape[axis], thickness):
            first = max(start - 1, 0)  # the last slice of the slab before comes again
            slab = Slab(first, moved[part, first : start + thickness])
            restorer.feed(slab)
            restorer.feed(slab)  # as after a GPU that ran out of memory: it counts once
    found = np.concatenate([one.sums for one in sums], axis=1)
    for place_, temperature in enumerate(TEMPERATURES):
        np.testing.assert_allclose(
            found[place_], dense(logits.double().numpy(), temperature, overlapping), rtol=1e-4, atol=1e-3
        )


@pytest.mark.parametrize("overlapping", [False, True])
def test_probabilities_give_the_sums_of_their_logits(overlapping: bool) -> None:
    logits = torch.randn(1 if overlapping else 3, 5, 6, 7)
    shares = logits.sigmoid() if overlapping else logits.softmax(dim=0)
    labels = (logits[0] >= 0).to(torch.uint8) if overlapping else ArgMax(3).at_voxels(logits)
    one, other = (ConfidenceSums(len(logits), activated, overlapping, (2.0,)) for activated in (False, True))
    everywhere = torch.ones(labels.shape, dtype=torch.bool)
    one.add(logits, labels, everywhere)
    other.add(shares, labels, everywhere)
    np.testing.assert_allclose(one.sums, other.sums, rtol=1e-4)
