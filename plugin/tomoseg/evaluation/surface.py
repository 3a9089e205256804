"""How far the surfaces of two masks lie apart, in millimetres.

The definitions are those of MONAI (`compute_hausdorff_distance`, `compute_average_surface_distance` and
`compute_surface_dice` with `use_subvoxels=False`): the surface of a mask are its voxels with a face towards the
outside, the rim of the volume included; distances go from voxel centre to voxel centre; each surface voxel counts as
one, however large the area is that it stands for. DeepMind's surface-distance
(https://github.com/google-deepmind/surface-distance) places the surface between the voxels instead and weights each
piece of it by its area, so its numbers differ by up to about a voxel, more so where voxels are long.
"""

import math
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

HAUSDORFF_PERCENTILE = 95
REACH_VOXELS = 2  # nearly all distances of a good segmentation end within
POINTS_PER_LEAF = 32  # points; a tree that is asked once is best not built to the end
ROUNDING_MM = 1e-4  # by which a distance may exceed the tolerance: 2.1 mm in steps of 0.7 mm are 2.1 mm


@dataclass(frozen=True)
class SurfaceScores:
    """Scores of two surfaces.

    Attributes:
        hd95_mm: 95 % Hausdorff distance: the larger of the 95th percentiles of both directions.
        assd_mm: average symmetric surface distance: the mean of all distances of both directions.
        nsd: normalised surface distance: the share of both surfaces that lies within the tolerance of the other.
    """

    hd95_mm: float
    assd_mm: float
    nsd: float


def score_surfaces(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], affine: NDArray[np.float64], tolerance_mm: float
) -> SurfaceScores:
    """Compare the surfaces of two masks.

    Where one mask is empty, the distances are infinite and the normalised surface distance is 0, as in MONAI, which has
    NaN for the HD95, though; where both are, there is nothing to compare and all three are NaN.

    Args:
        prediction: (I, J, K), or any box of it that holds all of both masks.
        reference: of the same shape.
        affine: 4×4 (or 3×3), voxel indices to mm.
        tolerance_mm: for the normalised surface distance.
    """
    there = bool(prediction.any()), bool(reference.any())
    if not any(there):
        return SurfaceScores(math.nan, math.nan, math.nan)
    if not all(there):
        return SurfaceScores(math.inf, math.inf, 0.0)
    directions = measure_distances(prediction, reference, affine)
    hd95_mm = max(float(np.percentile(distances, HAUSDORFF_PERCENTILE)) for distances in directions)
    distances = np.concatenate(directions)
    nsd = float(np.mean(distances <= tolerance_mm + ROUNDING_MM))
    return SurfaceScores(hd95_mm, float(distances.mean(dtype=np.float64)), nsd)


def find_surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the voxels of a mask (I, J, K) that have a face in common with the outside."""
    padded = np.pad(mask, 1)
    inner = padded.copy()
    for axis, step in product(range(3), (1, -1)):
        inner &= np.roll(padded, step, axis)
    return np.asarray(mask & ~inner[1:-1, 1:-1, 1:-1])


def measure_distances(
    prediction: NDArray[np.bool_], reference: NDArray[np.bool_], affine: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure how far each surface voxel of one mask lies from the surface of the other.

    The neighbours of each voxel are looked at first, the nearest first. What has none within a few voxels is looked up
    in a search tree. Both are exact.

    Args:
        prediction: (I, J, K), not empty.
        reference: of the same shape, not empty.
        affine: 4×4 (or 3×3), voxel indices to mm.

    Returns:
        The distances from the surface voxels of the prediction, and from those of the reference, in mm.
    """
    axes = np.asarray(affine, dtype=np.float64)[:3, :3]
    ours, theirs = (np.pad(np.ascontiguousarray(find_surface(mask)), REACH_VOXELS) for mask in (prediction, reference))
    return _measure(ours, theirs, axes), _measure(theirs, ours, axes)


def _measure(source: NDArray[np.bool_], target: NDArray[np.bool_], axes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of each voxel of one surface to the other; both have a margin of `REACH_VOXELS` voxels."""
    places = np.flatnonzero(source)
    distances = np.empty(places.size)
    left = np.arange(places.size)
    there = target.ravel()
    offsets, lengths = _neighbours(axes)
    steps = offsets @ np.array(target.strides)  # of one byte a voxel
    for step, length in zip(steps.tolist(), lengths.tolist(), strict=True):
        found = there[places + step]
        if found.any():
            distances[left[found]] = length
            left, places = left[~found], places[~found]
            if not left.size:
                return distances
    tree = KDTree(np.argwhere(target) @ axes.T, leafsize=POINTS_PER_LEAF, compact_nodes=False, balanced_tree=False)
    distances[left] = tree.query(np.stack(np.unravel_index(places, target.shape), axis=1) @ axes.T)[0]
    return distances


def _neighbours(axes: NDArray[np.float64]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return steps in voxels, (steps, 3), and their lengths in mm, the shortest first.

    All steps are there that are shorter than the shortest that leaves the cube of `REACH_VOXELS`: the distance of
    the planes of the lattice times one more than that.
    """
    reach = range(-REACH_VOXELS, REACH_VOXELS + 1)
    steps = np.array(list(product(reach, repeat=3)))
    lengths = np.linalg.norm(steps @ axes.T, axis=1)
    planes = 1 / np.linalg.norm(np.linalg.inv(axes), axis=1)
    order = np.argsort(lengths, kind="stable")
    order = order[lengths[order] < (REACH_VOXELS + 1) * planes.min()]
    return steps[order], lengths[order]
