"""Volume, intensity and position of each label of a scan."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoseg.data.geometry import Box
from tomoseg.data.segments import find_boxes, mask_of
from tomoseg.report.records import LabelVolume

SLAB_VOXELS = 1 << 20  # of a label's box that are looked at together: 8 MB of float64


def measure_labels(
    labels: NDArray[np.unsignedinteger[Any]],
    names: Mapping[int, str],
    voxel_ml: float,
    scan: NDArray[np.float32] | None = None,
) -> tuple[LabelVolume, ...]:
    """Measure labels, each slab by slab in its box; the memory taken does not grow with the volume.

    Args:
        labels: (I, J, K) label values; or (label, I, J, K), 1 where the label is, for labels that may overlap, which
            are numbered from 1 on.
        names: the labels to measure by value, at least 1; one that does not occur has no voxels.
        voxel_ml: the volume of a voxel in mL.
        scan: (I, J, K) intensities.

    Raises:
        ValueError: the scan's shape is not that of the labels.
    """
    shape = labels.shape[-3:]
    if scan is not None and scan.shape != shape:
        raise ValueError(f"expected a scan of shape {shape}, as the labels have, got {scan.shape}")
    boxes = find_boxes(labels)
    return tuple(
        _measure(labels, value, name, boxes[value], voxel_ml, scan)
        if value in boxes
        else LabelVolume(value, name, 0, 0.0)
        for value, name in names.items()
    )


def _measure(
    labels: NDArray[Any], value: int, name: str, box: Box, voxel_ml: float, scan: NDArray[np.float32] | None
) -> LabelVolume:
    slabs = list(_split(box, int(np.argmax(labels.strides[-3:]))))
    voxels = sum(int(np.count_nonzero(mask_of(labels, value, slab))) for slab in slabs)

    def intensities() -> Iterator[NDArray[np.float64]]:
        for slab in slabs:
            if scan is not None:
                found = scan[slab][mask_of(labels, value, slab)]
                yield found[np.isfinite(found)].astype(np.float64)

    mean = sd = None
    if count := sum(part.size for part in intensities()):
        mean = sum(float(part.sum()) for part in intensities()) / count
        sd = math.sqrt(sum(float(np.square(part - mean).sum()) for part in intensities()) / count)
    first, stop = ((i, j, k) for i, j, k in zip(*((side.start, side.stop) for side in box), strict=True))
    at_border = 0 in first or any(side.stop == size for side, size in zip(box, labels.shape[-3:], strict=True))
    return LabelVolume(value, name, voxels, voxels * voxel_ml, mean, sd, first, stop, at_border)


def _split(box: Box, axis: int) -> Iterator[Box]:
    """Yield slabs of a box, along the axis whose planes lie together in memory."""
    sides = list(box)
    whole = sides[axis]
    plane = math.prod(side.stop - side.start for side in box) // (whole.stop - whole.start)
    step = max(1, SLAB_VOXELS // plane)
    for start in range(whole.start, whole.stop, step):
        sides[axis] = slice(start, min(start + step, whole.stop))
        yield sides[0], sides[1], sides[2]
