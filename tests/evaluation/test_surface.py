"""Surface distances equal MONAI's in each algorithm, and do not depend on how a volume is stored."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from scipy.ndimage import gaussian_filter
from scipy.spatial.distance import cdist

from support.strategies import ORIENTATIONS, grids, orientations
from support.tiers import examples
from tomoseg.evaluation.surface import SurfaceScores, find_surface, measure_distances, score_surfaces

SPACINGS = st.tuples(*[st.floats(0.3, 4)] * 3)


@st.composite
def blobs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two masks of noise: dense or sparse, smooth or not, alike or not, up to the rim of the volume."""
    shape = tuple(draw(st.integers(1, 14)) for _ in range(3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    sigma = draw(st.sampled_from((0.0, 1.0, 2.0)))
    fields = [gaussian_filter(random.standard_normal(shape), sigma) for _ in range(2)]
    share = draw(st.sampled_from((5, 50, 95)))
    prediction = fields[0] > np.percentile(fields[0], 100 - share)
    mixed = 0.9 * fields[0] + 0.1 * fields[1] if draw(st.booleans()) else fields[1]
    reference = mixed > np.percentile(mixed, 100 - draw(st.sampled_from((5, 50, 95))))
    assume(prediction.any() and reference.any())
    return prediction, reference


def monai(prediction: np.ndarray, reference: np.ndarray, spacing: Any, tolerance_mm: float) -> SurfaceScores:
    ours, theirs = (torch.from_numpy(np.ascontiguousarray(mask))[None, None] for mask in (prediction, reference))
    how = {"include_background": True, "spacing": tuple(spacing)}
    return SurfaceScores(
        hd95_mm=float(compute_hausdorff_distance(ours, theirs, percentile=95, **how)),
        assd_mm=float(compute_average_surface_distance(ours, theirs, symmetric=True, **how)),
        nsd=float(compute_surface_dice(ours, theirs, class_thresholds=[tolerance_mm], **how)),
    )


def assert_close(found: SurfaceScores, wanted: SurfaceScores, mm: float = 1e-4) -> None:
    assert found.hd95_mm == pytest.approx(wanted.hd95_mm, abs=mm, nan_ok=True)
    assert found.assd_mm == pytest.approx(wanted.assd_mm, abs=mm, nan_ok=True)
    assert found.nsd == pytest.approx(wanted.nsd, abs=1e-6, nan_ok=True)


def between_distances(prediction: np.ndarray, reference: np.ndarray, affine: np.ndarray) -> float:
    """Return a tolerance that no distance comes close to, where rounding would decide."""
    found = measure_distances(prediction, reference, affine)
    values = np.unique(np.concatenate([*found, [0.0]]))
    gaps = np.diff(np.append(values, values[-1] + 1))
    widest = int(gaps[: len(gaps) // 2 + 1].argmax())
    assume(gaps[widest] > 1e-2)
    return float(values[widest] + gaps[widest] / 2)


@given(blobs(), SPACINGS)
@settings(deadline=None, max_examples=examples(120))
def test_scores_are_monais(pair: tuple[np.ndarray, np.ndarray], spacing: tuple[float, float, float]) -> None:
    affine = np.diag([*spacing, 1.0])
    tolerance = between_distances(*pair, affine)
    assert_close(score_surfaces(*pair, affine, tolerance), monai(*pair, spacing, tolerance))


@pytest.mark.parametrize("empty", [(0,), (1,), (0, 1)])
def test_nothing_is_as_documented(empty: tuple[int, ...]) -> None:
    """MONAI says the same but for the HD95 of one empty mask, which it calls NaN: it has no percentile one way."""
    pair = [np.zeros((5, 6, 7), np.bool_) for _ in range(2)]
    for index in {0, 1} - set(empty):
        pair[index][2:4, 2:4, 2:4] = True
    found = score_surfaces(pair[0], pair[1], np.eye(4), 1.0)
    with pytest.warns(UserWarning, match="is all 0"):
        wanted = monai(pair[0], pair[1], (1, 1, 1), 1.0)
    if len(empty) == 2:
        assert all(math.isnan(value) for value in (found.hd95_mm, found.assd_mm, found.nsd))
        assert all(math.isnan(value) for value in (wanted.hd95_mm, wanted.assd_mm, wanted.nsd))
    else:
        assert found == SurfaceScores(math.inf, math.inf, 0.0)
        assert (wanted.assd_mm, wanted.nsd) == (math.inf, 0.0)


@given(blobs(), SPACINGS)
@settings(deadline=None)
def test_neither_side_is_the_better(pair: tuple[np.ndarray, np.ndarray], spacing: tuple[float, float, float]) -> None:
    affine = np.diag([*spacing, 1.0])
    assert_close(score_surfaces(*pair, affine, 1.5), score_surfaces(*pair[::-1], affine, 1.5), 1e-9)
    itself = score_surfaces(pair[0], pair[0], affine, 0.0)
    assert itself == SurfaceScores(0.0, 0.0, 1.0)


@given(blobs(), grids(), orientations(), orientations())
@settings(deadline=None)
def test_the_orientation_changes_nothing(pair: tuple[np.ndarray, np.ndarray], grid: Any, start: str, stop: str) -> None:
    """Oblique and anisotropic grids, turned and mirrored."""
    turn = ornt_transform(axcodes2ornt(tuple(start)), axcodes2ornt(tuple(stop)))
    turned: Any = [apply_orientation(mask, turn) for mask in pair]
    axes = np.empty((3, 3))
    for axis, (target, direction) in enumerate(turn.astype(int)):
        axes[:, target] = grid.affine[:3, axis] * direction
    assert_close(score_surfaces(turned[0], turned[1], axes, 1.5), score_surfaces(*pair, grid.affine, 1.5), 1e-5)


def test_all_48_orientations_of_one_pair() -> None:
    random = np.random.default_rng(3)
    field = gaussian_filter(random.standard_normal((20, 14, 9)), 2)
    pair = field > 0, np.roll(field, 1, axis=0) > 0.01
    spacing = np.array([0.7, 1.1, 3.0])
    wanted = score_surfaces(*pair, np.diag(spacing), 1.0)
    assert len(ORIENTATIONS) == 48
    for codes in ORIENTATIONS:
        turn = ornt_transform(io_orientation(np.eye(4)), axcodes2ornt(tuple(codes)))
        masks: Any = [apply_orientation(mask, turn) for mask in pair]
        lengths = np.empty(3)
        lengths[turn[:, 0].astype(int)] = spacing
        assert_close(score_surfaces(masks[0], masks[1], np.diag(lengths), 1.0), wanted, 1e-6)


@given(blobs(), SPACINGS, st.tuples(*[st.tuples(st.integers(0, 4), st.integers(0, 4))] * 3))
@settings(deadline=None)
def test_the_place_changes_nothing(
    pair: tuple[np.ndarray, np.ndarray], spacing: tuple[float, float, float], margin: tuple[tuple[int, int], ...]
) -> None:
    affine = np.diag([*spacing, 1.0])
    moved: Any = [np.pad(mask, margin) for mask in pair]
    assert_close(score_surfaces(moved[0], moved[1], affine, 1.5), score_surfaces(*pair, affine, 1.5), 1e-5)


@given(blobs(), SPACINGS, st.floats(0.2, 5))
@settings(deadline=None)
def test_distances_scale_with_the_spacing(
    pair: tuple[np.ndarray, np.ndarray], spacing: tuple[float, float, float], factor: float
) -> None:
    tolerance = between_distances(*pair, np.diag(spacing))
    found = score_surfaces(*pair, np.diag(spacing), tolerance)
    scaled = score_surfaces(*pair, np.diag(spacing) * factor, tolerance * factor)
    wanted = SurfaceScores(found.hd95_mm * factor, found.assd_mm * factor, found.nsd)
    assert_close(scaled, wanted, 1e-4)


@given(blobs(), st.floats(-0.6, 0.6), st.floats(-0.6, 0.6))
@settings(deadline=None, max_examples=examples(40))
def test_a_tilted_gantry_is_measured_in_the_patient(
    pair: tuple[np.ndarray, np.ndarray], tilt: float, other: float
) -> None:
    """Against every distance between two surface voxels."""
    axes = np.array([[0.8, 0.0, other], [0.0, 0.8, tilt], [0.0, 0.0, 2.5]])
    found = measure_distances(*pair, axes)
    ours, theirs = (np.argwhere(find_surface(mask)) @ axes.T for mask in pair)
    distances = cdist(ours, theirs)
    np.testing.assert_allclose(found[0], distances.min(axis=1), atol=1e-4)
    np.testing.assert_allclose(found[1], distances.min(axis=0), atol=1e-4)


def test_a_surface_is_what_touches_the_outside() -> None:
    """A cube has 5³ - 3³ voxels of surface, the rim of the volume included; a corner alone opens nothing."""
    cube = np.ones((5, 5, 5), np.bool_)
    assert np.count_nonzero(find_surface(cube)) == 98
    cube[0, 0, 0] = False
    assert not find_surface(cube)[1, 1, 1]
    cube[0, 2, 2] = False
    assert find_surface(cube)[1, 2, 2]


def test_a_distance_of_just_the_tolerance_is_within_it() -> None:
    """Three steps of 0.7 mm are 2.1 mm, though not in binary."""
    prediction, reference = np.zeros((8, 1, 1), np.bool_), np.zeros((8, 1, 1), np.bool_)
    prediction[1], reference[4] = True, True
    assert score_surfaces(prediction, reference, np.diag([0.7, 1, 1]), 2.1).nsd == 1
    assert score_surfaces(prediction, reference, np.diag([0.7, 1, 1]), 2.0).nsd == 0


def test_a_far_speck_costs_neither_time_nor_memory() -> None:
    """A transform would go through all 27 million voxels of the box."""
    reference = np.zeros((300, 300, 300), np.bool_)
    reference[20:60, 20:60, 20:60] = True
    prediction = reference.copy()
    prediction[299, 299, 299] = True
    found = measure_distances(prediction, reference, np.eye(4))
    assert found[0].max() == pytest.approx(math.sqrt(3) * 240)
    assert np.count_nonzero(found[0]) == 1


def test_it_is_five_times_as_fast_as_monai() -> None:
    """In CPU seconds, so that a busy machine does not decide; measured are about 30 times."""
    indices = np.indices((96, 96, 64)) - np.array([48, 47, 31])[:, None, None, None]
    reference = (indices**2 * np.array([1, 1.3, 2])[:, None, None, None]).sum(axis=0) < 35**2
    prediction = np.roll(reference, (1, 0, 1), axis=(0, 1, 2))
    spacing = (0.8, 0.8, 2.0)
    peers: dict[str, Callable[[], SurfaceScores]] = {
        "ours": lambda: score_surfaces(prediction, reference, np.diag(spacing), 1.0),
        "MONAI": lambda: monai(prediction, reference, spacing, 1.0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(3):
        for name, measure in peers.items():
            started = time.process_time()
            measure()
            seconds[name].append(time.process_time() - started)
    assert_close(peers["ours"](), peers["MONAI"]())
    assert min(seconds["MONAI"]) > 5 * min(seconds["ours"]), seconds
