"""How sure a model is of one image: two numbers that need no label."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

from tomoseg.data.overlap import count_overlap
from tomoseg.data.volume import Volume
from tomoseg.inference.segmentation import Segmentation


def mean_entropy(result: Segmentation) -> float:
    """Return the entropy summed over all voxels, divided by the number of voxels that have a label.

    So an object is as uncertain as its border is wide, however large the image around it is. Nothing found is taken as
    one voxel: it is worth a look.

    Args:
        result: with its entropy.

    Raises:
        ValueError: the entropy was not asked for.
    """
    if result.entropy is None:
        raise ValueError("there is no entropy; ask for it with uncertainty=True")
    labelled = result.labels.any(axis=0) if result.overlapping else result.labels != 0
    return float(result.entropy.sum(dtype=np.float64) / max(np.count_nonzero(labelled), 1))


def expected_dice(one: Segmentation, others: Iterable[NDArray[Any]]) -> float:
    """Return the Dice that a result has with other predictions of the same image, averaged over labels and predictions.

    Where they disagree, some must be wrong: Roy et al., NeuroImage 195:11 (2019), https://arxiv.org/abs/1811.09800.

    Args:
        one: the result.
        others: labels of its shape.
    """
    values = [_dice(_mask(one.labels, value), _mask(other, value)) for other in others for value in one.names]
    return float(np.mean(values)) if values else 1.0


def mirrored(volume: Volume, network_affine: NDArray[np.float64], axis: int) -> tuple[Volume, int]:
    """Return a scan mirrored in place, and the axis of its array along which it was.

    Args:
        volume: the scan.
        network_affine: 4×4, indices of the network's input to RAS+ mm.
        axis: of the network's input, 0 to 2; the scan's axis that runs closest to it is mirrored.
    """
    to_network = np.linalg.solve(network_affine, volume.grid.affine)
    along = int(np.flatnonzero(io_orientation(to_network)[:, 0] == axis)[0])
    return replace(volume, array=np.ascontiguousarray(np.flip(volume.array, along))), along


def _mask(labels: NDArray[Any], value: int) -> NDArray[np.bool_]:
    return np.asarray(labels[value - 1] != 0 if labels.ndim == 4 else labels == value)


def _dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Return the Dice; 1 for a label that neither of them has."""
    overlap = count_overlap(one, other, one.size)
    return overlap.dice if overlap.predicted or overlap.reference else 1.0
