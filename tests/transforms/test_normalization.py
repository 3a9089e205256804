"""Values that are not 0 get mean 0 and standard deviation 1, as in nnU-Net's mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, Invertd

from tomoseg.transforms import NormalizeForegroundd


@pytest.fixture
def body() -> MetaTensor:
    """Two channels of noise in a box, each 0 in another part of it, with a hole, a hollow, and one voxel apart."""
    values = np.zeros((2, 12, 11, 10), "float32")
    values[:, 2:9, 2:9, 1:8] = np.random.default_rng(0).normal(50, 20, (2, 7, 7, 7))
    values[0, 2:4], values[1, 7:9] = 0, 0
    values[:, 5, 5, 5] = 0  # a hole
    values[:, 5, 5, 1:4] = 0  # open towards the outside
    values[1, 10, 10, 9] = 7
    return MetaTensor(torch.from_numpy(values), affine=np.diag([1, 2, 3, 1]))


@pytest.mark.parametrize("channels", [None, [1]])
def test_mean_and_deviation_are_those_of_the_foreground(body: MetaTensor, channels: list[int] | None) -> None:
    steps = Compose([CropForegroundd("image", "image", lambda x: x != 0), NormalizeForegroundd("image", channels)])
    before = body.clone()
    found = steps({"image": body})["image"]
    assert torch.equal(body, before)
    expected = body[:, 2:11, 2:11, 1:10].numpy()
    mask = (expected != 0).any(axis=0)
    assert not mask[3, 3, 4]
    mask[3, 3, 4] = True
    for channel in channels or (0, 1):
        values = expected[channel][mask]
        expected[channel][mask] = (values - values.mean()) / values.std()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
    assert found.affine.diagonal().tolist() == [1, 2, 3, 1]
    restored = Invertd("pred", steps, "image")({"image": found, "pred": MetaTensor(found.as_tensor())})["pred"]
    assert restored.shape == body.shape


@pytest.mark.parametrize("value", [0, 7])
@pytest.mark.parametrize("kind", [MetaTensor, torch.as_tensor, np.asarray])
def test_a_constant_image(value: int, kind: Any) -> None:
    found = NormalizeForegroundd("image")({"image": kind(np.full((1, 4, 4, 4), value, "int16"))})["image"]
    assert found.dtype == torch.float32
    assert (found == 0).all()
