"""Volume, intensity and position of each label of a scan."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SLAB_VOXELS = 1 << 20  # bincount makes int64 and float64 of all it gets: 8 MB each at a time


Index = tuple[int, int, int]


@dataclass(frozen=True)
class LabelMeasure:
    """What one label covers of a scan.

    Attributes:
        voxels: how many voxels carry it.
        mean, sd: of the scan's intensity in these voxels, NaN and infinite ones left out; the SD is that of a
            population (divided by the number of voxels). None where there is no such voxel, or no scan was given.
        first, stop: the box `[first, stop)` of voxel indices (i, j, k) that just holds it; None if it does not occur.
        touches_border: whether it reaches the first or the last plane of the scan along any axis.
    """

    voxels: int = 0
    mean: float | None = None
    sd: float | None = None
    first: Index | None = None
    stop: Index | None = None
    touches_border: bool = False


def measure_labels(
    labels: NDArray[np.unsignedinteger[Any]], values: Sequence[int], scan: NDArray[np.float32] | None = None
) -> dict[int, LabelMeasure]:
    """Measure labels slab by slab; the memory taken does not grow with the volume.

    Args:
        labels: (I, J, K) label values; or (label, I, J, K), not 0 where the label is, for labels that may overlap,
            which are numbered from 1 on.
        values: the labels to measure, at least 1; one that does not occur has no voxels.
        scan: (I, J, K) intensities.

    Raises:
        ValueError: the scan's shape is not that of the labels.
    """
    shape = labels.shape[-3:]
    if scan is not None and scan.shape != shape:
        raise ValueError(f"expected a scan of shape {shape}, as the labels have, got {scan.shape}")
    if not values:
        return {}
    if labels.ndim == 3:
        tally = _LabelAccumulator(max(values))
        tally.add_volume(labels, scan)
        return {value: tally.measure(value, shape) for value in values}
    measures = {}
    for value in values:
        tally = _LabelAccumulator(1)
        tally.add_volume(labels[value - 1], scan, binary=True)
        measures[value] = tally.measure(1, shape)
    return measures


class _LabelAccumulator:
    """Sums and boxes of the labels 1 to `largest`, by label value."""

    def __init__(self, largest: int) -> None:
        self._size = largest + 1
        self._voxels = np.zeros(self._size, np.int64)
        self._finite = np.zeros(self._size, np.int64)
        # Sums are those of differences to a value of the label itself. With its sum of squares S over N voxels,
        # N times the squared mean is then at most (N - 1) / N of S, so their difference loses no more than a factor
        # of N in relative precision, however far from 0 the intensities lie; and constant ones have an SD of just 0.
        self._origin = np.full(self._size, np.nan)
        self._sum = np.zeros(self._size)
        self._squares = np.zeros(self._size)
        self._first = np.full((self._size, 3), np.iinfo(np.int64).max)
        self._stop = np.zeros((self._size, 3), np.int64)

    def add_volume(
        self, labels: NDArray[np.unsignedinteger[Any]], scan: NDArray[np.float32] | None, binary: bool = False
    ) -> None:
        # along the axis whose planes lie together in memory
        order = np.argsort([-abs(stride) for stride in labels.strides], kind="stable")
        turned = labels.transpose(order)
        image = None if scan is None else scan.transpose(order)
        step = max(1, SLAB_VOXELS // max(1, turned.shape[1] * turned.shape[2]))
        for start in range(0, len(turned), step):
            slab = turned[start : start + step]
            if binary:
                slab = (slab != 0).view(np.uint8)
            self._add_boxes(slab, start, order)
            inside = (slab > 0) & (slab < self._size)
            found = slab[inside]
            self._voxels += np.bincount(found, minlength=self._size)
            if image is not None:
                self._add_intensities(found, image[start : start + step][inside])

    def _add_boxes(self, slab: NDArray[np.unsignedinteger[Any]], start: int, order: NDArray[np.intp]) -> None:
        from scipy import ndimage  # 0.15 s, for which a single scan need not wait

        for value, box in enumerate(ndimage.find_objects(slab, self._size - 1), 1):
            if box is None:
                continue
            lower, upper = ([getattr(side, name) for side in box] for name in ("start", "stop"))
            lower[0] += start
            upper[0] += start
            self._first[value, order] = np.minimum(self._first[value, order], lower)
            self._stop[value, order] = np.maximum(self._stop[value, order], upper)

    def _add_intensities(self, found: NDArray[np.unsignedinteger[Any]], intensities: NDArray[np.float32]) -> None:
        finite = np.isfinite(intensities)
        if not finite.all():
            found, intensities = found[finite], intensities[finite]
        counts = np.bincount(found, minlength=self._size)
        for value in np.flatnonzero((counts > 0) & (self._finite == 0)):
            self._origin[value] = intensities[np.argmax(found == value)]
        self._finite += counts
        differences = intensities - self._origin[found]
        self._sum += np.bincount(found, differences, self._size)
        self._squares += np.bincount(found, differences * differences, self._size)

    def measure(self, value: int, shape: tuple[int, ...]) -> LabelMeasure:
        if not self._voxels[value]:
            return LabelMeasure()
        mean = sd = None
        if count := int(self._finite[value]):
            shift = float(self._sum[value]) / count
            mean = float(self._origin[value]) + shift
            sd = max(float(self._squares[value]) / count - shift * shift, 0.0) ** 0.5
        first, stop = self._first[value].tolist(), self._stop[value].tolist()
        at_border = min(first) == 0 or any(end == size for end, size in zip(stop, shape, strict=True))
        return LabelMeasure(int(self._voxels[value]), mean, sd, tuple(first), tuple(stop), at_border)
