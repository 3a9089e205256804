"""Windows and their weights where a bundle declares nnU-Net's."""

import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

from tomoseg.inference.sliding_window.windows import importance_map, place_windows


def nnunet_inferer(roi_size: tuple[int, int, int], overlap: float = 0.5) -> SlidingWindowInferer:
    inferer = SlidingWindowInferer(roi_size, overlap=overlap, mode="gaussian")
    inferer.nnunet_windows = True
    return inferer


# first voxels as nnunetv2 2.8.1's compute_steps_for_sliding_window gives them
@pytest.mark.parametrize(
    ("size", "overlap", "starts"),
    [
        (30, 0.5, [0]),
        (40, 0.5, [0]),
        (41, 0.5, [0, 1]),
        (90, 0.5, [0, 17, 33, 50]),
        (100, 0.5, [0, 20, 40, 60]),
        (100, 0.2, [0, 30, 60]),
    ],
)
def test_windows_are_evenly_spread(size: int, overlap: float, starts: list[int]) -> None:
    windows = place_windows((size, 8, 8), nnunet_inferer((40, 8, 8), overlap))
    assert [start for start, _ in windows.groups] == starts
    assert windows.shape == (max(size, 40), 8, 8)


def test_weights_are_float16_around_half_the_size() -> None:
    inferer = nnunet_inferer((16, 8, 6))
    weights = importance_map(place_windows((16, 8, 6), inferer), inferer, torch.device("cpu")).numpy()
    assert weights[8, 4, 3] == weights.max()
    assert weights.max() == 10
    assert weights.min() > 0
    assert np.array_equal(weights, weights.astype(np.float16))
