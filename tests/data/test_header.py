"""Headers alone: they agree with the reader, also in their refusals."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from support.dicoms import write_enhanced, write_series
from support.stored import GRID, SHAPE, noise, save
from support.strategies import grids
from support.tiers import examples
from tomoseg import Grid, TomosegError, read_volume
from tomoseg.data.header import read_headers

SLOW_SETTINGS = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def attempt(action: Callable[[], Any]) -> tuple[Any, str]:
    """Return what the action returns, or nothing and why; that any damage ends in our error is another test."""
    try:
        return action(), ""
    except (TomosegError, OverflowError, KeyError) as error:
        return None, str(error)


@SLOW_SETTINGS
@given(grids(), st.sampled_from([".nii", ".nii.gz", ".nrrd", ".mha"]), st.sampled_from(["uint8", "int16", "float32"]))
def test_a_header_says_what_the_reader_says(
    tmp_path_factory: pytest.TempPathFactory, grid: Grid, suffix: str, dtype: str
) -> None:
    path = save(tmp_path_factory.mktemp("header") / f"scan{suffix}", noise(dtype, grid.shape), grid)
    (header,) = read_headers(path)
    volume = read_volume(path)
    assert header.grid == volume.grid
    assert header.notes == volume.notes
    assert header.dtype == dtype
    np.testing.assert_array_equal(header.read_voxels()[0], volume.array)


@pytest.mark.parametrize("enhanced", [False, True])
def test_a_header_says_what_the_reader_says_of_dicom(tmp_path: Path, enhanced: bool) -> None:
    tilted = np.array(GRID.affine)
    tilted[1, 2] = 0.4  # a note
    if enhanced:
        path = write_enhanced(tmp_path / "scan.dcm", noise(), Grid(SHAPE, tilted), slope=2, intercept=-1024)
    else:
        write_series(tmp_path / "scan", noise(), Grid(SHAPE, tilted), slope=2, intercept=-1024)
        path = tmp_path / "scan"
    (header,) = read_headers(path)
    volume = read_volume(path)
    assert volume.series is not None
    assert header.series is not None
    assert header.grid == volume.grid
    assert header.notes == volume.notes != ()
    assert (header.series.uid, header.series.modality) == (volume.series.uid, volume.series.modality)
    assert header.dtype == "int16"
    np.testing.assert_array_equal(header.read_voxels()[0], volume.array)


@settings(SLOW_SETTINGS, max_examples=examples(200))
@given(data=st.data(), suffix=st.sampled_from([".nii", ".nrrd", ".mha", ".nii.gz"]))
def test_a_damaged_header_is_refused_as_the_reader_refuses_it(tmp_path: Path, data: st.DataObject, suffix: str) -> None:
    whole = tmp_path / f"whole{suffix}"
    content = bytearray((whole if whole.exists() else save(whole, noise())).read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, min(len(content), 348) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])

    headers, refused = attempt(lambda: read_headers(path))
    volume, reason = attempt(lambda: read_volume(path, allow_non_finite=True))
    if headers is None:
        assert volume is None
        # ITK has words of its own for some damages
        assert refused == reason or (suffix in (".nrrd", ".mha") and refused.startswith(str(path)))
    elif volume is not None:
        assert headers[0].grid == volume.grid
        assert headers[0].notes == volume.notes


def odd_files(folder: Path) -> list[Path]:
    """Return files that are no plain 3D volume, some still readable."""
    for name, image in {
        "flat.mha": sitk.Image((5, 6), sitk.sitkUInt8),
        "vector.nrrd": sitk.Image((5, 6, 7), sitk.sitkVectorFloat32, 3),
        "complex.mha": sitk.Image((5, 6, 7), sitk.sitkComplexFloat32),
        "one_more_axis.nrrd": sitk.Image((5, 6, 7, 1), sitk.sitkInt16),
        "two_volumes.mha": sitk.Image((5, 6, 7, 2), sitk.sitkInt16),
    }.items():
        sitk.WriteImage(image, folder / name)
    head = save(folder / "whole.nrrd", noise())
    content = head.read_bytes().replace(b"space: left-posterior-superior", b"space dimension: 3")
    (folder / "scanner.nrrd").write_bytes(content)
    (folder / "empty.nii.gz").touch()
    save(folder / "slice.nii", noise()[:, :, :1])
    save(folder / "one_more_axis.nii", noise()[..., None])
    os.mkfifo(folder / "pipe.nii")  # must not be waited for
    write_series(folder / "single", noise()[:, :, :1], GRID)
    (folder / "nothing").mkdir()
    return [*(path for path in folder.iterdir()), folder / "gone.nii", next((folder / "single").iterdir())]


def test_what_is_odd_is_reported_as_the_reader_reports_it(tmp_path: Path) -> None:
    read = set()
    for path in odd_files(tmp_path):
        volume, reason = attempt(partial(read_volume, path))
        headers, refused = attempt(partial(read_headers, path))
        if volume is not None:
            assert headers[0].grid == volume.grid
            assert headers[0].notes == volume.notes
            np.testing.assert_array_equal(headers[0].read_voxels()[0], volume.array)
            read.add(path.name)
        elif headers is not None:
            assert headers[0].grid is None
            assert headers[0].reason == reason
        else:
            assert refused == reason
    assert read == {"one_more_axis.nrrd", "one_more_axis.nii", "scanner.nrrd", "whole.nrrd"}


def test_headers_do_without_the_voxels(tmp_path: Path) -> None:
    path = save(tmp_path / "cut.nii.gz", noise(shape=(30, 30, 30)))
    path.write_bytes(path.read_bytes()[:-3000])
    (header,) = read_headers(path)
    assert header.grid == Grid((30, 30, 30), GRID.affine)
    with pytest.raises(TomosegError, match="truncated or damaged"):
        header.read_voxels()


def test_series_are_read_one_by_one_or_all(tmp_path: Path) -> None:
    uids = sorted(generate_uid() for _ in range(3))
    for index, uid in enumerate(uids):
        write_series(tmp_path / str(index), noise(seed=index), GRID, uid=uid)
    found = read_headers(tmp_path)
    assert sorted(header.series.uid for header in found if header.series) == uids
    for uid in uids:
        (header,) = read_headers(tmp_path, uid)
        np.testing.assert_array_equal(header.read_voxels()[0], read_volume(tmp_path, uid).array)
    with pytest.raises(TomosegError, match=r"contains no series 1\.2\.3"):
        read_headers(tmp_path, "1.2.3")
