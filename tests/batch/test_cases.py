"""Which file is written for which scan."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from support.dicoms import write_series
from tomoseg import Grid, TomosegError, read_volume
from tomoseg.batch.cases import Case, plan_cases
from tomoseg.data.output_types import OUTPUT_TYPES


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def outputs(cases: list[Case], folder: Path) -> list[str]:
    return [case.output.relative_to(folder).as_posix() for case in cases]


def test_one_scan_goes_into_the_named_file(tmp_path: Path) -> None:
    scan, *_ = touch(tmp_path, "scan.nii")
    for name, kind in [
        ("x.nii.gz", "nifti"), ("x.NII", "nifti"), ("x.seg.nrrd", "nrrd"), ("x.nrrd", "nrrd"), ("x.dcm", "dicom-seg"),
    ]:  # fmt: skip
        assert plan_cases([scan], tmp_path / name) == [Case(scan, tmp_path / name, OUTPUT_TYPES[kind])]
    (case,) = plan_cases([scan], tmp_path / "x.dcm", "rtstruct")
    assert case.output_type.name == "rtstruct"


def test_a_folder_keeps_its_tree(tmp_path: Path) -> None:
    touch(tmp_path / "in", "b.nii", "one/a.nii.gz", "two/a.nii.gz", "one/notes.txt")
    cases = plan_cases([tmp_path / "in"], tmp_path / "out")
    assert outputs(cases, tmp_path / "out") == ["b_seg.nii.gz", "one/a_seg.nii.gz", "two/a_seg.nii.gz"]


def test_several_inputs_keep_their_own_names(tmp_path: Path) -> None:
    scans = touch(tmp_path / "in", "one/a.nii.gz", "two/a.nii.gz", "two/b.nii")
    wanted = ["one/a_seg.nii.gz", "two/a_seg.nii.gz", "two/b_seg.nii.gz"]
    for given in (scans, [tmp_path / "in/one", tmp_path / "in/two"], [str(tmp_path / "in/*/*.nii*")]):
        assert outputs(plan_cases(given, tmp_path / "out"), tmp_path / "out") == wanted
    assert outputs(plan_cases(scans[1:], tmp_path / "out"), tmp_path / "out") == ["a_seg.nii.gz", "b_seg.nii.gz"]


def test_a_scan_named_twice_is_segmented_once(tmp_path: Path) -> None:
    scan, *_ = touch(tmp_path / "in", "a.nii")
    assert len(plan_cases([scan, scan], tmp_path / "out")) == 1


def test_a_name_with_a_bracket_is_no_pattern(tmp_path: Path) -> None:
    scan, *_ = touch(tmp_path / "in", "a[1].nii")
    assert plan_cases([scan], tmp_path / "out")[0].input == scan


def test_results_of_an_earlier_run_are_no_scans(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "out/a_seg.nii.gz")
    assert len(plan_cases([tmp_path], tmp_path / "out")) == 1


def test_wrong_calls_are_reported(tmp_path: Path) -> None:
    a, b, packed = touch(tmp_path / "in", "a.nii", "b.nii", "a.nii.gz")
    (tmp_path / "empty").mkdir()
    for inputs, output, message in [
        ([a, b], tmp_path / "x.nii.gz", "2 scans cannot go into one file"),
        ([tmp_path / "empty"], tmp_path / "out", "no NIfTI, NRRD or MetaImage file, and no CT or MR series"),
        ([tmp_path / "in"], tmp_path / "in", "the output folder is the input folder"),
        ([a, packed], tmp_path / "out", r"a_seg.nii.gz: both .*a.nii and .*a.nii.gz would be written there"),
        ([a], a, "is an input, too"),
    ]:
        with pytest.raises(TomosegError, match=message):
            plan_cases(inputs, output)
    with pytest.raises(TomosegError, match=r"output type: expected nifti, nrrd, .* got 'png'"):
        plan_cases([a], tmp_path / "out", "png")
    with pytest.raises(TomosegError, match=r"x\.nii: expected a name that ends in \.nrrd for nrrd"):
        plan_cases([a], tmp_path / "x.nii", "nrrd")


def test_each_format_has_its_own_ending(tmp_path: Path) -> None:
    touch(tmp_path / "in", "b.nrrd", "one/a.mha", "one/a.seg.nrrd", "two/a.nii.gz")
    for kind, ending in [("nrrd", ".seg.nrrd"), ("dicom-labelmap", "_labelmap.dcm"), ("rtstruct", "_rtstruct.dcm")]:
        cases = plan_cases([tmp_path / "in"], tmp_path / "out", kind)
        assert outputs(cases, tmp_path / "out") == [f"b{ending}", f"one/a{ending}", f"two/a{ending}"]
    assert cases[0].picture == tmp_path / "out" / "b_rtstruct.png"
    assert plan_cases([tmp_path / "in/b.nrrd"], tmp_path / "b.seg.nrrd")[0].entropy == tmp_path / "b_entropy.nii.gz"


def test_a_folder_with_dicom_is_one_scan(tmp_path: Path) -> None:
    array, grid = np.zeros((8, 9, 4), "int16"), Grid((8, 9, 4), np.eye(4))
    write_series(tmp_path / "in/doe/ct", array, grid, uid="1.2.3")
    write_series(tmp_path / "in/doe/mr", array, grid, modality="MR", uid="1.2.4")
    write_series(
        tmp_path / "in/roe", array, grid, modality="PT", uid="1.2.5", SOPClassUID="1.2.840.10008.5.1.4.1.1.128"
    )
    touch(tmp_path / "in/doe", "t1.nii.gz", "ct/notes.txt", "DICOMDIR")
    target = tmp_path / "out"
    assert outputs(plan_cases([tmp_path / "in"], target), target) == [
        "doe/ct_seg.nii.gz",
        "doe/mr_seg.nii.gz",
        "doe/t1_seg.nii.gz",
    ]
    (one,) = plan_cases([tmp_path / "in/doe/mr"], target)
    assert (one.input, one.output) == (tmp_path / "in/doe/mr", target / "mr_seg.nii.gz")
    (one,) = plan_cases([tmp_path / "in"], target, series="1.2.4")
    assert (one.input, one.series) == (tmp_path / "in/doe/mr", "1.2.4")
    with pytest.raises(TomosegError, match=r"in: contains no series 1\.2\.9"):
        plan_cases([tmp_path / "in"], target, series="1.2.9")
    # beside others, a folder without a scan is a case that fails: it was asked for by name
    assert [case.input.name for case in plan_cases([tmp_path / "in/doe/ct", tmp_path / "in/roe"], target)] == [
        "ct",
        "roe",
    ]


def test_a_series_in_several_folders_is_one_scan(tmp_path: Path) -> None:
    grid = Grid((8, 9, 6), np.eye(4))
    paths = write_series(tmp_path / "in/doe/1", np.zeros(grid.shape, "int16"), grid, uid="1.2.3")
    (tmp_path / "in/doe/2").mkdir()
    for path in paths[::2]:
        path.rename(tmp_path / "in/doe/2" / path.name)
    write_series(tmp_path / "in/roe", np.zeros(grid.shape, "int16"), grid, uid="1.2.4")
    cases = plan_cases([tmp_path / "in"], tmp_path / "out")
    assert [(case.input.name, case.series) for case in cases] == [("doe", "1.2.3"), ("roe", "1.2.4")]
    assert read_volume(cases[0].input, cases[0].series).grid.matches(grid)
