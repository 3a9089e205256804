"""report.json and statistics.csv: their fields and names, for all names of files."""

from __future__ import annotations

import csv
import json
import os
import re
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tomoseg
from tomoseg import Report, Segmenter, TomosegError, segment_batch
from tomoseg.batch.options import OutputOptions
from tomoseg.core.json_records import from_json
from tomoseg.core.run_stats import RunStats
from tomoseg.report.environment import describe_hardware, utc_now
from tomoseg.report.html.document import write_page
from tomoseg.report.records import STATISTICS_COLUMNS, CaseReport, LabelVolume, Location, RegionVolume
from tomoseg.report.statistics import measure_labels

PREVIEW = OutputOptions(preview=True)

# a byte of a path that is no UTF-8 is one of these lone surrogates: https://peps.python.org/pep-0383/
NAMES = st.text(st.characters(exclude_categories=["Cs"]) | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF))
AMOUNTS = st.floats(0, 1e6)
BOXES = st.none() | st.tuples(*[st.integers(0, 600)] * 3)
LABELS = st.builds(
    LabelVolume, st.integers(1, 200), NAMES, st.integers(0, 10**8), AMOUNTS, st.none() | AMOUNTS, st.none() | AMOUNTS,
    BOXES, BOXES, st.booleans(),
)  # fmt: skip
LOCATIONS = st.builds(
    Location, NAMES, *[st.none() | AMOUNTS] * 4,
    st.lists(st.builds(RegionVolume, NAMES, st.integers(0, 10**8), AMOUNTS, st.none() | AMOUNTS,
                       st.tuples(*[st.floats(-1e3, 1e3)] * 3)), max_size=2).map(tuple),
)  # fmt: skip
STATS = st.builds(
    RunStats, st.dictionaries(NAMES, AMOUNTS, max_size=3), *[st.integers(0, 10**10)] * 6, NAMES, NAMES,
    st.lists(NAMES, max_size=3).map(tuple),
)  # fmt: skip
CASES = st.builds(
    CaseReport,
    input=NAMES,
    output=st.none() | NAMES,
    status=st.sampled_from(("done", "failed", "skipped")),
    reason=NAMES,
    series=st.none() | NAMES,
    stats=STATS,
    labels=st.lists(LABELS, max_size=3).map(tuple),
    preview=st.none() | NAMES,
    warnings=st.lists(NAMES, max_size=2).map(tuple),
    location=st.none() | LOCATIONS,
)


def make_report(*cases: CaseReport, **others: Any) -> Report:
    return Report({"name": "organs", "version": "1.0"}, "cpu", "torch", "fp32", cases=cases, **others)


def read(report: Report, folder: Path) -> dict[str, Any]:
    report.save(folder / "report.json")
    content: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return content


def rows(report: Report, folder: Path) -> list[dict[str, str]]:
    report.save_statistics(folder / "statistics.csv")
    with (folder / "statistics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_json_has_what_the_docstring_says(tmp_path: Path) -> None:
    label = LabelVolume(1, "liver", 8, 0.5, 60.0, 10.0, (1, 2, 3), (3, 4, 5), True)
    case = CaseReport("a.nii", "a_seg.nii.gz", "done", labels=(label,), stats=RunStats({"x": 1.5}, peak_bytes=7))
    content = read(make_report(case, hardware=describe_hardware(["NVIDIA H200"])), tmp_path)
    versions = ["schema_version", "tomoseg", "python", "packages", "system"]
    assert list(content) == versions + [one.name for one in fields(Report)]
    assert list(content["cases"][0]) == [one.name for one in fields(CaseReport)]
    assert list(content["cases"][0]["labels"][0]) == [one.name for one in fields(LabelVolume)]
    assert list(content["cases"][0]["stats"]) == [one.name for one in fields(RunStats)]
    assert content["tomoseg"] == tomoseg.__version__
    assert {"torch", "monai", "numpy"} <= set(content["packages"])
    assert content["hardware"]["gpus"] == ["NVIDIA H200"]
    assert content["finished"] is None
    assert content["cases"][0]["labels"][0]["first"] == [1, 2, 3]


def test_a_case_that_json_cannot_hold_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    good = CaseReport("a", "b", "done", voxels=3)
    bad = CaseReport("c", "d", "done", labels=(LabelVolume(1, "one", 2, float("nan")),))
    content = read(make_report(good, bad), tmp_path)
    assert [case["status"] for case in content["cases"]] == ["done", "failed"]
    assert content["cases"][0]["voxels"] == 3
    assert "c: Out of range float values" in content["cases"][1]["reason"]


@given(CASES)
def test_a_case_comes_back_from_json_as_it_was(case: CaseReport) -> None:
    assert from_json(CaseReport, json.loads(json.dumps(asdict(case)))) == case


@pytest.mark.parametrize("content", [{}, {"input": "a"}, {"stats": {"notes": []}, "labels": [{}]}])
def test_what_is_no_case_is_reported(content: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|missing"):
        from_json(CaseReport, content)


@settings(deadline=None)  # a busy disk
@given(st.lists(CASES, max_size=3))
def test_any_report_is_written_and_read(tmp_path_factory: pytest.TempPathFactory, cases: list[CaseReport]) -> None:
    folder = tmp_path_factory.mktemp("any")
    content = read(make_report(*cases), folder)
    assert [from_json(CaseReport, case) for case in content["cases"]] == cases  # lone surrogates, too
    every = rows(make_report(*cases), folder)
    regions = [region for case in cases if case.location for region in case.location.regions]
    assert [int(row["voxels"]) for row in every if not row["label"]] == [region.voxels for region in regions]
    found = [row for row in every if row["label"]]
    wanted = [label for case in cases for label in case.labels]
    assert [int(row["voxels"]) for row in found] == [label.voxels for label in wanted]
    assert [row["touches_border"] for row in found] == ["yes" if label.touches_border else "no" for label in wanted]


def test_a_path_that_is_no_utf8_stands_in_both(tmp_path: Path) -> None:
    name = os.fsdecode(b"scan \xff.nii")
    report = make_report(CaseReport(name, None, "done", labels=(LabelVolume(1, "liver", 0, 0.0),)), pending=(name,))
    content = read(report, tmp_path)
    assert os.fsencode(content["cases"][0]["input"]) == os.fsencode(content["pending"][0]) == b"scan \xff.nii"
    assert rows(report, tmp_path)[0]["input"] == "scan \\udcff.nii"


def test_statistics_are_those_of_the_labels(tmp_path: Path) -> None:
    present = LabelVolume(1, "liver, left", 8, 0.123456789, -60.25, 0.0, (0, 2, 3), (3, 4, 5), True, 0.9, 0.75)
    absent = LabelVolume(2, "spleen", 0, 0.0)
    failed = CaseReport("b.nii", None, "failed", "b.nii: damaged")
    report = make_report(CaseReport("a.nii", "o.nii", "done", labels=(present, absent)), failed)
    assert STATISTICS_COLUMNS == (
        "input", "label", "name", "voxels", "volume_ml", "mean", "sd",
        "first_i", "first_j", "first_k", "stop_i", "stop_j", "stop_k", "touches_border",
        "expected_dice", "expected_dice_low", "presence",
        "volume_per_icv", "icv_ml", "asymmetry_percent",
    )  # fmt: skip
    one, other = (list(row.values()) for row in rows(report, tmp_path))
    assert one == [
        "a.nii",
        "1",
        "liver, left",
        "8",
        "0.123457",
        "-60.25",
        "0",
        "0",
        "2",
        "3",
        "3",
        "4",
        "5",
        "yes",
        "0.9",
        "0.75",
        "",
        "",
        "",
        "",
    ]
    assert other == ["a.nii", "2", "spleen", "0", "0", *[""] * 8, "no", *[""] * 6]


def test_structures_have_rows_of_their_own(tmp_path: Path) -> None:
    regions = (RegionVolume("left", 4, 4.0, 2.5, (1, 2, 3)), RegionVolume("right", 3, 3.0, None, (1, 2, 3)))
    location = Location("MNI152", 0.5, 1.0, 1600.0, 28.57142857, regions)
    case = CaseReport("a.nii", "o.nii", "done", labels=(LabelVolume(1, "left part", 4, 4.0),), location=location)
    label, left, right = (list(row.values()) for row in rows(make_report(case), tmp_path))
    assert label[:5] == ["a.nii", "1", "left part", "4", "4"]
    assert left == ["a.nii", "", "left", "4", "4", *[""] * 12, "2.5", "1600", "28.5714"]
    assert right == ["a.nii", "", "right", "3", "3", *[""] * 12, "", "1600", "28.5714"]


def test_a_folder_that_cannot_be_written_to_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for write in (make_report().save, make_report().save_statistics, lambda path: write_page(make_report(), path)):
        with pytest.raises(TomosegError, match=r"file/out: cannot be written"):
            write(tmp_path / "file" / "out")


def test_the_hardware_is_this_machine() -> None:
    found = describe_hardware()
    assert list(found) == ["cpu", "cores", "memory_bytes", "gpus", "threads"]
    assert 1 <= found["cores"] <= (os.cpu_count() or 1)
    assert found["memory_bytes"] > 1e8
    assert found["cpu"]
    assert found["gpus"] == []


def test_a_report_knows_when_it_began() -> None:
    began = datetime.fromisoformat(make_report().started)
    assert abs((datetime.now(UTC) - began).total_seconds()) < 60
    assert datetime.fromisoformat(utc_now()) >= began


@pytest.fixture(scope="module")
def real_run(dicom_scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run over a DICOM series, whose patient is Jane Doe, leaves behind, and its reports."""
    folder = tmp_path_factory.mktemp("run")
    report = segment_batch(Segmenter.from_bundle("hippocampus"), [dicom_scan], folder, options=PREVIEW)
    assert not report.failed, report.failed
    report.save(folder / "report.json")
    report.save_statistics(folder / "statistics.csv")
    write_page(report, folder / "report.html")
    return folder


def test_a_run_measures_its_labels(real_run: Path, dicom_scan: Path) -> None:
    scan = nib.load(dicom_scan.with_name("mni.nii.gz")).get_fdata(dtype=np.float32)
    labels = np.asanyarray(nib.load(real_run / "mni_dicom_seg.nii.gz").dataobj)
    with (real_run / "statistics.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["name"] for row in found] == ["anterior", "posterior"]
    for row in found:
        inside = scan[labels == int(row["label"])].astype(float)
        assert int(row["voxels"]) == inside.size
        assert float(row["mean"]) == pytest.approx(inside.mean(), rel=1e-5)
        assert float(row["sd"]) == pytest.approx(inside.std(), rel=1e-5)
        (wanted,) = measure_labels(labels, {int(row["label"]): row["name"]}, 1.0)
        assert tuple(int(row[f"first_{axis}"]) for axis in "ijk") == wanted.first
        assert tuple(int(row[f"stop_{axis}"]) for axis in "ijk") == wanted.stop


def test_no_report_names_the_patient(real_run: Path) -> None:
    written = [path for path in real_run.rglob("*") if path.is_file() and not path.name.endswith(".nii.gz")]
    assert {"report.json", "statistics.csv", "report.html", "mni_dicom_seg.png"} <= {path.name for path in written}
    for path in written:
        content = re.sub(rb"data:image[^\"]*", b"", path.read_bytes())  # where four letters may stand by chance
        for secret in (b"Doe^Jane", b"19700101", *((b"Jane", b"4711") if path.suffix != ".png" else ())):
            assert secret not in content, (path, secret)
            assert secret.decode() not in path.name


def test_stats_of_parts_add_up() -> None:
    one = RunStats({"a": 1.0, "b": 2.0}, 3, 1, 10, 20, 0, 5, "openvino", "fp32", ("first", "second"))
    other = RunStats({"b": 0.5, "c": 4.0}, 2, 1, 30, 5, 7, 0, "torch", "fp32", ("second", "third"))
    seconds = {"a": 1.0, "b": 2.5, "c": 4.0}
    assert one + other == RunStats(seconds, 5, 2, 30, 20, 7, 5, "torch", "fp32", ("first", "second", "third"))
    assert list((one + other).seconds) == ["a", "b", "c"]
    assert one + RunStats() == RunStats() + one == one
    assert (one + other).total_seconds == 7.5
