"""ZIPs with DICOM series or one NIfTI file: each is a scan, whose errors and results are called as the ZIP."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from support.bundles import BUNDLE_NAME
from support.dicoms import write_series
from tomoseg import (
    Grid,
    OutputOptions,
    ReadOptions,
    Segmenter,
    TomosegError,
    inspect,
    read_volume,
    read_with,
    segment_batch,
    watch,
)
from tomoseg.batch.cases import plan_cases
from tomoseg.core import archives
from tomoseg.core.notes import collect_notes
from tomoseg.data import archive
from tomoseg.data.discovery import find_scans

GRID = Grid((9, 8, 6), np.diag([-0.9, -0.8, 1.25, 1.0]))
ARRAY = np.random.default_rng(0).integers(-900, 900, GRID.shape).astype(np.int16)


def zipped(path: Path, *numbers: int, grid: Grid = GRID, gone: int = 0, modality: str = "MR") -> Path:
    """Write a ZIP with a series for each number, each in a folder of its own, and a text; `gone` slices are missing."""
    folder = path.with_suffix("")
    for number in numbers:
        array = np.resize(ARRAY, grid.shape) + np.int16(number)
        paths = write_series(
            folder / f"s{number}", array, grid, uid=f"1.2.840.99.{number}", modality=modality, SeriesNumber=number
        )
        for one in paths[2 : 2 + gone]:
            one.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "read.me").write_text("not DICOM")
    shutil.make_archive(str(folder), "zip", folder)
    shutil.rmtree(folder)
    return path


def test_each_series_in_a_zip_is_a_scan(tmp_path: Path) -> None:
    path = zipped(tmp_path / "doe.zip", 1, 2)
    for given in (tmp_path, path):
        assert [(scan.path, scan.series, scan.tag) for scan in find_scans(given)] == [
            (path, "1.2.840.99.1", "1"), (path, "1.2.840.99.2", "2")
        ]  # fmt: skip
    for number in (1, 2):
        volume = read_volume(path, f"1.2.840.99.{number}")
        np.testing.assert_array_equal(volume.array, ARRAY + number)
        assert volume.source == str(path)
    with pytest.raises(TomosegError, match=r"^[^:]*doe\.zip: contains 2 series\. Choose one with --series") as caught:
        read_volume(path)
    assert str(caught.value).startswith(str(path))
    names = [case.output.name for case in plan_cases([path], tmp_path / "out")]
    assert names == ["doe_1_seg.nii.gz", "doe_2_seg.nii.gz"]
    assert plan_cases([path], tmp_path / "out", series="1.2.840.99.2")[0].series == "1.2.840.99.2"
    assert [scan.path for scan in inspect([path], voxels=True).scans] == [path, path]


def zip_of_volumes(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, nib.Nifti1Image(ARRAY, GRID.affine).to_bytes())
        file.writestr("__MACOSX/._a.nii", b"a Mac adds such files")
    return path


def test_a_zip_of_one_nifti_file_is_a_scan(tmp_path: Path) -> None:
    path = zip_of_volumes(tmp_path / "roe.zip", "export/a.nii")
    np.testing.assert_array_equal(read_volume(path).array, ARRAY)
    for given in (tmp_path, path):
        assert [(scan.path, scan.series) for scan in find_scans(given)] == [(path, None)]
        assert [case.output.name for case in plan_cases([given], tmp_path / "out")] == ["roe_seg.nii.gz"]
    (found,) = inspect([path]).scans
    assert found.grid is not None
    assert found.grid.shape == GRID.shape
    two = zip_of_volumes(tmp_path / "two.zip", "a.nii", "b.nii")
    with pytest.raises(TomosegError, match=r"two\.zip: contains no"):
        plan_cases([two], tmp_path / "out")
    with pytest.raises(TomosegError, match=r"two\.zip"):
        read_volume(two)


def test_errors_and_warnings_name_the_zip(tmp_path: Path) -> None:
    path = zipped(tmp_path / "doe.zip", 1, gone=1)
    with pytest.raises(TomosegError, match="pass --fill-gaps") as caught:
        read_volume(path)
    assert str(caught.value).startswith(f"{path}: 1 slice is missing")
    with read_with(ReadOptions(fill_gaps=True)):
        assert read_volume(path).array.shape == GRID.shape
    (found,) = inspect([path]).scans
    assert found.path == path
    assert "1 slice is missing" in found.errors[0]


def test_a_folder_beside_its_zip_is_one_scan(tmp_path: Path) -> None:
    path = zipped(tmp_path / "doe.zip", 1)
    shutil.unpack_archive(path, tmp_path / "doe")
    (scan,) = find_scans(tmp_path)
    assert scan.path == tmp_path / "doe" / "s1"


def test_a_zip_without_a_series_is_skipped_with_a_note(tmp_path: Path) -> None:
    zipped(tmp_path / "texts.zip")
    zipped(tmp_path / "doe.zip", 1)
    with collect_notes() as notes:
        assert [scan.path.name for scan in find_scans(tmp_path)] == ["doe.zip"]
    assert notes == [
        f"{tmp_path / 'texts.zip'}: skipped, because it holds neither CT or MR series in DICOM nor one other scan"
    ]
    with pytest.raises(TomosegError, match=r"texts\.zip: contains no CT or MR series in DICOM"):
        plan_cases([tmp_path / "texts.zip"], tmp_path / "out")


def encrypted(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        at = content.find(mark)
        while at >= 0:
            content[at + place] |= 1
            at = content.find(mark, at + 1)
    path.write_bytes(content)


def with_outsider(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("../../outside.dcm", b"x" * 200)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "something else": lambda path: path.write_text("no ZIP at all"),
    "empty": lambda path: path.write_bytes(b""),
    "encrypted": encrypted,
    "a file outside": with_outsider,
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_zip_is_a_scan_that_fails(case: str, tmp_path: Path) -> None:
    path = zipped(tmp_path / "in" / "doe.zip", 1)
    DAMAGE[case](path)
    zipped(tmp_path / "in" / "roe.zip", 2)
    assert [(scan.path.name, scan.series) for scan in find_scans(tmp_path / "in")] == [
        ("doe.zip", None), ("roe.zip", "1.2.840.99.2")
    ]  # fmt: skip
    with pytest.raises(TomosegError) as caught:
        read_volume(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert not list(tmp_path.rglob("outside.dcm"))


def test_a_zip_that_inflates_far_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "SMALL_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "doe.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.dcm", bytes(10**6))
    with pytest.raises(TomosegError, match=r"doe\.zip: inflates to more than 50 times its size"):
        read_volume(tmp_path / "doe.zip")


def test_few_zips_are_unpacked_at_a_time(tmp_path: Path) -> None:
    paths = [zipped(tmp_path / f"{number}.zip", number) for number in range(archive.KEPT + 2)]
    for path in paths:
        read_volume(path)
    folders = [Path(one.name) for one in archive._unpacked.values()]
    assert len(folders) == archive.KEPT
    assert all(folder.is_dir() and folder.stat().st_mode & 0o077 == 0 for folder in folders)
    np.testing.assert_array_equal(read_volume(paths[0]).array, ARRAY)


def test_zips_are_segmented(tmp_path: Path) -> None:
    grid = Grid((40, 48, 36), np.diag([-1.0, -1.0, 1.0, 1.0]))
    path = zipped(tmp_path / "in" / "doe.zip", 1, 2, grid=grid)
    segmenter = Segmenter.from_bundle(BUNDLE_NAME, device="cpu", backend="torch")
    report = segment_batch(segmenter, [tmp_path / "in"], tmp_path / "out", output_type="dicom-seg")
    assert [(case.status, case.input) for case in report.cases] == [("done", str(path))] * 2
    for number in (1, 2):
        dataset = dcmread(tmp_path / "out" / f"doe_{number}_seg.dcm")
        assert dataset.ReferencedSeriesSequence[0].SeriesInstanceUID == f"1.2.840.99.{number}"
    again = segment_batch(segmenter, [tmp_path / "in"], tmp_path / "out", output_type="dicom-seg")
    assert [case.status for case in again.cases] == ["skipped"] * 2
    later = next(watch(segmenter, tmp_path / "in", tmp_path / "late", stable_for_s=0))
    assert [case.status for case in later.cases] == ["done"] * 2
    hidden = segment_batch(segmenter, [path], tmp_path / "hidden", options=OutputOptions(anonymous=True))
    assert "doe" not in str(hidden)
