"""The CT bundle on scans that it was not trained on: organs, their sides, their names, and nothing in an abdomen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from pydicom import dcmread

from support.bundles import dice, voxels
from support.cts import finer
from support.dicom_results import rasterise, read_by_hand
from support.dicoms import write_series
from support.head_neck import HELD_OUT, LEFT, NAME, RIGHT, ROI_NAMES, middle, scan
from support.slices import read_slices
from support.trainings import tomoseg
from tomoseg import Grid, Segmenter, find_bundle, read_volume


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_bundle(NAME, device="cpu")


def expert(data: Path, case: str) -> NDArray[Any]:
    return voxels(nib.load(data / "labelsTr" / f"{case}.nii.gz"))


@pytest.mark.slow
def test_it_finds_what_was_contoured_on_scans_that_it_has_not_seen(segmenter: Segmenter, head_neck_data: Path) -> None:
    scores = []
    for case in HELD_OUT:
        truth, labels = expert(head_neck_data, case), segmenter(scan(head_neck_data, case)).labels
        scores += [dice(labels, truth, value) for value in ROI_NAMES if (truth == value).any()]
    assert len(scores) >= 12
    assert np.mean(scores) > 0.7
    assert min(scores) > 0.3


@pytest.mark.slow
def test_sides_are_the_patients_with_any_axes_and_in_a_mirrored_patient(
    segmenter: Segmenter, head_neck_data: Path
) -> None:
    image = scan(head_neck_data, HELD_OUT[0])
    mirrored = nib.Nifti1Image(np.ascontiguousarray(voxels(image)[::-1]), image.affine)
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(tuple("SPL")))
    )
    for one in (mirrored, turned):
        result = segmenter(one)
        right, left = (middle(result.labels == value, one.affine)[0] for value in (RIGHT, LEFT))
        assert right - left > 60, "mm; x runs to the right"


@pytest.mark.exhaustive  # of the weights, which seldom change
def test_a_scan_as_fine_as_in_use_has_the_same_organs_with_smooth_borders(
    segmenter: Segmenter, head_neck_data: Path
) -> None:
    coarse = scan(head_neck_data, HELD_OUT[0])
    fine = finer(coarse, (1.0, 1.0, 2.0))
    labels = segmenter(fine).labels
    assert labels.shape == fine.shape
    back = resample_from_to(nib.Nifti1Image(labels, fine.affine), coarse, order=0)
    straight = segmenter(coarse).labels
    for value in ROI_NAMES:
        assert dice(voxels(back), straight, value) > 0.9


@pytest.mark.slow
def test_an_abdomen_has_next_to_nothing_and_a_warning(ct_abdomen: Path, tmp_path: Path) -> None:
    done = tomoseg("segment", ct_abdomen, "-o", tmp_path / "out", "-b", NAME, "--device", "cpu", "--strict")
    assert done.returncode == 1
    (case,) = json.loads((tmp_path / "out" / "report.json").read_text())["cases"]
    assert sum(label["volume_ml"] for label in case["labels"]) < 5
    assert case["warnings"]


def test_air_and_water_have_nothing(segmenter: Segmenter) -> None:
    array = np.full((90, 90, 80), -1000, np.float32)
    for water in (False, True):
        if water:
            array[20:70, 30:60] = 0
        result = segmenter(nib.Nifti1Image(array, np.diag([4.0, 4.0, 3.0, 1.0])))
        assert np.count_nonzero(result.labels) * result.grid.voxel_volume_ml < 5


@pytest.mark.exhaustive  # the writers are tested with smaller scans, too
def test_a_series_becomes_structures_with_the_names_of_radiotherapy(head_neck_data: Path, tmp_path: Path) -> None:
    """From CT to RTSTRUCT and DICOM-SEG as a department would do it, read back on the voxels of the series."""
    image = scan(head_neck_data, HELD_OUT[0]).as_reoriented(np.array([[0, -1], [1, -1], [2, 1]]))  # axial, LPS
    write_series(
        tmp_path / "series", np.round(voxels(image)).astype(np.int16), Grid(image.shape, image.affine), modality="CT"
    )
    outputs = {"nifti": "labels.nii.gz", "rtstruct": "rtstruct.dcm", "dicom-seg": "seg.dcm"}
    for kind, name in outputs.items():
        done = tomoseg(
            "segment", tmp_path / "series", "-o", tmp_path / name, "-b", NAME, "--device", "cpu", "--output-type", kind
        )
        assert done.returncode == 0, done.stderr
    series = read_volume(tmp_path / "series").series
    assert series is not None
    assert len(read_slices(series)) == image.shape[2]
    labels = voxels(nib.load(tmp_path / outputs["nifti"]))
    structures, segments = (dcmread(tmp_path / outputs[kind]) for kind in ("rtstruct", "dicom-seg"))
    assert {region.ROINumber: region.ROIName for region in structures.StructureSetROISequence} == ROI_NAMES
    contoured = list(rasterise(structures, series))
    assert {number for number, _ in contoured} == set(ROI_NAMES)
    for number, counts in contoured:
        np.testing.assert_array_equal(counts % 2 == 1, labels == number)
    found = read_by_hand(segments, series)
    assert set(found) == set(ROI_NAMES)
    for number, mask in found.items():
        np.testing.assert_array_equal(mask, labels == number)
    table = find_bundle(NAME).label_table
    for segment in segments.SegmentSequence:
        (code,) = segment.SegmentedPropertyTypeCodeSequence
        label = table[segment.SegmentNumber]
        assert (code.CodeValue, code.CodingSchemeDesignator) == (label.kind.value, "SCT")


def test_each_organ_has_codes_a_side_and_a_plausible_volume() -> None:
    table = {value: label for value, label in find_bundle(NAME).label_table.items() if value}
    assert {value: label.roi_name for value, label in table.items()} == ROI_NAMES
    for label in table.values():
        assert label.kind.scheme == "SCT"
        assert label.volume_ml is not None
    sides = {value: label.side.meaning for value, label in table.items() if label.side}
    assert sides == {RIGHT: "Right", LEFT: "Left"}
