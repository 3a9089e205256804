"""A fingerprint is that of the patients, however their scans are stored."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.strategies import orientations
from support.trainings import phantom, write_dataset
from tomoseg import Grid, Volume
from tomoseg.data.datasets import read_dataset
from tomoseg.planning.fingerprint import CasePrint, print_case, take_fingerprint


def volumes(codes: str, spacing: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> tuple[Volume, Volume]:
    image, label = phantom(0)
    turn = nib.orientations.ornt_transform(nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(codes))
    pair = []
    for array in (image, label):
        turned = nib.Nifti1Image(array.astype(np.float32), np.diag([*spacing, 1.0])).as_reoriented(turn)
        voxels = np.asarray(turned.dataobj, dtype=np.float32)
        pair.append(Volume(voxels, Grid(voxels.shape, turned.affine), "phantom"))
    return pair[0], pair[1]


@settings(max_examples=15, deadline=None)
@given(codes=orientations())
def test_it_does_not_depend_on_the_order_of_the_axes(codes: str) -> None:
    straight = print_case(*volumes("RAS"), {1, 2})
    turned = print_case(*volumes(codes), {1, 2})
    assert (turned.shape, turned.spacing_mm) == (straight.shape, straight.spacing_mm) == ((22, 24, 18), (1, 2, 3))
    for value in (1, 2):
        assert turned.labels[value].voxels == straight.labels[value].voxels
        np.testing.assert_allclose(turned.labels[value].centre_mm, straight.labels[value].centre_mm, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(low=st.floats(-1000, 0), width=st.floats(1, 3000))
def test_intensities_are_those_of_the_foreground(low: float, width: float) -> None:
    image, label = volumes("RAS")
    label.array[:] = 0
    label.array[2:8] = 1
    image.array[:] = -5000
    image.array[2:8] = np.linspace(low, low + width, image.array[2:8].size).reshape(image.array[2:8].shape)
    found: CasePrint = print_case(image, label, {1})
    assert found.intensities.min() == pytest.approx(low, abs=0.01)
    assert found.intensities.max() == pytest.approx(low + width, abs=0.01)


def test_a_dataset_in_numbers(tmp_path: Path) -> None:
    dataset = read_dataset(write_dataset(tmp_path / "data", 5, partial=True, validation=1))
    taken = take_fingerprint(dataset, dataset.label_names)
    assert (taken.cases, taken.validation_cases, taken.partial) == (5, 1, True)
    assert taken.median_shape == (22, 24, 18)
    front, back = taken.labels
    assert (front.cases, front.annotated) == (6, 6)
    assert (back.cases, back.annotated) == (3, 3)
    assert 0.9 < taken.intensity_mean < 2
    assert "case_" not in str(taken.as_json()), "a bundle names no patient"


def test_volumes_are_those_of_labels_that_were_drawn_and_are_whole(tmp_path: Path) -> None:
    dataset = read_dataset(write_dataset(tmp_path / "data", 14, partial=True))
    balls = {pair.name: phantom(int(pair.name[-2:]))[1] for pair in dataset.pairs}
    front = [int((label == 1).sum()) / 1000 for label in balls.values()]
    back = [int((label == 2).sum()) / 1000 for name, label in balls.items() if int(name[-2:]) % 2 == 0]
    first, second = take_fingerprint(dataset, dataset.label_names).labels
    assert (first.low_ml, first.high_ml) == pytest.approx(np.percentile(front, [5, 95]), rel=1e-5)
    assert (second.low_ml, second.high_ml) == pytest.approx(np.percentile(back, [5, 95]), rel=1e-5)
    path = dataset.pairs[0].label
    image = nib.load(path)
    label = np.asarray(image.dataobj).copy()
    label[:2, 10:14, 8:10] = 1  # it reaches the border now, and is the largest
    nib.save(nib.Nifti1Image(label, image.affine), path)
    for pair in dataset.pairs[1:3]:  # absent in 2 of 14, though it was to be drawn
        empty = np.asarray(nib.load(pair.label).dataobj).copy()
        empty[empty == 1] = 0
        nib.save(nib.Nifti1Image(empty, image.affine), pair.label)
    first, _ = take_fingerprint(dataset, dataset.label_names).labels
    assert (first.low_ml, first.high_ml) == pytest.approx((0, np.percentile(front[3:], 95)), rel=1e-5)
    few = read_dataset(write_dataset(tmp_path / "few", 4))
    assert {label.high_ml for label in take_fingerprint(few, few.label_names).labels} == {None}
