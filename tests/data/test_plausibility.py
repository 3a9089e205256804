"""Missing labels, odd sizes and scans that are no CT are reported, where the bundle declares limits."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom import dcmread

from support.dicoms import write_series
from support.thresholds import ball, threshold_bundle
from support.trainings import tomoseg
from tomoseg import Grid, Segmenter, find_bundle
from tomoseg.bundle.metadata import Bundle
from tomoseg.core.errors import BundleError
from tomoseg.data.labels import Label
from tomoseg.data.plausibility import at_border, ct_warnings, volume_warnings

SHAPE, SPACING = (60, 60, 40), (3.9, 3.9, 2.5)
THRESHOLDS = {"brainstem": 100.0, "mandible": 700.0}
RANGES = {"brainstem": (60.0, 100.0), "mandible": (30.0, 60.0)}
TRAINED = "a CT as x was trained on"


def table(*ranges: tuple[float, float] | None) -> list[Label]:
    return [Label(value, f"organ {value}", (1, 2, 3), volume_ml=one) for value, one in enumerate(ranges, start=1)]


def head(soft: float = 26, hard: float = 22, air: float = -1000) -> NDArray[np.float32]:
    """A CT with a ball of 200 HU and one of 1200 HU in water; radii in mm."""
    scan = np.full(SHAPE, air, np.float32)
    scan[0] += 1  # a scan has more than two values
    scan[8:-8, 8:-8, 4:-4] = 0
    scan[ball(SHAPE, (80, 120, 50), soft, SPACING)] = 200
    scan[ball(SHAPE, (160, 120, 50), hard, SPACING)] = 1200
    return scan


def save(path: Path, scan: NDArray[np.float32]) -> Path:
    nib.save(nib.Nifti1Image(scan, np.diag([*SPACING, 1.0])), path)
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return threshold_bundle(tmp_path_factory.mktemp("plausible") / "head_bundle", THRESHOLDS, RANGES)


@pytest.fixture(scope="module")
def segmenter(bundle: Path) -> Segmenter:
    return Segmenter.from_bundle(bundle, device="cpu", backend="torch")


def test_the_planner_writes_half_the_5th_to_one_and_a_half_times_the_95th_percentile(bundle: Path) -> None:
    labels = find_bundle(bundle).label_table
    assert [labels[value].volume_ml for value in (1, 2)] == [(30, 150), (15, 90)]


@pytest.mark.parametrize(
    ("scan", "reported"),
    [
        (head(), []),
        (head(soft=10), ["brainstem: "]),
        (head(hard=0), ["mandible: not found, expected 15 to 90 mL"]),
        (head(soft=44), ["brainstem: "]),
        (head(soft=0, hard=0), ["no brainstem or mandible was found: is this a CT as head_bundle was trained on?"]),
        (head(air=-100), ["values from -100 to 1200: no Hounsfield units, or a crop without air?"]),
        (
            (head() + 1000) * 255 / 2200,
            ["values from 0 to 255: no Hounsfield units, but grey levels", "brainstem: ", "mandible: not found"],
        ),
    ],
    ids=["as trained", "too small", "missing", "too large", "nothing", "no air", "grey levels"],
)
def test_what_is_odd_is_reported(
    segmenter: Segmenter, scan: NDArray[np.float32], reported: list[str], tmp_path: Path
) -> None:
    result = segmenter(save(tmp_path / "scan.nii.gz", scan.astype(np.float32)))
    assert len(result.warnings) == len(reported)
    for warning, start in zip(result.warnings, reported, strict=True):
        assert warning.startswith(start)
    if reported == ["brainstem: "]:
        assert "mL is implausible, expected 30 to 150 mL" in result.warnings[0]


def test_a_bundle_that_declares_nothing_is_silent(tmp_path: Path) -> None:
    quiet = threshold_bundle(tmp_path / "bundle", THRESHOLDS)
    path = quiet / "configs" / "metadata.json"
    content = json.loads(path.read_text())
    content["network_data_format"]["inputs"]["image"]["format"] = "magnitude"
    path.write_text(json.dumps(content))
    segmenter = Segmenter.from_bundle(quiet, device="cpu", backend="torch")
    assert segmenter(save(tmp_path / "scan.nii.gz", head(soft=0, hard=0, air=-5))).warnings == ()


@pytest.fixture(scope="module")
def mr_segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    folder = threshold_bundle(tmp_path_factory.mktemp("mr") / "mr_bundle", THRESHOLDS)
    path = folder / "configs" / "metadata.json"
    content = json.loads(path.read_text())
    content["network_data_format"]["inputs"]["image"] |= {"modality": "MRI", "format": "magnitude"}
    path.write_text(json.dumps(content))
    return Segmenter.from_bundle(folder, device="cpu", backend="torch")


def dicom(folder: Path, scan: NDArray[np.float32], modality: str) -> Path:
    write_series(folder, scan.astype(np.int16), Grid(SHAPE, np.diag([*SPACING, 1.0])), modality=modality)
    return folder


@pytest.mark.parametrize("taken", ["CT", "MR"])
@pytest.mark.parametrize("given", ["CT", "MR", "CT file", "MR file"])
def test_a_scan_of_another_modality_is_a_warning(
    segmenter: Segmenter, mr_segmenter: Segmenter, taken: str, given: str, tmp_path: Path
) -> None:
    scan = head() if given.startswith("CT") else np.abs(head())
    path = save(tmp_path / "x.nii.gz", scan) if "file" in given else dicom(tmp_path / "x", scan, given)
    warnings = (segmenter if taken == "CT" else mr_segmenter)(path).warnings
    assert bool(warnings) == (not given.startswith(taken))
    if warnings:
        assert warnings[0].startswith(
            {
                "CT": "a CT series, expected MR",
                "MR": "an MR series, expected CT",
                "CT file": "its values are Hounsfield units, with air near -1000",
                "MR file": "values from 0 to 1200: no Hounsfield units?",
            }[given]
        )


def test_a_modality_that_a_series_does_not_say_is_that_of_its_images(mr_segmenter: Segmenter, tmp_path: Path) -> None:
    for path in dicom(tmp_path / "x", head(), "CT").iterdir():
        dataset = dcmread(path)
        dataset.Modality = "OT"
        dataset.save_as(path)
    assert mr_segmenter(tmp_path / "x").warnings[0].startswith("a CT series, expected MR")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ((7,), "every voxel holds 7: is this a scan?"),
        ((0, 1), "every voxel holds 0 or 1: is this a scan?"),
        ((0, 1, 2), ""),
    ],
)
def test_a_scan_of_one_or_two_values_is_a_warning(
    mr_segmenter: Segmenter, values: tuple[int, ...], told: str, tmp_path: Path
) -> None:
    scan = np.resize(np.array(values, np.float32), SHAPE)
    assert mr_segmenter(save(tmp_path / "x.nii.gz", scan)).warnings == ((told,) if told else ())


def test_with_strict_the_exit_status_is_1_and_all_reports_tell(bundle: Path, tmp_path: Path) -> None:
    scan = save(tmp_path / "abdomen.nii.gz", head(soft=0, hard=0))
    command = ("segment", scan, "-b", bundle, "--device", "cpu", "-o")
    reported = "no brainstem or mandible was found: is this a CT as head_bundle was trained on?"
    for strict, status in (((), 0), (("--strict",), 1)):
        out = tmp_path / f"out_{status}"
        done = tomoseg(*command, out, *strict)
        assert done.returncode == status, done.stderr
        assert reported in " ".join((done.stdout + done.stderr).split())
        assert (out / "abdomen_seg.nii.gz").is_file()
        assert json.loads((out / "report.json").read_text())["cases"][0]["warnings"] == [reported]
        assert reported in (out / "report.html").read_text()


def test_a_label_at_the_border_may_be_small_but_not_large_or_missing() -> None:
    labels = table((10, 20))
    assert volume_warnings(labels, {1: 5.0}, {1}, TRAINED) == []
    assert len(volume_warnings(labels, {1: 5.0}, set(), TRAINED)) == 1
    assert len(volume_warnings(labels, {1: 25.0}, {1}, TRAINED)) == 1
    assert volume_warnings(labels, {1: 0.0}, set(), TRAINED) == ["organ 1: not found, expected 10 to 20 mL"]
    assert volume_warnings(table((0, 20)), {1: 0.0}, set(), TRAINED) == [], "a tumour need not be there"


@given(volumes=st.lists(st.floats(0, 100), min_size=1, max_size=5), data=st.data())
def test_only_what_lies_outside_of_its_range_is_reported(volumes: list[float], data: st.DataObject) -> None:
    ranges = [data.draw(st.none() | st.tuples(st.floats(0, 40), st.floats(41, 90))) for _ in volumes]
    found = volume_warnings(table(*ranges), dict(enumerate(volumes, start=1)), set(), TRAINED)
    odd = [
        value
        for value, (volume, one) in enumerate(zip(volumes, ranges, strict=True), start=1)
        if one is not None and not one[0] <= volume <= one[1]
    ]
    assert [line for value in odd for line in found if f"organ {value}" in line] == (
        found if len(found) == len(odd) else found * len(odd)
    )
    assert bool(found) == bool(odd)


@given(seed=st.integers(0, 1000))
def test_labels_at_the_border_are_seen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.integers(0, 7, (4, 5, 6)) * (rng.random((4, 5, 6)) < 0.1)).astype(np.uint8)
    inner = labels.copy()
    inner[1:-1, 1:-1, 1:-1] = 0
    assert at_border(labels) == set(np.unique(inner).tolist()) - {0}
    masks = np.stack([labels == value for value in range(1, 7)]).astype(np.uint8)
    assert at_border(masks) == at_border(labels)


def test_a_part_of_a_large_scan_is_enough() -> None:
    scan = np.full((300, 300, 60), -1000, np.float32)
    assert "soft tissue" in str(ct_warnings(scan))
    scan[100:200, 100:200] = 40
    assert ct_warnings(scan) is None
    assert "rescale" in str(ct_warnings(scan + 1024))


@pytest.mark.parametrize("bad", [[5, 2], [1], [-1, 3], "12", 7])
def test_a_range_that_is_none_is_reported(bad: object, bundle: Path, tmp_path: Path) -> None:
    content = json.loads((bundle / "configs" / "metadata.json").read_text())
    content["label_table"]["1"]["volume_ml"] = bad
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "metadata.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match="volume_ml"):
        _ = Bundle("x", tmp_path).label_table
