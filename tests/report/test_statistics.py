"""Volumes, intensities and boxes of labels equal those that plain numpy finds, and outliers those of the formula."""

from __future__ import annotations

import tracemalloc
from typing import Any

import hypothesis.extra.numpy as npst
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tomoseg.report import statistics
from tomoseg.report.html.findings import find_outliers
from tomoseg.report.records import LabelVolume
from tomoseg.report.statistics import measure_labels

SHAPES = npst.array_shapes(min_dims=3, max_dims=3, min_side=1, max_side=9)
FLOATS = st.floats(width=32)
VOXEL_ML = 0.5


def measure(labels: np.ndarray, values: tuple[int, ...], scan: np.ndarray | None = None) -> tuple[LabelVolume, ...]:
    return measure_labels(labels, {value: f"label {value}" for value in values}, VOXEL_ML, scan)


def oracle(value: int, mask: np.ndarray, scan: np.ndarray | None) -> LabelVolume:
    """Measure one label the plain way."""
    places = np.argwhere(mask)
    if not len(places):
        return LabelVolume(value, f"label {value}", 0, 0.0)
    values = np.empty(0) if scan is None else scan[mask].astype(np.float64)
    values = values[np.isfinite(values)]
    first, last = places.min(axis=0), places.max(axis=0)
    return LabelVolume(
        label=value,
        name=f"label {value}",
        voxels=len(places),
        volume_ml=len(places) * VOXEL_ML,
        mean=float(values.mean()) if len(values) else None,
        sd=float(values.std()) if len(values) else None,
        first=tuple(first.tolist()),
        stop=tuple((last + 1).tolist()),
        touches_border=bool((first == 0).any() or (last == np.array(mask.shape) - 1).any()),
    )


def assert_same(found: LabelVolume, wanted: LabelVolume) -> None:
    scale = 1e-9 * max(abs(wanted.mean or 0), wanted.sd or 0, 1e-30)
    assert found.mean == (wanted.mean if wanted.mean is None else pytest.approx(wanted.mean, rel=1e-9, abs=scale))
    assert found.sd == (wanted.sd if wanted.sd is None else pytest.approx(wanted.sd, rel=1e-6, abs=scale))
    plain = ("label", "name", "voxels", "volume_ml", "first", "stop", "touches_border")
    assert [getattr(found, name) for name in plain] == [getattr(wanted, name) for name in plain]


def turned(array: np.ndarray, order: list[int]) -> np.ndarray:
    """Return the same array, stored in memory with its axes in this order."""
    stored: np.ndarray = np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))
    return stored


@st.composite
def label_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    shape = draw(SHAPES)
    dtype = draw(st.sampled_from((np.uint8, np.uint16)))
    # few values in large areas, as labels are, and some of them beyond those that are asked for
    labels = draw(npst.arrays(dtype, shape, elements=st.integers(0, 6), fill=st.just(0)))
    scan = draw(npst.arrays(np.float32, shape, elements=FLOATS))
    return turned(labels, draw(st.permutations([0, 1, 2]))), turned(scan, draw(st.permutations([0, 1, 2])))


@given(label_maps(), st.sampled_from((1, 7, statistics.SLAB_VOXELS)), st.booleans())
@settings(deadline=None)
def test_labels_are_measured_as_numpy_does(arrays: tuple[np.ndarray, np.ndarray], slab: int, with_scan: bool) -> None:
    labels, scan = arrays
    image = scan if with_scan else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "SLAB_VOXELS", slab)
        found = measure(labels, (1, 2, 4), image)
    for value, one in zip((1, 2, 4), found, strict=True):
        assert_same(one, oracle(value, labels == value, image))


@given(label_maps(), st.sampled_from((1, 7, statistics.SLAB_VOXELS)))
@settings(deadline=None)
def test_labels_that_overlap_are_measured_one_by_one(arrays: tuple[np.ndarray, np.ndarray], slab: int) -> None:
    labels, scan = arrays
    stacked = np.stack([labels > 0, labels > 3, labels % 2]).astype(labels.dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(statistics, "SLAB_VOXELS", slab)
        found = measure(stacked, (1, 2, 3), scan)
    for value, one in zip((1, 2, 3), found, strict=True):
        assert_same(one, oracle(value, stacked[value - 1] != 0, scan))


def test_the_sd_is_exact_far_from_zero() -> None:
    """A sum of squares would lose all of it: float64 holds 16 digits."""
    labels = np.ones((30, 30, 30), np.uint8)
    labels[15:] = 2
    scan = np.full(labels.shape, 1e9, np.float32)
    scan[:15, ::2] += 64
    found = measure(labels, (1, 2), scan)
    assert [(one.mean, one.sd) for one in found] == [(1e9 + 32, 32), (1e9, 0)]


def test_memory_does_not_grow_with_the_volume() -> None:
    labels = np.zeros((120, 256, 256), np.uint8)
    labels[10:110, 30:200, 50:180] = 3
    scan = np.zeros(labels.shape, np.float32)
    peaks: list[int] = []
    for size in (60, 120):
        tracemalloc.start()
        measure(labels[:size], (1, 2, 3), scan[:size])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.2
    assert peaks[1] < 64 * statistics.SLAB_VOXELS


def test_a_scan_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a scan of shape \(2, 3, 4\), as the labels have, got \(2, 3, 5\)"):
        measure(np.zeros((2, 3, 4), np.uint8), (1,), np.zeros((2, 3, 5), np.float32))
    assert measure(np.ones((2, 3, 4), np.uint8), ()) == ()


def flags(volumes: Any) -> list[bool]:
    usual = find_outliers(volumes)
    assert usual is not None
    return [bool(flag) for flag in usual.outliers]


@given(st.lists(st.floats(0.5, 1000), min_size=8, max_size=60), st.floats(0.01, 100))
def test_outliers_are_those_of_the_formula(volumes: list[float], factor: float) -> None:
    array = np.array(volumes)
    deviations = np.abs(array - np.median(array))
    if np.median(deviations) > 1e-3:  # else the spread is another
        wanted = deviations > 3.5 * 1.4826 * np.median(deviations)
        assert flags(volumes) == wanted.tolist()
        # in each unit, except just at the limit
        clear = np.abs(deviations / (3.5 * 1.4826 * np.median(deviations)) - 1) > 1e-6
        assert (np.array(flags(array * factor)) == wanted)[clear].all()


def test_an_absent_label_stands_out_where_most_others_have_it() -> None:
    assert flags([0, *[10, 90, 40, 60, 30, 70, 50]]) == [True] + [False] * 7  # not by its volume
    assert flags([0, 0, 0, 0, 0, 5, 6, 7]) == [False] * 8
    assert flags([0, 0, 0, 0, 0, 0, 0, 7]) == [False] * 8


def test_few_scans_tell_nothing() -> None:
    assert find_outliers([1, 1, 1, 1, 1, 1, 100]) is None


def test_copies_of_one_scan_do_not_hide_another() -> None:
    """Their median absolute deviation is 0, and what rounding does to them is nothing."""
    assert flags([1.0] * 8 + [1.0 + 1e-9, 1.4]) == [False] * 9 + [True]
    assert flags([1.0] * 8) == [False] * 8


def test_what_is_usual_lies_on_both_sides_of_the_median() -> None:
    volumes = [9.0, 10.0, 11.0, 10.0, 12.0, 8.0, 10.5, 9.5, 30.0]
    usual = find_outliers(volumes)
    assert usual is not None
    low, high = usual.range_ml
    assert usual.median_ml == 10
    assert [not low <= volume <= high for volume in volumes] == usual.outliers.tolist() == [False] * 8 + [True]
