"""An annotated whole scan as the crops that its bundle is trained on."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoseg.core.errors import UsageError, VolumeError
from tomoseg.data.volume import Volume
from tomoseg.inference.localisation.crop import nearest
from tomoseg.inference.localisation.declaration import Localisation
from tomoseg.inference.localisation.locator import LocatedRegions, RegionCrop

Labels = NDArray[np.unsignedinteger[Any]]


def cut_crops(labels: Labels, located: LocatedRegions, declared: Localisation) -> Iterator[tuple[Volume, Labels]]:
    """Yield a crop of the image for each structure that has labels, and the labels in the crop's own grid.

    The box lies round the labels with the margin that the bundle declares, along the axes of the head, mirrored where
    the network wants it so. A label belongs to the structure whose box is nearest to it.

    Args:
        labels: (I, J, K) on the scan's grid, with the bundle's own values.
        located: where the structures are in the scan.
        declared: what the bundle declares.

    Raises:
        VolumeError: the head was not found, so that nobody knows how it is turned.
        UsageError: a label lies where its structure cannot be.
    """
    if located.similarity is not None and located.similarity < declared.least_score:
        raise VolumeError(
            f"expected a scan that the {declared.template} head fits, got one with a similarity of "
            f"{located.similarity:.2f}, below {declared.least_score:g}; crop it round its labels first"
        )
    voxels = np.argwhere(labels > 0)
    values = labels[tuple(voxels.T)]
    indices = [_indices_in(place, voxels) for place in located.places]
    possible = [np.isin(values, list(place.region.labels)) for place in located.places]
    distances = [
        np.where(can_be, _distance_mm(place, found), np.inf)
        for place, found, can_be in zip(located.places, indices, possible, strict=True)
    ]
    nearest_place = np.argmin(distances, axis=0)
    for number, place in enumerate(located.places):
        own = possible[number] & (nearest_place == number)
        if not own.any():
            continue
        shape = place.surroundings.volume.array.shape
        beyond = ((indices[number][own] < -0.5) | (indices[number][own] >= np.array(shape) - 0.5)).any(axis=1)
        if beyond.any():
            raise UsageError(
                f"{np.count_nonzero(beyond)} of {len(beyond)} voxels of the {place.region.name} lie far from where it "
                f"was found, the first at {voxels[own][beyond][0].tolist()}; correct the label"
            )
        alone = np.zeros_like(labels)
        alone[tuple(voxels[own].T)] = values[own]
        yield _cut(alone, place, declared)


def _cut(labels: Labels, place: RegionCrop, declared: Localisation) -> tuple[Volume, Labels]:
    """Return the crop round one structure's labels."""
    whole = place.surroundings
    everywhere = replace(place, box=(np.zeros(3, np.int64), np.array(whole.volume.array.shape)))
    rough = np.argwhere(nearest(labels, whole.scan_grid, whole.volume.grid))
    if not len(rough):
        raise UsageError(f"the label of the {place.region.name} is smaller than a voxel of the network; complete it")
    crop = everywhere.around(rough.min(axis=0), rough.max(axis=0) + 1, declared.margin_mm).crop
    return crop.volume, nearest(labels, crop.scan_grid, crop.volume.grid)


def _indices_in(place: RegionCrop, voxels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return where voxels of the scan are among those of a place's surroundings, (voxel, 3)."""
    matrix = place.surroundings.scan_grid.index_to(place.surroundings.volume.grid)
    return np.asarray(voxels @ matrix[:3, :3].T + matrix[:3, 3])


def _distance_mm(place: RegionCrop, indices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far indices are from the middle of a place's box."""
    middle = (place.box[0] + place.box[1] - 1) / 2
    return np.asarray(np.linalg.norm((indices - middle) * place.surroundings.volume.grid.spacing, axis=1))
