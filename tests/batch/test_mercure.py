"""`tomoseg mercure` against the published contract of mercure's modules: two folders, task.json, result.json."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread

from support.command_line import complaint, run_inside
from support.dicoms import make_series


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    places = tmp_path / "in", tmp_path / "out"
    for folder, name in zip(places, ("MERCURE_IN_DIR", "MERCURE_OUT_DIR"), strict=True):
        folder.mkdir()
        monkeypatch.setenv(name, str(folder))
    return places


def hand_over(folder: Path, scan: Path, settings: Any) -> str:
    """Name files as mercure does, and return the series."""
    for path in scan.iterdir():
        header = dcmread(path, stop_before_pixels=True)
        shutil.copy(path, folder / f"{header.SeriesInstanceUID}#{header.SOPInstanceUID}.dcm")
        (folder / f"{header.SeriesInstanceUID}#{header.SOPInstanceUID}.tags").write_text("{}")
    process = {"module_name": "tomoseg", "settings": settings, "retain_input_images": False}
    info = {"action": "process", "uid": "1", "uid_type": "series", "mrn": "4711", "acc": ""}
    (folder / "task.json").write_text(json.dumps({"id": "1", "info": info, "process": process, "dispatch": {}}))
    return str(header.SeriesInstanceUID)


def test_results_are_named_as_mercure_names_files(folders: tuple[Path, Path], dicom_scan: Path) -> None:
    settings = {"bundle": "hippocampus", "output_types": ["dicom-sr", "rtstruct"], "device": "cpu"}
    uid = hand_over(folders[0], dicom_scan, settings)
    done = run_inside("mercure")
    assert (done.returncode, done.stdout) == (0, "1 of 1 series segmented\n"), done.stderr
    written = [path for path in folders[1].iterdir() if not path.name.startswith(".")]
    found = {path.name: dcmread(path) for path in written if path.suffix == ".dcm"}
    assert sorted(one.Modality for one in found.values()) == ["RTSTRUCT", "SEG", "SR"]
    assert {f"{one.SeriesInstanceUID}#{one.SOPInstanceUID}.dcm" for one in found.values()} == found.keys()
    assert len(written) == 4
    result = json.loads((folders[1] / "result.json").read_text())
    assert [(one["series"], one["status"]) for one in result["series"]] == [(uid, "done")]
    assert result["series"][0]["volumes_ml"]["anterior"] > 0
    assert result["__mercure_notification"]["text"].endswith("1 of 1 series segmented")
    assert str(dcmread(next(dicom_scan.iterdir())).PatientName) not in done.stdout + done.stderr


def test_a_series_that_fails_is_an_error_of_the_module(folders: tuple[Path, Path], tmp_path: Path) -> None:
    make_series(tmp_path / "scan", (5, 6, 1), modality="MR")
    hand_over(folders[0], tmp_path / "scan", {"bundle": "hippocampus"})
    done = run_inside("mercure")
    assert done.returncode == 1
    result = json.loads((folders[1] / "result.json").read_text())
    assert "at least two slices" in result["series"][0]["reason"]
    assert [path.name for path in folders[1].glob("*.dcm")] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "expected the settings of the module with a bundle"),
        ([], "expected the settings of the module with a bundle"),
        ({"bundle": 3}, "settings: expected str, got int"),
        ({"bundle": "hippocampus", "colour": "red"}, "settings"),
        ({"bundle": "hippocampus", "output_types": ["nifti"]}, "output types: expected some of dicom-seg"),
        ({"bundle": "hippocampus", "device": 3}, "settings"),
        ({"bundle": "none"}, "no such name or folder"),
    ],
)
def test_wrong_settings_are_one_line(folders: tuple[Path, Path], dicom_scan: Path, settings: Any, message: str) -> None:
    hand_over(folders[0], dicom_scan, settings)
    done = run_inside("mercure")
    assert done.returncode == 2
    assert message in complaint(done)
    assert not list(folders[1].iterdir())


def test_without_mercure_it_says_so(monkeypatch: pytest.MonkeyPatch, folders: tuple[Path, Path]) -> None:
    done = run_inside("mercure")
    assert "task.json: cannot be read" in complaint(done)
    monkeypatch.delenv("MERCURE_OUT_DIR")
    assert "expected folders in MERCURE_IN_DIR and MERCURE_OUT_DIR" in complaint(run_inside("mercure"))
