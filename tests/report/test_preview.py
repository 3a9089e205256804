"""The picture shows the scan the right way round, in every orientation."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from support.strategies import ORIENTATIONS
from tomoseg import Grid
from tomoseg.data.labels import Label
from tomoseg.report.preview import save_preview

LABELS = (Label(1, "anterior", (31, 119, 180)), Label(2, "posterior", (255, 127, 14)))


def scene() -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """A scan whose intensity grows to the right, the front and the head, with a label in one corner."""
    i, j, k = np.indices((20, 30, 24))
    labels = np.zeros((20, 30, 24), "uint8")
    labels[12:18, 20:27, 15:22] = 1  # right, front, head
    labels[13:16, 22:24, 16:18] = 2
    affine = np.diag([1.0, 1.2, 2.0, 1.0])
    return nib.Nifti1Image((i + 2 * j + 3 * k).astype("float32"), affine), nib.Nifti1Image(labels, affine)


def draw(path: Path, codes: str) -> np.ndarray:
    image, labels = (
        part.as_reoriented(ornt_transform(io_orientation(part.affine), axcodes2ornt(tuple(codes)))) for part in scene()
    )
    grid = Grid(image.shape, image.affine)
    save_preview(path, np.asanyarray(image.dataobj), {"": np.asanyarray(labels.dataobj)}, grid, LABELS, title="scene")
    return np.asarray(imread(path))


@pytest.mark.parametrize("codes", ORIENTATIONS[::5])
def test_every_orientation_of_a_scan_gives_the_same_picture(tmp_path: Path, codes: str) -> None:
    np.testing.assert_allclose(draw(tmp_path / "turned.png", codes), draw(tmp_path / "ras.png", "RAS"), atol=0.02)


def test_the_patients_right_is_at_the_right_and_the_front_at_the_top(tmp_path: Path) -> None:
    picture = draw(tmp_path / "ras.png", "RAS")
    height, width, _ = picture.shape
    blue = (picture[..., 2] > picture[..., 0] + 0.2) & (np.arange(height) < 0.85 * height)[
        :, None
    ]  # without the legend
    rows, columns = np.nonzero(blue[:, : width // 3])
    assert columns.mean() > width / 6
    assert rows.mean() < height / 2


def test_a_scan_without_anything_still_has_a_picture(tmp_path: Path) -> None:
    empty = np.zeros((5, 6, 7), "uint8")
    save_preview(tmp_path / "empty.png", empty.astype("float32"), {"": empty}, Grid(empty.shape, np.eye(4)), LABELS)
    assert imread(tmp_path / "empty.png").shape[2] == 4
