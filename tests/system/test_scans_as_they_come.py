"""CTs as scanners give them, through a bundle whose grid is four times coarser: any orientation, cut, with metal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from scipy import ndimage

from support.command_line import run_process
from support.thresholds import SPACING, ball, threshold_bundle
from support.tiers import rest_exhaustive
from tomoseg import Segmentation, Segmenter

EDGE, MM = 512, (1.0, 1.0, 3.0)
SOFT, HARD = 250.0, 1200.0  # HU of the two organs, in a body of 40
RADII = {"gland": 38.0, "jaw": 30.0}
PLACES = {"gland": (200.0, 250.0, 75.0), "jaw": (310.0, 250.0, 75.0)}
MEMORY = 2 * 10**9


def scan(slices: int = 48, mm: tuple[float, float, float] = MM) -> nib.Nifti1Image:
    """A body with two organs on a couch, with metal and its streaks in two slices, in air."""
    shape = (EDGE, EDGE, slices)
    i, j = np.meshgrid(np.arange(EDGE), np.arange(EDGE), indexing="ij")
    array = np.full(shape, -1000, np.int16)
    array[((i - 255) / 200) ** 2 + ((j - 255) / 110) ** 2 < 1] = 40
    array[60:450, 120:130] = 300  # the couch
    array[60:450, 100:120] = -900
    for value, name in ((SOFT, "gland"), (HARD, "jaw")):
        array[ball(shape, PLACES[name], RADII[name], mm)] = value
    metal = slice(slices - 6, slices - 4)
    for angle in np.linspace(0, np.pi, 7, endpoint=False):
        across = np.abs((i - 255) * np.sin(angle) - (j - 340) * np.cos(angle)) < 2
        array[across, metal] = -1024 if angle > 1.5 else 2000
    array[250:256, 337:343, metal] = 3071
    return nib.Nifti1Image(array, np.array([[mm[0], 0, 0, -250], [0, mm[1], 0, -200], [0, 0, mm[2], 31], [0, 0, 0, 1]]))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coarse") / "head_bundle"
    # the middle between body and organ, so that a smooth score has its border where the organ's is
    return threshold_bundle(folder, {"gland": (40 + SOFT) / 2, "jaw": (SOFT + HARD) / 2}, blur=True)


@pytest.fixture(scope="module")
def segmenter(bundle: Path) -> Segmenter:
    return Segmenter.from_bundle(bundle, device="cpu", backend="torch")


@pytest.fixture(scope="module")
def whole(segmenter: Segmenter) -> Segmentation:
    return segmenter(scan())


def dice(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other)))


def truth(name: str, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = ball(shape, PLACES[name], RADII[name], MM)
    return mask


def test_couch_and_metal_leave_the_organs_as_they_are(whole: Segmentation) -> None:
    assert whole.labels.shape == (EDGE, EDGE, 48)
    for value, name in whole.names.items():
        near = ndimage.binary_dilation(truth(name, whole.labels.shape), iterations=8)
        near[:, :, 40:] = False
        assert dice((whole.labels == value) & near, truth(name, whole.labels.shape) & near) > 0.9


@pytest.mark.parametrize("codes", rest_exhaustive(["PIR", "LPS", "SAL", "IRP"]))
def test_the_labels_are_the_same_with_any_orientation(segmenter: Segmenter, whole: Segmentation, codes: str) -> None:
    straight = nib.orientations.axcodes2ornt("RAS")
    turn = nib.orientations.ornt_transform(straight, nib.orientations.axcodes2ornt(codes))
    turned = scan().as_reoriented(turn)
    result = segmenter(turned)
    assert result.labels.shape == turned.shape
    np.testing.assert_allclose(result.grid.affine, turned.affine)
    back = nib.orientations.apply_orientation(
        result.labels, nib.orientations.ornt_transform(nib.orientations.axcodes2ornt(codes), straight)
    )
    np.testing.assert_array_equal(back, whole.labels)


@pytest.mark.parametrize("part", [slice(0, 30), slice(20, 48)], ids=["lower", "upper"])
def test_a_part_of_a_scan_has_the_labels_of_the_whole(segmenter: Segmenter, whole: Segmentation, part: slice) -> None:
    cut = scan().slicer[:, :, part]
    result = segmenter(cut)
    assert result.labels.shape == cut.shape
    np.testing.assert_allclose(result.grid.affine, cut.affine)
    for value in (1, 2):
        assert dice(result.labels == value, whole.labels[:, :, part] == value) > 0.93


def test_the_border_is_smoother_than_that_of_voxels_four_times_as_large(
    segmenter: Segmenter, whole: Segmentation
) -> None:
    """Against the labels in the network's own grid, each in the voxels nearest to it."""
    from monai.data import MetaTensor
    from monai.transforms import Spacing

    image = scan()
    coarse = Spacing(pixdim=SPACING, mode="bilinear")(
        MetaTensor(np.asarray(image.dataobj, dtype=np.float32)[None], affine=image.affine)
    )
    blocks = segmenter(nib.Nifti1Image(coarse[0].numpy(), coarse.affine.numpy()))
    nearest = resample_from_to(nib.Nifti1Image(blocks.labels, blocks.grid.affine), image, order=0, mode="nearest")
    near = ndimage.binary_dilation(truth("gland", whole.labels.shape), iterations=8)
    roughness = []
    for labels in (whole.labels, np.asarray(nearest.dataobj)):
        mask = (labels == 1) & near
        rim = mask & ~ndimage.binary_erosion(mask, structure=np.ones((3, 3, 1)))
        rim[:, :, :14] = rim[:, :, 36:] = False  # far from its poles, where the rim is flat
        points = np.argwhere(rim) * MM - PLACES["gland"]
        roughness.append(float(np.linalg.norm(points, axis=1).std()))
    smooth, rough = roughness
    assert smooth < 0.6 * rough
    assert smooth < MM[2] / 4, "mm; less than a quarter of the thickness of a slice"


@pytest.mark.slow
def test_a_whole_scan_takes_less_than_two_gigabytes(bundle: Path, tmp_path: Path) -> None:
    image = scan(150, (1.0, 1.0, 1.0))
    nib.save(image, tmp_path / "ct.nii.gz")
    done = run_process("segment", tmp_path / "ct.nii.gz", "-o", tmp_path / "out", "-b", bundle, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    (case,) = json.loads((tmp_path / "out" / "report.json").read_text())["cases"]
    assert 10**8 < case["stats"]["peak_bytes"] < MEMORY
    assert nib.load(tmp_path / "out" / "ct_seg.nii.gz").shape == image.shape
