"""Some of a bundle's labels: only these are in the result, in its files and in the reports."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from support.command_line import run_inside
from support.thresholds import SPACING, threshold_bundle
from tomoseg import Grid, RunOptions, Segmentation, Segmenter, segment_batch
from tomoseg.core.errors import UsageError
from tomoseg.data.labels import unnamed

HU = {"Mandible": 0.0, "Parotid_L": 300.0, "Parotid_R": 600.0}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return threshold_bundle(tmp_path_factory.mktemp("bundle") / "organs", HU, {"Mandible": (90.0, 99.0)})


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "ct.nii.gz"
    values = np.repeat(np.array([-900, 100, 400, 900], np.float32), 8).reshape(32, 1, 1)
    nib.save(nib.Nifti1Image(np.broadcast_to(values, (32, 24, 24)).copy(), np.diag([*SPACING, 1.0])), path)
    return path


@pytest.mark.parametrize(
    ("chosen", "values"),
    [
        (("mandible",), [1]),
        (("parotid*",), [2, 3]),
        (("PAROTID r, Mandible",), [1, 3]),
        (("parotid_l", "Mandible,parotid_l"), [1, 2]),
        (("*",), [1, 2, 3]),
        ((), [1, 2, 3]),
    ],
)
def test_only_the_chosen_labels_are_left(bundle: Path, scan: Path, chosen: tuple[str, ...], values: list[int]) -> None:
    every = Segmenter.from_bundle(bundle, device="cpu", backend="torch")(scan)
    result = Segmenter.from_bundle(bundle, device="cpu", backend="torch", labels=chosen)(scan)
    assert sorted(result.names) == values
    np.testing.assert_array_equal(result.labels, np.where(np.isin(every.labels, values), every.labels, 0))
    assert [value for value, count in result.voxel_counts.items() if count] == values
    # the other labels have no warnings, either
    assert any("Mandible" in warning for warning in result.warnings) == (1 in values)


def test_reports_and_files_have_only_them_and_a_resumed_run_with_others_says_so(
    bundle: Path, scan: Path, tmp_path: Path
) -> None:
    command = ["segment", scan.parent, "-o", tmp_path, "-b", f"{bundle}", "--trust", "--device", "cpu"]
    done = run_inside(*command, "--labels", "parotid*", "--preview")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["options"]["labels"] == ["parotid*"]
    assert [row["name"] for row in report["cases"][0]["labels"]] == ["Parotid_L", "Parotid_R"]
    assert "Mandible" not in "".join((tmp_path / name).read_text() for name in ("statistics.csv", "report.html"))
    assert np.unique(nib.load(tmp_path / "ct_seg.nii.gz").get_fdata()).tolist() == [0, 2, 3]
    again = run_inside(*command, "--labels", "parotid*")
    assert again.returncode == 0, again.stderr
    other = run_inside(*command, "--labels", "mandible")
    assert other.returncode == 1
    assert "the options changed since. Pass --overwrite" in other.stderr


def test_an_unknown_label_is_one_line_with_the_names(bundle: Path, scan: Path, tmp_path: Path) -> None:
    done = run_inside("segment", scan, "-o", tmp_path / "out", "-b", bundle, "--trust", "--labels", "Mandible,liver")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(
        "labels: no label is called 'liver'. Choose from Mandible, Parotid_L, Parotid_R"
    )
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="no label is called ''"):
        segment_batch(bundle, [scan], tmp_path / "out", run_options=RunOptions(labels=("",)))


def test_labels_that_overlap_keep_their_numbers() -> None:
    labels = np.zeros((3, 2, 2, 2), np.uint8)
    labels[:, 0] = 1
    table = tuple(unnamed(value) for value in (1, 2, 3))
    result = Segmentation(labels, Grid((2, 2, 2), np.eye(4)), table, "bundle", "1").keep(["label 2"])
    assert (result.names, result.voxel_counts) == ({2: "label 2"}, {2: 4})
    assert not result.labels[0].any()
