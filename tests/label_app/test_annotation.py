"""Labels that clients send, brought onto their image's grid and matched by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tomoseg import Grid, Volume
from tomoseg.bundle.registry import find_bundle
from tomoseg.core.errors import TomosegError, UsageError, VolumeError
from tomoseg.data.labels import Label, unnamed
from tomoseg.data.nifti import write_label_map, write_map
from tomoseg.data.nrrd_segmentation import write_nrrd_segmentation
from tomoseg.data.read import read_volume
from tomoseg.inference.localisation.locator import Locator
from tomoseg.label_app.datastore.annotation import Annotation, ExpectedLabels, read_annotation
from tomoseg.label_app.served_labels import ServedLabels
from tomoseg.label_app.trainers.training_cases import Annotated, prepare_cases

GRID = Grid((7, 8, 9), np.array([[-1.5, 0, 0, 10], [0, 0, 2, -20], [0, 1, 0, 5], [0, 0, 0, 1]]))
IMAGE = Volume(np.random.default_rng(0).random(GRID.shape, np.float32), GRID, "image")
LABELS = np.random.default_rng(1).integers(0, 4, GRID.shape).astype(np.uint8)
INFO: list[dict[str, Any]] = [{"name": "One", "idx": 1}, {"name": "two", "idx": 2}, {"name": "three", "idx": 3}]


def test_all_formats_are_the_same(tmp_path: Path) -> None:
    table = [Label(value, entry["name"], (1, 2, 3)) for value, entry in enumerate(INFO, 1)]
    write_label_map(tmp_path / "a.nii.gz", LABELS, GRID, None)
    write_nrrd_segmentation(tmp_path / "b.seg.nrrd", LABELS, GRID, table)
    write_nrrd_segmentation(tmp_path / "c.nrrd", LABELS, GRID, table, compress=False)
    LABELS.ravel(order="F").tofile(tmp_path / "d.bin")
    for name in ("a.nii.gz", "b.seg.nrrd", "c.nrrd", "d.bin"):
        annotation = read_annotation(tmp_path / name, IMAGE, INFO)
        np.testing.assert_array_equal(annotation.labels, LABELS)
        assert annotation.names == {1: "one", 2: "two", 3: "three"}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_box_around_the_segments_is_enough(tmp_path: Path, data: Any) -> None:
    """3D Slicer saves only that."""
    starts = [data.draw(st.integers(0, size - 2)) for size in GRID.shape]
    stops = [data.draw(st.integers(start + 2, size)) for start, size in zip(starts, GRID.shape, strict=True)]
    box = tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))
    affine = GRID.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ starts
    table = [unnamed(value) for value in (1, 2, 3)]
    path = tmp_path / "box.seg.nrrd"
    write_nrrd_segmentation(path, np.ascontiguousarray(LABELS[box]), Grid(LABELS[box].shape, affine), table)
    expected = np.zeros_like(LABELS)
    expected[box] = LABELS[box]
    np.testing.assert_array_equal(read_annotation(path, IMAGE, None).labels, expected)


def test_slicer_counts_segments_that_it_does_not_export(tmp_path: Path) -> None:
    path = tmp_path / "label.nii.gz"
    write_label_map(path, np.minimum(LABELS, 2), GRID, None)
    info = [{"name": "background", "idx": 1}, {"name": "two", "idx": 2}, {"name": "one", "idx": 3}]
    assert read_annotation(path, IMAGE, info).names == {1: "two", 2: "one"}


@pytest.mark.parametrize(
    ("labels", "grid", "info", "message"),
    [
        (LABELS[:5], Grid((5, 8, 9), np.eye(4)), None, "expected labels on the image's grid"),
        (np.zeros((8, 8, 9), np.uint8), Grid((8, 8, 9), GRID.affine), None, "expected labels on the image's grid"),
        (LABELS, GRID, INFO[:2], r"expected a name for each label, got none for \[3\]"),
        (LABELS, GRID, [{"idx": 1}], "label_info: expected a list of name and idx"),
    ],
)
def test_what_does_not_fit_is_refused(labels: Any, grid: Grid, info: Any, message: str, tmp_path: Path) -> None:
    path = tmp_path / "label.nii.gz"
    write_label_map(path, labels, grid, None)
    with pytest.raises(TomosegError, match=message):
        read_annotation(path, IMAGE, info)
    (tmp_path / "short.bin").write_bytes(b"abc")
    with pytest.raises(VolumeError, match="expected 504 bytes"):
        read_annotation(tmp_path / "short.bin", IMAGE, None)


HIPPOCAMPUS, NECK = {"anterior": 1, "left anterior": 1, "posterior": 2}, {"mandible": 1}
# names by value, each of them drawn; the error
SUBMITTED: dict[str, tuple[dict[int, str], str]] = {
    "all of a bundle": ({1: "Anterior", 2: "posterior"}, ""),
    "all of another": ({1: "mandible"}, ""),
    "of a whole head": ({1: "left_anterior", 2: "posterior"}, ""),
    "numbers alone": ({}, ""),
    "nothing drawn": ({7: "anterior"}, "image one: the annotation is empty. Draw a label"),
    "a name of Slicer's": ({1: "Segment_1", 2: "posterior"}, "segment 1 is no label of a bundle. Name it one of a"),
    "a structure is missing": ({1: "anterior"}, "image one: posterior is missing. Draw it, or start the server"),
}  # fmt: skip


@pytest.mark.parametrize("name", SUBMITTED)
def test_what_is_submitted_has_the_labels_of_a_bundle(name: str) -> None:
    names, wrong = SUBMITTED[name]
    labels = np.zeros((2, 2, 2), np.uint16)
    if 7 not in names:
        labels[0, 0, : max(len(names), 1)] = list(names) or [1]
    annotation = Annotation(labels, names)
    expected = ExpectedLabels([HIPPOCAMPUS, NECK])
    if not wrong:
        expected.require(annotation, "one")
        return
    with pytest.raises(UsageError) as caught:
        expected.require(annotation, "one")
    assert wrong in str(caught.value)
    if labels.any():
        ExpectedLabels([HIPPOCAMPUS, NECK], accept_unknown=True).require(annotation, "one")


def test_pairs_for_training_have_the_bundles_own_values(tmp_path: Path) -> None:
    bundle = find_bundle("hippocampus")
    labels = ServedLabels.of(bundle)
    image = tmp_path / "image #1.nii.gz"
    write_map(image, IMAGE.array, GRID, None)
    swapped = tmp_path / "swapped.nii.gz"
    write_label_map(swapped, LABELS, GRID, None)
    info = [{"name": "posterior", "idx": 1}, {"name": "Anterior", "idx": 2}, {"name": "vessel", "idx": 3}]
    (tmp_path / "cut.nii.gz").write_bytes(image.read_bytes()[:100])
    pairs = [
        Annotated("good", image, swapped, info),
        Annotated("cut", tmp_path / "cut.nii.gz", swapped, info),
        Annotated("plain", image, swapped, None),
        Annotated("foreign", image, swapped, [{"name": f"vessel {n}", "idx": n} for n in (1, 2, 3)]),
    ]
    (tmp_path / "cases").mkdir()
    cases, errors = prepare_cases(pairs, labels, Locator(bundle), tmp_path / "cases")
    assert len(cases) == 2
    np.testing.assert_array_equal(read_volume(cases[0].label).array, np.array([0, 2, 1, 0])[LABELS])
    np.testing.assert_array_equal(read_volume(cases[1].label).array, np.array([0, 1, 2, 0])[LABELS])
    np.testing.assert_array_equal(read_volume(cases[0].image).array, IMAGE.array)
    assert [line.partition(":")[0] for line in errors] == ["good", "cut", "foreign", "foreign"]
    assert errors[0] == "good: vessel is no label of the bundle; its voxels become background"
    with pytest.raises(UsageError, match="expected annotated images to train with, got none"):
        prepare_cases([], labels, Locator(bundle), tmp_path / "cases")
