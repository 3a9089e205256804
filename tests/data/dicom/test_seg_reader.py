"""DICOM Segmentations are read into the grid of the scan, however that is turned."""

from __future__ import annotations

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

from support.dicom_results import label_map
from support.dicoms import make_series
from tomoseg import Grid, TomosegError
from tomoseg.data.dicom import seg_reader
from tomoseg.data.dicom.seg_reader import is_segmentation, read_segmentation
from tomoseg.data.dicom.seg_writer import write_dicom_seg
from tomoseg.data.labels import Label, default_colour

SHAPE = (13, 11, 6)
NAMES = {1: "liver", 4: "spleen", 7: "kidney"}
TABLE = tuple(Label(value, name, default_colour(value)) for value, name in NAMES.items())


def some_labels() -> np.ndarray:
    """Three labels that are not numbered one after the other; nothing in the first and the last slice."""
    labels = np.random.default_rng(0).choice(np.array([0, 1, 4, 7], np.uint8), SHAPE)
    labels[:, :, [0, 2, 5]] = 0
    return labels


@pytest.mark.parametrize("labelmap", [False, True])
@pytest.mark.parametrize("kind", ["axial", "sagittal", "oblique"])
@pytest.mark.parametrize("codes", [None, "RAS", "SPL"])
def test_what_was_written_is_read_back(codes: str | None, kind: str, labelmap: bool, tmp_path: Path) -> None:
    labels = some_labels()
    series, grid = make_series(tmp_path / "ct", SHAPE, kind)
    write_dicom_seg(tmp_path / "x_seg.dcm", label_map(labels, series, TABLE, "test", "1"), labelmap)
    assert is_segmentation(tmp_path / "x_seg.dcm")
    image = nib.Nifti1Image(labels, grid.affine)
    if codes is not None:
        image = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt(tuple(codes))))
    found = read_segmentation(tmp_path / "x_seg.dcm", Grid(image.shape, image.affine), NAMES)
    np.testing.assert_array_equal(found, np.asarray(image.dataobj))


def test_a_grid_that_does_not_fit_is_reported(tmp_path: Path) -> None:
    series, grid = make_series(tmp_path / "ct", SHAPE)
    path = tmp_path / "x_seg.dcm"
    write_dicom_seg(path, label_map(some_labels(), series, TABLE, "test", "1"))
    half = grid.affine.copy()
    half[:3, 3] += 0.4 * half[:3, 0]
    with pytest.raises(TomosegError, match=r"x_seg\.dcm: expected pixels on the grid of the reference"):
        read_segmentation(path, Grid(SHAPE, half), NAMES)
    with pytest.raises(TomosegError, match=r"x_seg\.dcm: some of its pixels lie outside of the reference's grid"):
        read_segmentation(path, Grid((13, 11, 3), grid.affine), NAMES)


def test_labels_that_overlap_are_layers(tmp_path: Path) -> None:
    series, grid = make_series(tmp_path / "ct", SHAPE)
    path = tmp_path / "x_seg.dcm"
    stack = np.stack([some_labels() > 0, some_labels() > 1, some_labels() > 5]).astype(np.uint8)
    table = tuple(Label(value, f"{value}", default_colour(value)) for value in (1, 2, 3))
    write_dicom_seg(path, label_map(stack, series, table, "test", "1"))
    np.testing.assert_array_equal(read_segmentation(path, grid, {}), stack)
    np.testing.assert_array_equal(read_segmentation(path, grid, {1: "3", 2: "1"})[:2], stack[[2, 0]])


def test_other_files_are_no_segmentations(tmp_path: Path) -> None:
    make_series(tmp_path / "ct", SHAPE)
    slices = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert slices
    (tmp_path / "junk.dcm").write_bytes(b"junk")
    (tmp_path / "empty.dcm").touch()
    assert not any(map(is_segmentation, [*slices, *tmp_path.glob("*.dcm"), tmp_path, tmp_path / "none.dcm"]))


def test_a_missing_highdicom_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(TomosegError, match=r"highdicom is not installed. .*pip install highdicom$"):
        seg_reader._read_segmentation(tmp_path / "x.dcm", Grid(SHAPE, np.eye(4)), {})
