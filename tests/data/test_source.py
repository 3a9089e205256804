"""A scan on disk: the same contents have the same hash, and reading it is reading its files."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tomoseg import read_volume
from tomoseg.core.errors import VolumeError
from tomoseg.data.source import ScanSource


@pytest.fixture
def channels(tmp_path: Path) -> tuple[Path, Path]:
    """Two channels that differ."""
    paths = tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"
    for index, path in enumerate(paths):
        nib.save(nib.Nifti1Image(np.full((4, 5, 6), index, "int16"), np.eye(4)), path)
    return paths


def test_the_hash_is_that_of_the_contents(channels: tuple[Path, Path], dicom_scan: Path, tmp_path: Path) -> None:
    one = ScanSource(channels).hash("nifti")
    renamed = tuple(Path(shutil.copy(path, tmp_path / f"b{path.name}")) for path in channels)
    assert ScanSource(renamed).hash("nifti") == one
    series = ScanSource((dicom_scan,))
    copied = shutil.copytree(dicom_scan, tmp_path / "copied")
    for index, path in enumerate(sorted(copied.iterdir(), reverse=True)):
        path.rename(copied / f"renamed {index}")
    assert ScanSource((copied,)).hash("nifti") == series.hash("nifti")
    others = [
        ScanSource(channels[::-1]).hash("nifti"),
        ScanSource(channels[:1]).hash("nifti"),
        ScanSource(channels).hash("nrrd"),
        ScanSource(channels, "1.2.3").hash("nifti"),
        series.hash("nifti"),
    ]
    assert len({one, *others}) == 6
    with pytest.raises(OSError, match="gone"):
        ScanSource((tmp_path / "gone.nii",)).hash("nifti")


def test_reading_it_is_reading_its_files(channels: tuple[Path, Path]) -> None:
    volume, wanted = ScanSource(channels).read(2), read_volume(list(channels), channels=2)
    for found, expected in zip(volume.channels, wanted.channels, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert str(ScanSource(channels)) == str(channels[0])
    with pytest.raises(VolumeError, match="got 2"):
        ScanSource(channels).read()
