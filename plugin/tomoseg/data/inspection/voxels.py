"""What the voxels of one scan are like."""

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoseg.data.masks import INTEGER_TOLERANCE, count_values, distance_to_whole
from tomoseg.data.plausibility import ct_warnings

MIN_ANISOTROPY = 1.01  # an axis whose spacing exceeds the others' by this factor runs across the slices


@dataclass(frozen=True)
class VoxelSummary:
    """Statistics of the voxels of a volume.

    Attributes:
        minimum, maximum: of the finite values; None if there is none.
        non_finite: number of voxels that are NaN or infinite.
        slice_axis: array axis, 0 to 2, that runs across the slices: that of the largest spacing, else the last.
        slices: number of slices.
        constant_slices: number of those that hold one value only.
        rounding: largest distance of a value from a whole number; 0 where values were not counted.
        values: number of voxels by value; None where it was not asked, or where there are too many or broken ones.
        hounsfield: why the values do not look like Hounsfield units, None if they do.
        sha256: of shape and values, independent of the file's format and type.
    """

    minimum: float | None
    maximum: float | None
    non_finite: int
    slice_axis: int
    slices: int
    constant_slices: int
    rounding: float
    values: dict[int, int] | None
    hounsfield: str | None
    sha256: str

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers, or nearly."""
        return self.rounding <= INTEGER_TOLERANCE

    @property
    def constant(self) -> bool:
        """No two finite values differ."""
        return self.minimum == self.maximum

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        shown = {key: value for key, value in vars(self).items() if key not in ("rounding", "hounsfield")}
        counts = None if self.values is None else {str(value): count for value, count in self.values.items()}
        return shown | {"values": counts}


def count_voxels(array: NDArray[np.float32], spacing: tuple[float, float, float], most_values: int = 0) -> VoxelSummary:
    """Compute the statistics of a volume slice by slice, without a copy of it.

    Args:
        array: (I, J, K).
        spacing: mm along the axes.
        most_values: values are counted unless there are more different ones than this.
    """
    largest = int(np.argmax(spacing))
    axis = largest if spacing[largest] > MIN_ANISOTROPY * np.delete(spacing, largest).max() else 2
    lowest, highest = np.full(array.shape[axis], np.inf), np.full(array.shape[axis], -np.inf)
    digest = hashlib.sha256(str(array.shape).encode())
    non_finite = 0
    rounding = 0.0
    values: dict[int, int] | None = {} if most_values else None
    for k in range(array.shape[2]):  # what the readers return lies in memory in this order
        plane = array[:, :, k]
        digest.update(np.ascontiguousarray(plane.T).data)
        finite = np.isfinite(plane)
        broken = plane.size - int(np.count_nonzero(finite))
        non_finite += broken
        low = np.where(finite, plane, np.inf) if broken else plane
        high = np.where(finite, plane, -np.inf) if broken else plane
        if axis == 2:
            lowest[k], highest[k] = low.min(), high.max()
        else:
            np.minimum(lowest, low.min(axis=1 - axis), out=lowest)
            np.maximum(highest, high.max(axis=1 - axis), out=highest)
        if values is not None and finite.any():
            numbers = plane[finite] if broken else plane
            rounding = max(rounding, distance_to_whole(numbers))
            values = _add(np.rint(numbers), values) if rounding <= INTEGER_TOLERANCE else None
            if values is not None and len(values) > most_values:
                values = None
    minimum, maximum = float(lowest.min()), float(highest.max())
    return VoxelSummary(
        minimum=minimum if math.isfinite(minimum) else None,
        maximum=maximum if math.isfinite(maximum) else None,
        non_finite=non_finite,
        slice_axis=axis,
        slices=array.shape[axis],
        constant_slices=int(np.count_nonzero(lowest >= highest)),
        rounding=rounding,
        values=values and dict(sorted(values.items())),
        hounsfield=ct_warnings(array),
        sha256=digest.hexdigest(),
    )


def _add(numbers: NDArray[np.float32], values: dict[int, int]) -> dict[int, int]:
    """Return the counts with those of one slice, whose values are finite integers."""
    found, counts = count_values(numbers)
    for value, count in zip(found.tolist(), counts.tolist(), strict=True):
        values[int(value)] = values.get(int(value), 0) + count
    return values
