"""The report of `tomoseg check`: voxels are counted right, and each problem has its place."""

from __future__ import annotations

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydicom.uid import generate_uid

from support.dicoms import write_enhanced, write_series
from support.stored import GRID, SHAPE, noise, save
from support.strategies import grids
from support.tiers import examples
from tomoseg import Grid, read_volume
from tomoseg.core.errors import UsageError
from tomoseg.data.geometry import MAX_ROUNDING_VOXELS
from tomoseg.data.inspection.inspection_report import InspectionReport, inspect
from tomoseg.data.inspection.scan import compare_grids
from tomoseg.data.inspection.tables import list_errors, list_notes, tabulate
from tomoseg.data.inspection.voxels import count_voxels
from tomoseg.data.nifti import write_label_map

SLOW_SETTINGS = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


VALUES = st.sampled_from([0.0, 1.0, 2.0, -3.0, 70000.0, np.nan, np.inf])


@settings(SLOW_SETTINGS, max_examples=examples(200))
@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=3, min_side=2, max_side=4), elements=VALUES),
    st.permutations((1.0, 1.0, 3.0)) | st.just([2.0, 2.0, 2.0]),
    st.booleans(),
)
def test_voxels_are_counted_as_numpy_counts_them(array: np.ndarray, spacing: list[float], fortran: bool) -> None:
    found = count_voxels(np.asarray(array, order="F" if fortran else "C"), (spacing[0], spacing[1], spacing[2]), 10)
    finite = array[np.isfinite(array)]
    assert found.non_finite == array.size - finite.size
    assert found.minimum == (finite.min() if finite.size else None)
    assert found.maximum == (finite.max() if finite.size else None)
    assert found.slice_axis == (spacing.index(3.0) if 3.0 in spacing else 2)
    slices = np.moveaxis(array, found.slice_axis, 0).reshape(found.slices, -1)
    assert found.constant_slices == sum(len(np.unique(row[np.isfinite(row)])) < 2 for row in slices)
    values, counts = np.unique(finite, return_counts=True)
    assert found.values == dict(zip(values.astype(int).tolist(), counts.tolist(), strict=True))
    changed = array.copy()
    changed[0, 0, 0] = 5
    assert found.sha256 == count_voxels(array, (1, 1, 1)).sha256 != count_voxels(changed, (1, 1, 1)).sha256
    assert count_voxels(array, (1, 1, 1), 1).values in (None, found.values)


@given(grids(), st.floats(0, 3) | st.floats(3, 1000), st.integers(0, 2))
def test_a_label_map_beside_its_scan_is_reported_in_mm(grid: Grid, shift: float, axis: int) -> None:
    moved = np.array(grid.affine)
    shift_mm = shift * MAX_ROUNDING_VOXELS * min(grid.spacing)
    moved[axis, 3] += shift_mm
    problem, note = compare_grids(grid, Grid(grid.shape, moved))
    limit = MAX_ROUNDING_VOXELS * min(grid.spacing)
    if shift_mm > limit + 1e-9:
        assert problem[0].startswith(f"label map and scan lie up to {shift_mm:.3g} mm apart; resample the label map")
    elif shift_mm < limit - 1e-9:
        assert problem == ()
        assert bool(note) == (shift_mm > 1e-3) or abs(shift_mm - 1e-3) < 1e-9
    assert compare_grids(grid, grid) == ((), ())
    more = Grid((grid.shape[0] + 1, *grid.shape[1:]), grid.affine)
    assert "label map of " in compare_grids(grid, more)[0][0]


def phantom() -> np.ndarray:
    """A CT of a body in air, with bone, in Hounsfield units."""
    array = np.full((20, 20, 10), -1000.0)
    array[4:16, 4:16] = np.random.default_rng(1).normal(40, 20, (12, 12, 10))
    array[9:11, 9:11] = 700
    return np.round(array)


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        (lambda hu: hu, None),
        (lambda hu: np.where(np.indices(hu.shape)[0] == 0, -3024, hu), None),
        (lambda hu: hu + 1024, "rescale intercept not applied"),
        (lambda hu: np.clip((hu + 160) / 400 * 255, 0, 255).round(), "grey levels of a picture"),
        (lambda hu: (hu - hu.mean()) / hu.std(), "no Hounsfield units, or a crop without air"),
        (lambda hu: hu * 10, "hardly any air"),
        (lambda hu: np.where(np.indices(hu.shape)[0] == 0, -2000, hu + 1024), "hardly any air"),
        (lambda hu: np.where(hu < -500, hu, hu + 1024), "hardly any soft tissue"),
    ],
)
def test_values_that_are_no_hounsfield_units_are_doubted(change: Any, doubt: str | None) -> None:
    found = count_voxels(change(phantom()).astype(np.float32), (1, 1, 1)).hounsfield
    assert found is None if doubt is None else found is not None and doubt in found


def make_dataset(root: Path, **changes: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> Path:
    """Write a CT dataset with one case for each name; a change gets the voxels of its scan and its label map."""
    for number, (name, change) in enumerate(changes.items()):
        labels = np.zeros(phantom().shape, np.uint8)
        labels[6:8, 6:8, 2:4], labels[9:11, 9:11] = 1, 2
        image, label = change((phantom() + number % 7).astype(np.float32), labels)
        save(root / f"imagesTr/{name}_0000.nii.gz", image)
        save(root / f"labelsTr/{name}.nii.gz", label)
    names = {"background": 0, "vessel": 1, "bone": 2, "stent": 3}
    content = {"channel_names": {"0": "CT"}, "labels": names, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def change_voxel(array: np.ndarray, value: float) -> np.ndarray:
    changed = array.astype(np.float32)
    changed[1, 1, 1] = value
    return changed


def keep(image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return image, label


def test_what_is_wrong_in_a_dataset_is_reported_where_it_is(tmp_path: Path) -> None:
    root = make_dataset(
        tmp_path / "data",
        good=keep,
        nan=lambda image, label: (change_voxel(image, np.nan), label),
        unknown=lambda image, label: (image + 1, np.where(label == 2, 7, label).astype(np.uint8)),
        broken=lambda image, label: (image + 2, label * np.float32(0.5)),
        negative=lambda image, label: (image + 3, change_voxel(label, -1)),
        swapped=lambda image, label: (image + 4, np.arange(image.size, dtype=np.float32).reshape(image.shape)),
        smaller=lambda image, label: (image + 5, label[:, :, :-1]),
        moved=keep,
        cut=keep,
        empty=lambda image, label: (image + 6, label * np.uint8(0)),
        grey=lambda image, label: (image + 2000, label),
    )
    shifted = np.array(GRID.affine)
    shifted[0, 3] += 4
    save(root / "labelsTr/moved.nii.gz", np.ones(phantom().shape, np.uint8), Grid(phantom().shape, shifted))
    (root / "labelsTr/good2.nii.gz").write_bytes((root / "labelsTr/good.nii.gz").read_bytes())
    (root / "imagesTr/copy_0000.nii.gz").write_bytes((root / "imagesTr/good_0000.nii.gz").read_bytes())
    cut = root / "imagesTr/cut_0000.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-2000])

    report = inspect([root], voxels=True)
    (dataset,) = report.datasets
    errors = {
        case.name: [*case.errors, *(line for scan in case.scans for line in scan.errors)] for case in dataset.cases
    }
    assert not report.ok
    expected = {
        "good": [],
        "nan": ["NaN or infinity in 1 of 4000 voxels"],
        "unknown": ["the label map holds 7, which dataset.json does not name"],
        "broken": ["values that are no integers"],
        "negative": ["values down to -1"],
        "swapped": ["more than 1000 different values"],
        "smaller": ["label map of 20×20×9 voxels for a scan of 20×20×10"],
        "moved": ["label map and scan lie up to 4 mm apart"],
        "cut": ["truncated or damaged"],
        "empty": [],
        "grey": [],
        "copy_0000": ["no label map"],
        "good2": ["no scan"],
    }
    assert errors.keys() == expected.keys()
    for name, lines in expected.items():
        assert [found[: len(line)] for found, line in zip(errors[name], lines, strict=True)] == lines
    by_name = {case.name: case for case in dataset.cases}
    assert by_name["moved"].same_grid is by_name["smaller"].same_grid is False
    assert by_name["cut"].image is not None
    assert not by_name["cut"].image.readable
    notes = {name: [line for scan in case.scans for line in scan.notes] for name, case in by_name.items()}
    assert notes["empty"] == ["nothing is labelled in it"]
    assert "rescale intercept not applied" in notes["grey"][0]
    assert notes["copy_0000"] == [f"has the same voxels as {root / 'imagesTr/good_0000.nii.gz'}"]
    assert dataset.notes == ("no case has stent (3), which dataset.json names",)
    assert len(list_errors(report)) == sum(map(len, expected.values()))
    assert f"{root / 'labelsTr/good2.nii.gz'}: no scan" in list_errors(report)

    headers = inspect([root])
    of_headers = {case.name for case in headers.datasets[0].cases if not case.ok}
    assert of_headers == {"smaller", "moved", "copy_0000", "good2"}  # the rest takes the voxels


@SLOW_SETTINGS
@given(st.lists(hnp.arrays(np.uint8, (3, 4, 2), elements=st.integers(0, 3)), min_size=1, max_size=3))
def test_labels_are_counted_as_numpy_counts_them(
    tmp_path_factory: pytest.TempPathFactory, maps: list[np.ndarray]
) -> None:
    root = make_dataset(
        tmp_path_factory.mktemp("labels"),
        **{
            f"case{index}": lambda image, label, drawn=drawn: (noise(shape=drawn.shape), drawn)
            for index, drawn in enumerate(maps)
        },
    )
    (dataset,) = inspect([root], voxels=True).datasets
    assert [label.value for label in dataset.labels] == [1, 2, 3]
    for label in dataset.labels:
        counts = [int(np.count_nonzero(drawn == label.value)) for drawn in maps]
        assert label.voxels == sum(counts)
        assert label.cases == np.count_nonzero(counts)
        assert label.annotated_cases == len(maps)
        assert label.volume_ml == pytest.approx(sum(counts) * 1.5 * 1.5 * 3 / 1000)


def test_a_label_that_was_not_drawn_is_no_missing_label(tmp_path: Path) -> None:
    root = make_dataset(tmp_path, one=keep, two=keep)
    listed = [
        {"image": f"imagesTr/{name}_0000.nii.gz", "label": f"labelsTr/{name}.nii.gz", "annotated": drawn}
        for name, drawn in {"one": ["vessel", "stent"], "two": ["bone", "vessel"]}.items()
    ]
    names = {"0": "background", "1": "vessel", "2": "bone", "3": "stent"}
    (root / "dataset.json").write_text(json.dumps({"training": listed, "labels": names}))
    (dataset,) = inspect([root], voxels=True).datasets
    assert [(label.name, label.cases, label.annotated_cases) for label in dataset.labels] == [
        ("vessel", 2, 2),
        ("bone", 2, 1),
        ("stent", 0, 1),
    ]
    assert dataset.cases[0].notes == (
        "dataset.json says that stent was drawn, but no voxel has it",
        "dataset.json does not say that bone was drawn, but voxels have it",
    )
    assert dataset.cases[1].notes == ()


def test_every_series_is_a_row_and_no_name_of_a_patient_is_reported(tmp_path: Path) -> None:
    first, second = generate_uid(), generate_uid()
    write_series(tmp_path / "study", noise(), GRID, uid=first, names=[f"a{k}" for k in range(8)])
    gap = noise()
    paths = write_series(
        tmp_path / "study",
        gap,
        GRID,
        uid=second,
        modality="MR",
        names=[f"b{k}" for k in range(8)],
        SeriesDescription="T1",
    )
    write_enhanced(tmp_path / "study/deeper/c.dcm", noise(seed=3), GRID)
    paths[3].unlink()
    report = inspect([tmp_path], voxels=True)
    rows = {scan.series.uid: scan for scan in report.scans if scan.series}
    assert len(rows) == len(report.scans) == 3
    assert rows[first].readable
    assert rows[first].modality == "CT"
    assert rows[first].voxels is not None
    assert (rows[second].modality, str(rows[second].series)) == ("MR", f"{second} (MR, 7 images, T1)")
    assert not rows[second].readable
    assert rows[second].errors[0].startswith("1 slice is missing")
    reported = json.dumps(report.as_json()) + str(tabulate(report)) + str(list_errors(report)) + str(list_notes(report))
    assert "Doe" not in reported
    assert "4711" not in reported
    assert "no Hounsfield units" in reported


def test_a_series_that_is_copied_under_another_uid_is_reported(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_series(tmp_path, noise(), GRID, names=[f"{name}{k}" for k in range(8)])
    first, second = inspect([tmp_path], voxels=True).scans
    assert [line for line in second.notes if "same voxels" in line] == [
        f"has the same voxels as {tmp_path} (series {first.series and first.series.uid})"
    ]


def test_loose_files_are_a_row_each_and_a_label_map_belongs_to_its_scan(tmp_path: Path) -> None:
    scan = save(tmp_path / "in/ct.nii.gz", phantom().astype(np.int16))
    (tmp_path / "in/text.nii").write_text("no scan")
    volume = read_volume(scan)
    labels = (phantom() > 0).astype(np.uint8)
    write_label_map(tmp_path / "in/ct_seg.nii.gz", labels, volume.grid, volume.header)
    report = inspect([tmp_path, tmp_path / "gone.nii"], voxels=True)
    found = {scan.path.name: scan for scan in report.scans}
    assert found["ct.nii.gz"].errors == found["ct_seg.nii.gz"].errors == ()
    assert found["ct_seg.nii.gz"].role == "label"
    assert found["ct_seg.nii.gz"].voxels is not None
    assert found["ct_seg.nii.gz"].voxels.values == {0: int((labels == 0).sum()), 1: int(labels.sum())}
    assert not found["text.nii"].readable
    assert found["gone.nii"].errors[0].startswith("no such file")
    assert not report.ok

    write_label_map(tmp_path / "in/ct_seg.nii.gz", labels[1:], Grid(labels[1:].shape, np.eye(4)), None)
    headers = {scan.path.name: scan for scan in inspect([tmp_path]).scans}
    assert headers["ct_seg.nii.gz"].errors == ("label map of 19×20×10 voxels for a scan of 20×20×10",)
    assert inspect([scan]).ok


def test_constant_scans_and_slices_are_remarked(tmp_path: Path) -> None:
    padded = noise("float32")
    padded[:, :, :3] = 0
    save(tmp_path / "padded.nii.gz", padded)
    save(tmp_path / "zero.nii.gz", np.zeros(SHAPE, np.float32))
    save(tmp_path / "labels.nii.gz", np.where(padded > 50, 1, 0).astype(np.uint8))
    labels, one, two = inspect([tmp_path], voxels=True).scans
    assert labels.notes == ()  # in a label map that is as it should be
    assert one.notes == ("3 of 8 slices along the third axis hold one value each",)
    assert two.notes == ("every voxel holds 0",)


def test_a_call_without_any_scan_is_refused(tmp_path: Path) -> None:
    for paths in ([], [tmp_path]):
        with pytest.raises(UsageError):
            inspect(paths)
    (tmp_path / "dataset.json").write_text("{")
    report = inspect([tmp_path])  # something is there, but damaged
    assert not report.ok
    assert "cannot be read as JSON" in list_errors(report)[0]


def test_the_json_keeps_its_schema(tmp_path: Path) -> None:
    root = make_dataset(tmp_path / "set", good=keep, nan=lambda image, label: (image * np.float32(np.nan), label))
    save(tmp_path / "loose.nrrd", noise("uint8"))
    for voxels in (False, True):
        content = json.loads(json.dumps(inspect([tmp_path], voxels=voxels).as_json(), allow_nan=False))
        assert content.keys() == {"tomoseg", "ok", "voxels_read", "scans", "datasets", "notes"}
        assert content["ok"] is not voxels
        (scan,), (dataset,) = content["scans"], content["datasets"]
        assert (scan["shape"], scan["spacing_mm"], scan["orientation"]) == ([6, 7, 8], [1.5, 1.5, 3.0], "RAS")
        assert (scan["format"], scan["dtype"], scan["readable"]) == ("NRRD", "uint8", True)
        assert dataset["path"] == str(root)
        assert dataset["counts"] == {"training": 2, "validation": 0, "test": 0}
        assert dataset["images"]["orientations"] == {"RAS": 2}
        assert dataset["images"]["spacing_mm"]["median"] == [1.5, 1.5, 3.0]
        assert [case["ok"] for case in dataset["cases"]] == [True, not voxels]
        assert (scan["voxels"] is not None) == bool(dataset["labels"]) == voxels


def test_tables_have_a_row_for_each_scan_and_each_label(tmp_path: Path) -> None:
    make_dataset(tmp_path / "set", **{f"case{index}": keep for index in range(9)})
    save(tmp_path / "[loose].nii", noise())
    report = inspect([tmp_path], voxels=True)
    scans, dataset, labels = tabulate(report)
    assert [row[1] for row in scans.rows] == [str(tmp_path / "[loose].nii")]
    assert ("cases", "9 training") in dataset.rows
    assert [row[1] for row in labels.rows] == ["vessel", "bone", "stent"]
    for table in (scans, dataset, labels):
        assert {len(row) for row in table.rows} == {len(table.columns)}
    many = [line for line in list_notes(report) if "same voxels" in line]
    assert len(many) == 2  # two that repeat others; alike notes share a line
    assert list_errors(report) == []


def test_one_scan_at_a_time_is_in_memory(tmp_path: Path) -> None:
    large = (64, 64, 64)
    for number in range(6):
        save(tmp_path / f"{number}.nii", noise("float32", large, number))
    inspect([tmp_path / "0.nii"], voxels=True)  # imports
    tracemalloc.start()
    try:
        inspect([tmp_path], voxels=True)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 * 4 * 64**3


def test_neither_torch_nor_monai_is_imported(tmp_path: Path) -> None:
    save(tmp_path / "a.nii", noise())
    code = (
        "import sys; from tomoseg.data.inspection.inspection_report import inspect; "
        "from tomoseg.data.inspection.tables import tabulate; "
        f"tabulate(inspect([{str(tmp_path)!r}], voxels=True)); "
        "print({name.partition('.')[0] for name in sys.modules} & {'torch', 'monai', 'ignite'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_real_datasets_have_no_problems(hippocampus_data: Path) -> None:
    report: InspectionReport = inspect([hippocampus_data])
    assert report.ok
    (dataset,) = report.datasets
    assert dataset.count("training") == 208
    assert list_notes(report) == []
