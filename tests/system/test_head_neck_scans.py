"""The CT bundle on scans as they come: the head alone, the shoulders alone, on a couch, in a mask, with fillings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from support.bundles import dice
from support.cts import cranium, finer, on_a_couch, with_metal
from support.head_neck import HELD_OUT, LEFT, NAME, RIGHT, ROI_NAMES, middle, scan
from tomoseg import Segmenter

pytestmark = pytest.mark.slow

BRAINSTEM, CORD, MANDIBLE = 1, 2, 5


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_bundle(NAME, device="cpu")


@pytest.fixture(scope="module")
def fine(head_neck_data: Path) -> Any:
    """A scan that nothing was trained on, with the voxels of those in use."""
    return finer(scan(head_neck_data, HELD_OUT[0]), (1.0, 1.0, 2.5))


@pytest.fixture(scope="module")
def straight(segmenter: Segmenter, fine: Any) -> NDArray[Any]:
    """The labels of the unchanged scan."""
    return segmenter(fine).labels


def volumes_ml(labels: NDArray[Any], image: Any) -> dict[int, float]:
    voxel_ml = float(np.prod(image.header.get_zooms())) / 1000
    return {value: np.count_nonzero(labels == value) * voxel_ml for value in ROI_NAMES}


def test_a_head_of_another_hospital_has_its_organs_and_upper_teeth_are_no_mandible(segmenter: Segmenter) -> None:
    """It ends between the jaws: of the mandible both rami are in view, and nothing of it further forwards."""
    image = cranium()
    labels = segmenter(image).labels
    found = volumes_ml(labels, image)
    assert 15 < found[BRAINSTEM] < 40
    assert 8 < found[RIGHT] < 30
    assert 8 < found[LEFT] < 30
    assert 6 < found[MANDIBLE] < 20
    assert found[CORD] < 5
    right, left = (middle(labels == value, image.affine)[0] for value in (RIGHT, LEFT))
    assert right - left > 80
    teeth = labels.copy()
    teeth[:, :172] = 0  # a plane in front of both rami
    assert volumes_ml(teeth, image)[MANDIBLE] < 3


@pytest.mark.exhaustive  # of the weights, which seldom change
def test_head_and_shoulders_alone_have_what_they_have_in_the_whole_scan(
    segmenter: Segmenter, head_neck_data: Path
) -> None:
    image = scan(head_neck_data, HELD_OUT[0])
    whole = segmenter(image).labels
    chin = int(np.argwhere(whole == MANDIBLE)[:, 2].min())
    top = 2 * image.shape[2] // 3
    for first, stop in ((0, chin - 2), (top, image.shape[2])):
        part = image.slicer[:, :, first:stop]
        found, expected = (volumes_ml(labels, image) for labels in (segmenter(part).labels, whole[:, :, first:stop]))
        for value in ROI_NAMES:
            assert abs(found[value] - expected[value]) < 10


@pytest.mark.exhaustive  # of the weights, which seldom change
def test_on_a_couch_and_in_a_mask_there_are_the_same_organs(
    segmenter: Segmenter, fine: Any, straight: NDArray[Any]
) -> None:
    covered = on_a_couch(fine)
    behind = covered.shape[1] - fine.shape[1]
    labels = segmenter(covered).labels
    assert not labels[:, :behind].any(), "an organ in the couch"
    for value in ROI_NAMES:
        assert dice(labels[:, behind:], straight, value) > 0.94


@pytest.mark.exhaustive  # of the weights, which seldom change
def test_fillings_and_their_streaks_take_little_from_the_organs(
    segmenter: Segmenter, fine: Any, straight: NDArray[Any]
) -> None:
    jaw = np.argwhere(straight == MANDIBLE)
    jaw = jaw[np.abs(jaw[:, 2] - np.percentile(jaw[:, 2], 75)) < 3]
    right = jaw[:, 0] > np.median(jaw[:, 0])
    teeth = np.array([nib.affines.apply_affine(fine.affine, np.median(jaw[side], axis=0)) for side in (right, ~right)])
    metal = with_metal(fine, teeth, thickness_mm=8)
    assert not np.array_equal(metal.get_fdata(), fine.get_fdata())
    labels = segmenter(metal).labels
    for value in ROI_NAMES:
        assert dice(labels, straight, value) > 0.85
