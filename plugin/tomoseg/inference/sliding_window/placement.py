"""How the network's grid lies in the scan's: read from what MONAI's transforms recorded on the image they made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from monai.data import MetaTensor
from nibabel.affines import from_matvec
from numpy.typing import NDArray

from tomoseg.core.errors import GeometryError
from tomoseg.data.geometry import Grid

# voxel-aligned: only names and directions of the axes change, which the affine says by itself
REORIENTING = {"Orientation", "Flip"}
RESAMPLING = {"SpatialResample", "ResampleToSpacingd"}  # MONAI's Spacingd and ResampleToMatchd record the former


class NotRecognisedError(Exception):
    """The preprocessing did something whose inverse is not known here; MONAI's own inverse must be run."""


Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Placement:
    """A scan's voxels in the network's grid, along (D, H, W).

    Attributes:
        matrix: 4×4, voxel indices of the scan to fractional ones of the network's grid.
        scored: first and one past the last voxel whose logits count; the rest of the network's grid is padding.
        domain: first and one past the last voxel of the resampled scan; coordinates beyond are clamped to it. Where it
            reaches beyond `scored` the image was cropped, and all logits are 0.
        inside: first and one past the last voxel along (I, J, K) of the scan that was left before the resampling; the
            others are background.
        nearest_axes: axes of the network's grid, 0 to 2, along which the nearest voxel counts, the upper one of two.
    """

    matrix: NDArray[np.float64]
    scored: tuple[Triple, Triple]
    domain: tuple[Triple, Triple]
    inside: tuple[Triple, Triple]
    nearest_axes: tuple[int, ...] = ()

    def seen_from(self, scan: Grid, other: Grid) -> Placement:
        """Return where the voxels of another grid lie, of the placement of a scan; none of them are left out."""
        return replace(self, matrix=self.matrix @ other.index_to(scan), inside=((0, 0, 0), other.shape))


@dataclass(frozen=True)
class _Box:
    """First and one past the last voxel along each axis."""

    start: NDArray[Any]
    stop: NDArray[Any]

    def turned(self, matrix: NDArray[np.float64]) -> _Box:
        """Return the box in voxel indices after a change of orientation."""
        ends = np.stack([self.start, self.stop - 1], axis=1)
        turned = np.round(matrix[:3, :3] @ ends + matrix[:3, 3:]).astype(int)
        return _Box(turned.min(axis=1), turned.max(axis=1) + 1)

    @property
    def corners(self) -> tuple[Triple, Triple]:
        return _triple(self.start), _triple(self.stop)


def identity_placement(shape: Triple) -> Placement:
    """Return the placement of the network's grid in itself."""
    whole = ((0, 0, 0), shape)
    return Placement(np.eye(4), whole, whole, whole)


def scan_grid(image: Any) -> Grid:
    """Return the grid of the scan that a preprocessed image was made of, as MONAI's readers record it.

    Args:
        image: (C, D, H, W) with its metadata and the operations that MONAI recorded.

    Raises:
        NotRecognisedError: it is not recorded, or the reader changed the order of the voxels.
    """
    meta = getattr(image, "meta", {})
    try:
        scan = Grid(meta["spatial_shape"], meta["original_affine"])
    except (KeyError, TypeError, GeometryError):
        raise NotRecognisedError("an image without the grid of its scan") from None
    affine, size = image.affine, image.shape[1:]
    for operation in reversed(image.applied_operations):
        extra = operation.get("extra_info", {})
        size = operation.get("orig_size", ())
        affine = extra.get("src_affine", extra.get("original_affine", affine))
    turned = np.abs(np.asarray(affine, dtype=np.float64)[:3, :3] - scan.affine[:3, :3]).max()
    if tuple(size) != scan.shape or turned > 1e-3 * np.abs(scan.affine[:3, :3]).max():
        raise NotRecognisedError("a reader that gives the voxels in another order than the file")
    return scan


def place(image: Any, scan: Grid) -> Placement:
    """Find out how a preprocessed image lies in its scan.

    Undone are crops, pads and changes of orientation, and at most one resampling among them.

    Args:
        image: (C, D, H, W) with the operations that MONAI recorded.
        scan: the scan's grid.

    Raises:
        NotRecognisedError: something else was done.
    """
    if not isinstance(image, MetaTensor):
        raise NotRecognisedError("a preprocessing that does not track its operations")
    affine = network_affine = np.asarray(image.affine, dtype=np.float64)
    box = _Box(np.zeros(3, dtype=int), np.array(image.shape[1:]))
    scored = box
    operations = list(image.applied_operations)
    resampled = any(operation["class"] in RESAMPLING for operation in operations)
    turn = np.eye(4)  # voxel indices at this step to those of the network's grid
    while operations and operations[-1]["class"] not in RESAMPLING:
        if operations[-1]["class"] in REORIENTING:
            if not resampled:
                break
            before = operations.pop()["extra_info"].get("original_affine")
            if before is None:
                raise NotRecognisedError("a flip after the resampling")
            step = np.linalg.solve(before, affine)
            box, scored = box.turned(step), scored.turned(step)
            turn, affine = turn @ np.linalg.inv(step), np.asarray(before, dtype=np.float64)
            continue
        for first, last in _undone(operations.pop()):
            box = _Box(box.start + first, box.stop - last)
            scored = _Box(np.maximum(scored.start, box.start), np.minimum(scored.stop, box.stop))
    inside_affine, inside_size = affine @ from_matvec(np.eye(3), box.start), box.stop - box.start
    nearest_axes: tuple[int, ...] = ()
    if operations and operations[-1]["class"] in RESAMPLING:
        resampling = operations.pop()
        extra = resampling["extra_info"]
        if extra["mode"] != "bilinear" or extra["padding_mode"] != "border":
            raise NotRecognisedError(f"resampling with mode {extra['mode']} and padding {extra['padding_mode']}")
        inside_affine = np.asarray(extra["src_affine"], dtype=np.float64)
        inside_size = np.array(resampling["orig_size"])
        nearest_axes = tuple(int(np.abs(turn[:3, axis]).argmax()) for axis in extra.get("nearest_axes", ()))
    _require_unpadded_crops(operations)
    return Placement(
        matrix=np.asarray(np.linalg.solve(network_affine, scan.affine), dtype=np.float64),
        scored=scored.turned(turn).corners,
        domain=box.turned(turn).corners,
        inside=_box_in_scan(inside_affine, inside_size, scan),
        nearest_axes=nearest_axes,
    )


def _require_unpadded_crops(operations: Iterable[Mapping[str, Any]]) -> None:
    """Reject operations other than crop, pad and orientation, and voxels that were cut off and padded back.

    `inside` is one box, the extent in the end; voxels in it that were cut off before must not get labels.
    """
    cropped = False
    for operation in operations:
        if operation["class"] in REORIENTING:
            continue
        for first, last in reversed(_undone(operation)):
            if cropped and (max(first) > 0 or max(last) > 0):
                raise NotRecognisedError("a crop followed by a pad before the change of the grid")
            cropped = cropped or min(first) < 0 or min(last) < 0


def _box_in_scan(affine: NDArray[np.float64], size: NDArray[Any], scan: Grid) -> tuple[Triple, Triple]:
    """Return the voxels of the scan that an array of other axes and another extent covers, voxel on voxel."""
    corners = np.array([(0, 0, 0, 1), (*(size - 1), 1)], dtype=np.float64).T
    found = np.linalg.solve(scan.affine, affine @ corners)[:3]
    rounded = np.round(found)
    if np.abs(found - rounded).max() > 0.01:
        raise NotRecognisedError("a change of the grid before the resampling")
    low, high = rounded.min(axis=1), rounded.max(axis=1) + 1
    return _triple(np.maximum(low, 0)), _triple(np.minimum(high, scan.shape))


def _undone(operation: Mapping[str, Any]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return by how many voxels each undone step moves the first and the last corner inwards, last step first."""
    extra = operation.get("extra_info", {})  # not every transform records more than its name
    steps = _undone(extra["pad_info"]) if "pad_info" in extra else []
    if "padded" in extra:
        pads = np.array(extra["padded"][1:])
        steps.append((pads[:, 0], pads[:, 1]))
    if "cropped" in extra:
        cuts = np.array(extra["cropped"])
        steps.append((-cuts[::2], -cuts[1::2]))
    if not steps:
        raise NotRecognisedError(f"the transform {operation['class']}")
    return steps


def _triple(values: NDArray[Any]) -> Triple:
    d, h, w = (int(value) for value in values)
    return d, h, w
