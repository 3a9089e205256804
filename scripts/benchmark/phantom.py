"""A synthetic abdominal CT of any size: a body with fat, muscle, a spine and smooth organs, each of its own HU.

Everything is defined in millimetres around the middle of the volume, so volumes that cover the same millimetres show
the same organs in any sampling. An organ's HU depends on its class alone: a network that has learned the
organs of one seed knows those of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2

AIR, FAT, MUSCLE, BONE = -1000.0, -110.0, 20.0, 750.0
# the organs' HU lie evenly above muscle; the last class is the spine
BRIGHTEST = 500.0
# organs are laid out in a stretch of the body of this length, which repeats towards the head and the feet; in shorter
# volumes it has their length, so that all organs are there
PERIOD_MM = 400.0
# the volume of the ellipsoids relative to that of the body; they overlap a little
ORGAN_SHARE = 0.37
# edges are as soft as a scanner's
EDGE_MM = 2.0
FAT_THICKNESS = 0.1
SPINE_MM = 22.0


@dataclass(frozen=True)
class _Organ:
    label: int
    center: NDArray[np.float64]
    radii: NDArray[np.float64]
    period: float


def phantom(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    classes: int = 25,
    seed: int = 0,
    noise_hu: float = 10.0,
) -> tuple[NDArray[np.int16], NDArray[np.uint8], NDArray[np.float64]]:
    """Make a scan in HU, its labels (0 is the background), and their affine, with array axes to L, P and S.

    The outside of the body is exactly −1000 HU. The arrays are in Fortran order, as NIfTI writes them.
    """
    spacing = np.asarray(spacing_mm, dtype=np.float64)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.asarray(shape) - 1) / 2)
    # float32 halves the time
    x, y, z = ((affine[axis, axis] * np.arange(shape[axis]) + affine[axis, 3]).astype(np.float32) for axis in range(3))
    body = np.minimum(np.asarray(shape[:2]) * spacing[:2] * (0.46, 0.37), (190.0, 145.0))
    period = min(float(shape[2] * spacing[2]), PERIOD_MM)
    organs = _organs(body, period, classes, seed)
    hu_of = levels(classes)
    rng = np.random.default_rng(seed)

    radius = np.sqrt((x[:, None] / body[0]) ** 2 + (y[None, :] / body[1]) ** 2)
    in_body = _coverage(1 - radius, body.min())
    in_muscle = _coverage(1 - FAT_THICKNESS - radius, body.min())
    in_spine = _coverage(1 - np.hypot(x[:, None] / SPINE_MM, (y[None, :] + 0.66 * body[1]) / SPINE_MM), SPINE_MM)
    plain = AIR + (FAT - AIR) * in_body + (MUSCLE - FAT) * in_muscle
    inside = np.nonzero(in_body)

    image = np.empty(tuple(shape), dtype=np.int16, order="F")
    labels = np.zeros(tuple(shape), dtype=np.uint8, order="F")
    for k, height in enumerate(z):
        hu = plain.copy()
        for organ in organs:
            _paint(organ, hu_of[organ.label], (x, y, height), in_muscle, hu, labels[..., k])
        # vertebrae are denser than the discs between them
        hu += (BONE + 150 * np.sin(2 * np.pi * height / 35) - hu) * in_spine
        labels[..., k][in_spine > 0.5] = classes - 1
        hu[inside] += noise_hu * rng.standard_normal(inside[0].size, dtype=np.float32)
        image[..., k] = np.rint(hu)
    return image, labels, affine


def levels(classes: int) -> NDArray[np.float64]:
    """The HU of each class: muscle for the background, and at least the last one for the spine, the last class."""
    return np.linspace(MUSCLE, BRIGHTEST, classes)


def _organs(body: NDArray[np.float64], period: float, classes: int, seed: int) -> list[_Organ]:
    """Spread ellipsoids evenly over one period of the body."""
    rng = np.random.default_rng(seed)
    count = classes - 2
    points = rng.uniform(-1, 1, size=(200 * count, 3))
    points = points[np.hypot(points[:, 0], points[:, 1]) < 1 - FAT_THICKNESS] * (*body, period / 2)
    centers, _ = kmeans2(points, count, minit="++", rng=rng)

    sizes = rng.permutation(np.linspace(0.75, 1.25, count))
    ratios = np.exp(rng.uniform(-0.2, 0.2, size=(count, 3)))
    ratios /= np.cbrt(ratios.prod(axis=1, keepdims=True))
    volume = np.pi * body.prod() * period * ORGAN_SHARE / np.sum(sizes**3)
    radii = np.cbrt(volume * 3 / (4 * np.pi)) * sizes[:, None] * ratios
    return [_Organ(label + 1, centers[label], radii[label], period) for label in range(count)]


def _paint(
    organ: _Organ,
    level: float,
    place: tuple[NDArray[np.float32], NDArray[np.float32], np.float32],
    room: NDArray[np.float32],
    hu: NDArray[np.float32],
    labels: NDArray[np.uint8],
) -> None:
    """Draw one organ into one slice, no further than the room there is for organs."""
    x, y, height = place
    dz = ((height - organ.center[2] + organ.period / 2) % organ.period - organ.period / 2) / organ.radii[2]
    reach = 1 + EDGE_MM / organ.radii.min()
    if abs(dz) >= reach:
        return
    dx, dy = (x - organ.center[0]) / organ.radii[0], (y - organ.center[1]) / organ.radii[1]
    # both run towards smaller millimetres
    columns, rows = (slice(*np.searchsorted(-distance, (-reach, reach))) for distance in (dx, dy))
    part = (columns, rows)
    dx, dy = dx[columns], dy[rows]
    radius = np.sqrt(dx[:, None] ** 2 + (dy[None, :] ** 2 + dz**2))
    covered = _coverage(1 - radius, organ.radii.min()) * room[part]
    hu[part] += (level - hu[part]) * covered
    labels[part][covered > 0.5] = organ.label


def _coverage(depth: NDArray[np.float32], radius: float) -> NDArray[np.float32]:
    """How much of a voxel lies inside of a surface, from its depth under it relative to the radius."""
    covered: NDArray[np.float32] = np.clip(0.5 + depth * np.float32(radius / EDGE_MM), 0, 1)
    return covered
