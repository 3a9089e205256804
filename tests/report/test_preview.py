"""The picture shows the scan the right way round, in every orientation."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import patch

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.image import imread
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from support.strategies import ORIENTATIONS
from tomoseg import Grid
from tomoseg.data.labels import Label, default_colour
from tomoseg.report.preview import (
    BONE,
    BRAIN,
    LUNG,
    MAX_ROWS,
    SOFT_TISSUE,
    choose_slices,
    find_window,
    save_preview,
)

LABELS = (Label(1, "anterior", (31, 119, 180)), Label(2, "posterior", (255, 127, 14)))


def scene() -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """A scan whose intensity grows to the right, the front and the head, with a label in one corner."""
    i, j, k = np.indices((20, 30, 24))
    labels = np.zeros((20, 30, 24), "uint8")
    labels[12:18, 20:27, 15:22] = 1  # right, front, head
    labels[13:16, 22:24, 16:18] = 2
    affine = np.diag([1.0, 1.2, 2.0, 1.0])
    return nib.Nifti1Image((i + 2 * j + 3 * k).astype("float32"), affine), nib.Nifti1Image(labels, affine)


def draw(path: Path, codes: str, **options: Any) -> np.ndarray:
    image, labels = (
        part.as_reoriented(ornt_transform(io_orientation(part.affine), axcodes2ornt(tuple(codes)))) for part in scene()
    )
    rows, grid = {"": np.asanyarray(labels.dataobj)}, Grid(image.shape, image.affine)
    save_preview(path, np.asanyarray(image.dataobj), rows, grid, LABELS, title="scene", **options)
    return np.asarray(imread(path))


@pytest.mark.parametrize("codes", ORIENTATIONS[::5])
def test_every_orientation_of_a_scan_gives_the_same_picture(tmp_path: Path, codes: str) -> None:
    np.testing.assert_allclose(draw(tmp_path / "turned.png", codes), draw(tmp_path / "ras.png", "RAS"), atol=0.02)


@pytest.mark.parametrize("neurological", [False, True])
def test_the_patients_right_is_at_the_left_and_the_front_at_the_top(tmp_path: Path, neurological: bool) -> None:
    """The label lies to the right, in front, near the head."""
    picture = draw(tmp_path / "ras.png", "RAS", neurological=neurological)
    height, width, _ = picture.shape
    above_legend = (np.arange(height) < 0.85 * height)[:, None]
    blue = (picture[..., 2] > picture[..., 0] + 0.2) & above_legend
    for plane in range(3):  # in the sagittal one, what lies in front
        rows, columns = np.nonzero(blue[:, plane * width // 3 : (plane + 1) * width // 3])
        assert (columns.mean() > width / 6) == neurological
        assert rows.mean() < height / 2


CENTRES = st.lists(st.tuples(*[st.integers(1, 18)] * 3), min_size=1, max_size=20)


@given(CENTRES)
def test_each_label_is_visible_in_one_of_the_slices(centres: list[tuple[int, int, int]]) -> None:
    labels = np.zeros((20, 20, 20), np.uint8)
    for value, (i, j, k) in enumerate(centres, start=1):
        labels[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2] = value
    places = choose_slices(labels)
    seen = {int(value) for place in places for axis in range(3) for value in np.unique(labels.take(place[axis], axis))}
    assert len(places) <= MAX_ROWS
    if len(places) < MAX_ROWS:
        assert seen >= set(np.unique(labels).tolist())


@pytest.mark.parametrize(
    ("values", "names", "window"),
    [
        (50, ("parotid_left", "spinal_cord"), SOFT_TISSUE),
        (-800, ("lung_upper_lobe_left",), LUNG),
        (500, ("rib_left_1", "vertebrae_L1"), BONE),
        (35, ("Left-Cerebral-White-Matter", "brainstem", "skull"), BRAIN),
    ],
)
def test_a_ct_has_the_window_of_its_labels(values: float, names: tuple[str, ...], window: tuple[float, float]) -> None:
    table = [Label(value, name, (1, 2, 3)) for value, name in enumerate(names, start=1)]
    image, labels = np.full((4, 4, 4), -1000, np.float32), np.zeros((4, 4, 4), np.uint8)
    assert find_window(image, labels, table[:1]) == SOFT_TISSUE or window is BRAIN
    labels[1:3] = 1
    image[1:3] = values
    assert find_window(image, labels, table) == window


@pytest.mark.parametrize("count", [1, 5, 25, 117])
def test_names_of_any_number_of_labels_fit_into_the_picture(tmp_path: Path, count: int) -> None:
    random = np.random.default_rng(0)
    labels = random.permutation(np.repeat(np.arange(count + 1, dtype=np.uint8), 30))[: 30 * count + 30]
    labels = np.resize(labels, (16, 16, 16))
    table = [Label(value, f"a_structure_with_a_name_{value}", default_colour(value)) for value in range(1, count + 1)]
    drawn: list[Any] = []
    with patch.object(Figure, "savefig", autospec=True, side_effect=lambda figure, *_, **__: drawn.append(figure)):
        save_preview(tmp_path / "p.png", labels.astype("float32"), {"": labels}, Grid(labels.shape, np.eye(4)), table)
    (figure,) = drawn
    figure.draw_without_rendering()
    texts = figure.legends[0].get_texts()
    assert len(texts) == count
    inside = figure.bbox
    for text in texts:
        box = text.get_window_extent()
        assert inside.x0 <= box.x0 < box.x1 <= inside.x1
        assert inside.y0 <= box.y0 < box.y1 <= inside.y1


def test_a_scan_without_anything_still_has_a_picture(tmp_path: Path) -> None:
    empty = np.zeros((5, 6, 7), "uint8")
    save_preview(tmp_path / "empty.png", empty.astype("float32"), {"": empty}, Grid(empty.shape, np.eye(4)), LABELS)
    assert imread(tmp_path / "empty.png").shape[2] == 4
