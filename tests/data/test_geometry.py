from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nibabel.affines import voxel_sizes

from support.strategies import grids, orientations
from tomoseg import Grid, TomosegError


@given(grids())
def test_spacing_orientation_and_volume_agree_with_nibabel(grid: Grid) -> None:
    assert grid.spacing == pytest.approx(voxel_sizes(grid.affine))
    assert grid.orientation == "".join(nib.aff2axcodes(grid.affine))
    assert grid.voxel_volume_ml * 1000 == pytest.approx(abs(np.linalg.det(grid.affine[:3, :3])))


@given(grids(), grids())
def test_index_to_names_the_same_point_of_the_patient(one: Grid, other: Grid) -> None:
    index = np.array([1.0, 0.5, 2.0, 1.0])
    there = one.index_to(other) @ index
    np.testing.assert_allclose(other.affine @ there, one.affine @ index, atol=1e-6)


@given(grids(), st.integers(0, 2))
def test_a_flip_and_a_shift_by_one_voxel_are_other_grids(grid: Grid, axis: int) -> None:
    shifted, flipped = grid.affine.copy(), grid.affine.copy()
    shifted[:3, 3] += grid.affine[:3, axis]
    flipped[:3, axis] *= -1
    assert grid == Grid(grid.shape, grid.affine)
    assert hash(grid) == hash(Grid(grid.shape, grid.affine))
    near = grid.affine.copy()
    near[:3, 3] += 1e-5
    assert grid.matches(Grid(grid.shape, near))
    for other in (shifted, flipped):
        assert grid != Grid(grid.shape, other)
        assert not grid.matches(Grid(grid.shape, other))


@given(orientations())
def test_all_48_orientations_are_kept_apart(codes: str) -> None:
    affine = nib.orientations.inv_ornt_aff(
        nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
        ),
        (4, 5, 6),
    )
    assert Grid((4, 5, 6), affine).orientation == codes


@pytest.mark.parametrize(
    ("shape", "affine"),
    [
        ((4, 5), np.eye(4)),
        ((4, 5, 0), np.eye(4)),
        ((4, 5, 6), np.eye(3)),
        ((4, 5, 6), np.diag([1, 1, 0, 1])),
        ((4, 5, 6), np.diag([1, 1, np.nan, 1])),
        ((4, 5, 6), np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])),
        ((4, 5, 6), np.vstack([np.eye(4)[:3], [0, 0, 1, 1]])),
    ],
)
def test_what_describes_no_volume_is_refused(shape: tuple[int, ...], affine: np.ndarray) -> None:
    with pytest.raises(TomosegError, match="expected"):
        Grid(shape, affine)


def test_tiny_voxels_are_no_reason_to_refuse() -> None:
    assert Grid((2, 2, 2), np.diag([1e-4, 1e-4, 1e-4, 1])).spacing == pytest.approx((1e-4,) * 3)


def test_a_grid_cannot_be_changed() -> None:
    grid = Grid((2, 3, 4), np.eye(4))
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 2
