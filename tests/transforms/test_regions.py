"""Regions that overlap as one label map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from tomoseg.core.errors import UsageError, VolumeError
from tomoseg.transforms import MergeRegionsd


def test_the_last_region_wins() -> None:
    rng = np.random.default_rng(0)
    masks, labels = rng.integers(0, 2, (3, 6, 5, 4)), (4, 1, 300)
    expected = np.zeros((1, 6, 5, 4))
    for mask, label in zip(masks, labels, strict=True):
        expected[0][mask == 1] = label
    regions = MetaTensor(torch.from_numpy(masks).float(), affine=np.diag([1, 2, 3, 1]))
    found = MergeRegionsd("pred", labels)({"pred": regions})["pred"]
    np.testing.assert_array_equal(found.numpy(), expected)
    assert found.affine.diagonal().tolist() == [1, 2, 3, 1]
    np.testing.assert_array_equal(regions.numpy(), masks)


@pytest.mark.parametrize("labels", [[], [0], [1.5], [True], ["1"]])
def test_labels_are_whole_numbers(labels: Any) -> None:
    with pytest.raises(UsageError, match="labels: expected a whole number from 1 on for each region"):
        MergeRegionsd("pred", labels)


def test_as_many_masks_as_labels() -> None:
    with pytest.raises(VolumeError, match="'pred': MergeRegionsd expected 2 masks, one for each label, got 3"):
        MergeRegionsd("pred", (1, 2))({"pred": torch.zeros(3, 4, 4, 4)})
