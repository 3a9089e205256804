"""What annotators have labelled, as pairs of files that a bundle's train config reads.

A whole scan becomes the crops that its bundle is trained on.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoseg.core.errors import TomosegError, UsageError, VolumeError, one_line, some
from tomoseg.data.label_mapping import LabelMapping
from tomoseg.data.labels import same_name
from tomoseg.data.nifti import write_label_map, write_map
from tomoseg.data.read import read_volume
from tomoseg.data.volume import Volume
from tomoseg.inference.localisation.crop import nearest
from tomoseg.inference.localisation.declaration import Localisation
from tomoseg.inference.localisation.locator import LocatedRegions, Locator, RegionCrop
from tomoseg.label_app.datastore.annotation import read_annotation
from tomoseg.label_app.served_labels import ServedLabels

Labels = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class TrainingCase:
    """One annotated image, or one structure of it: two NIfTI files on one grid.

    Attributes:
        image: the file of the image.
        label: that of its labels, with the values of the bundle's own channels.
        image_id: what the studies call the image that it is, or is a part of.
    """

    image: Path
    label: Path
    image_id: str


@dataclass(frozen=True)
class Annotated:
    """An image of the studies and its label, as they lie there.

    Attributes:
        image_id: what the studies call it.
        image, label: files.
        label_info: names of the label's values; None for the served numbers.
    """

    image_id: str
    image: Path
    label: Path
    label_info: Sequence[Mapping[str, Any]] | None


def prepare_cases(
    annotated: Iterable[Annotated], labels: ServedLabels, locator: Locator, folder: Path
) -> tuple[list[TrainingCase], list[str]]:
    """Write pairs for training into a folder; an unreadable pair is left out and reported.

    Args:
        annotated: what there is.
        labels: of the bundle; values of others become background.
        locator: of the bundle; a whole scan becomes a pair for each structure that has labels.
        folder: for the files, which have names that no config misreads.

    Returns:
        The pairs, and a line for each that was left out or has other labels.

    Raises:
        UsageError: none is left.
        OutputError: the folder cannot be written to.
    """
    cases: list[TrainingCase] = []
    errors: list[str] = []
    for number, pair in enumerate(annotated):
        try:
            cases += _prepare(pair, labels, locator, folder / f"{number:05}", errors)
        except (TomosegError, MemoryError) as error:
            errors.append(f"{pair.image_id}: left out: {one_line(error)}")
    if not cases:
        raise UsageError(f"expected annotated images to train with, got none; annotate some first. {'; '.join(errors)}")
    return cases, errors


def _prepare(
    pair: Annotated, labels: ServedLabels, locator: Locator, stem: Path, notes: list[str]
) -> list[TrainingCase]:
    image = read_volume(pair.image)
    annotation = read_annotation(pair.label, image, pair.label_info)
    values = _bundle_values(annotation.labels, annotation.names or {v: n for n, v in labels.ids.items()}, labels)
    drawn = {name for value, name in annotation.names.items() if (annotation.labels == value).any()}
    if strange := sorted(name for name in drawn if same_name(name) not in labels.bundle_values):
        notes.append(f"{pair.image_id}: {some(strange)} is no label of the bundle; its voxels become background")
    if not values.any():
        raise UsageError(f"expected some of the labels {', '.join(labels.ids)}, got none of them")
    located = locator.locate(image)
    if located is None or locator.localisation is None:
        crops = [(image, values)]
    else:
        crops = list(cut_crops(values, located, locator.localisation))  # all of a scan or nothing
    cases = []
    for number, (crop, found) in enumerate(crops):
        image_file, label_file = (stem.with_name(f"{stem.name}_{number}_{kind}.nii.gz") for kind in ("image", "label"))
        write_map(image_file, crop.array, crop.grid, crop.header)
        write_label_map(label_file, found, crop.grid, crop.header)
        cases.append(TrainingCase(image_file, label_file, pair.image_id))
    return cases


def _bundle_values(found: NDArray[np.uint16], names: dict[int, str], labels: ServedLabels) -> NDArray[Any]:
    """Return labels (I, J, K) with the values that the bundle has for these names, 0 for names that it has not."""
    known = labels.bundle_values
    numbers = {value: known[same_name(name)] for value, name in names.items() if same_name(name) in known}
    values = LabelMapping(numbers, keep_others=False).apply(found)
    return values.astype(np.uint8) if max(labels.values, default=0) <= 255 else values


def cut_crops(labels: Labels, located: LocatedRegions, declared: Localisation) -> Iterator[tuple[Volume, Labels]]:
    """Yield a crop of the image for each structure that has labels, and the labels in the crop's own grid.

    The box lies round the labels with the margin that the bundle declares, along the axes of the head, mirrored where
    the network wants it so. A label belongs to the structure whose box is nearest to it.

    Args:
        labels: (I, J, K) on the scan's grid, with the bundle's own values.
        located: where the structures are in the scan.
        declared: what the bundle declares.

    Raises:
        VolumeError: the head was not found, so its orientation is unknown.
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
