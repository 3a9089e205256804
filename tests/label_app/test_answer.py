"""Changes to a result before a client gets it."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tomoseg.data.geometry import Grid
from tomoseg.data.labels import unnamed
from tomoseg.inference.segmentation import Segmentation
from tomoseg.label_app.answer import keep_largest


def layer(*voxels: int) -> NDArray[np.uint8]:
    labels = np.zeros((1, 1, 9), np.uint8)
    labels[..., list(voxels)] = 1
    return labels


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        (layer(0, 1, 4) + 2 * layer(3, 6, 7), layer(0, 1) + 2 * layer(6, 7)),
        (np.stack([layer(0, 1, 4), layer(1, 3, 4)]), np.stack([layer(0, 1), layer(3, 4)])),  # labels that overlap
        (layer(), layer()),
    ],
)
def test_the_largest_piece_of_each_label_is_kept(labels: NDArray[np.uint8], kept: NDArray[np.uint8]) -> None:
    result = Segmentation(labels, Grid((1, 1, 9), np.eye(4)), (unnamed(1), unnamed(2)), "test", "1")
    before = labels.copy()
    np.testing.assert_array_equal(keep_largest(result).labels, kept)
    np.testing.assert_array_equal(labels, before)
