"""The labels of a whole scan, put together from those of its crops, and why they may be wrong."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoseg.data.components import largest_component
from tomoseg.data.geometry import Grid
from tomoseg.data.label_mapping import LabelMapping
from tomoseg.data.plausibility import tell_implausible
from tomoseg.data.volume import Volume
from tomoseg.inference.localisation.declaration import Localisation
from tomoseg.inference.localisation.locator import LocatedRegions, RegionCrop
from tomoseg.report.records import Location, RegionVolume

MAX_ROUNDS = 3  # of centring the box
SETTLED_VOXELS = 1  # voxel; a box that moves by no more has settled
MIN_BOX_SEEN = 0.98  # of a box; of the rest the scan has no voxels
MIN_TEMPLATE_SEEN = 0.5  # of the template in view
SPACING_TOLERANCE = 0.01  # by which a scan's spacing may miss the one that was meant

Labels = NDArray[np.unsignedinteger[Any]]
# a crop, and the grid in which labels (and, if asked for, their entropy) are wanted
Predict = Callable[[Volume, Grid], tuple[Labels, NDArray[np.float32] | None]]


@dataclass(frozen=True, eq=False)
class MergedLabels:
    """Labels found in a scan.

    Attributes:
        labels: (I, J, K) in the scan's grid.
        entropy: the same, 0 outside the crops; None if it was not asked for.
        location: where, and how much of it; None for a scan that was segmented whole.
        places: segmented crops, centred on their structures; none for a scan that was segmented whole.
        warnings: reasons why the labels may be wrong.
    """

    labels: Labels
    entropy: NDArray[np.float32] | None
    location: Location | None = None
    places: tuple[RegionCrop, ...] = ()
    warnings: tuple[str, ...] = ()


def assemble(
    located: LocatedRegions, scan: Grid, predict: Predict, on_place: Callable[[int, int], None] | None = None
) -> MergedLabels:
    """Segment each structure in its crop, and bring the labels into the scan's own grid.

    Args:
        located: where the crops are, and what their labels mean in the whole.
        scan: the scan's grid.
        predict: segments a crop.
        on_place: called with the number of structures that are done and of all.
    """
    declared = located.localisation
    labels = np.zeros(scan.shape, np.uint8 if max(one.value for one in declared.label_table) <= 255 else np.uint16)
    entropy: NDArray[np.float32] | None = None
    regions, places, warnings = [], [], [*_coarse(declared, scan), *_warnings(located)]
    for done, given in enumerate(located.places, 1):
        place, clipped = _settle(given, declared, predict)
        places.append(place)
        target = place.crop.target()
        voxels, centre = 0, place.centre_mm
        if target is not None:
            box, grid = target
            found, undecided = predict(place.crop.volume, grid)
            inside = place.crop.covers(box)
            merged = LabelMapping(place.region.labels, keep_others=False).apply(found)
            free = inside & (merged > 0) & (labels[box] == 0)
            labels[box][free] = merged[free]
            voxels = int(np.count_nonzero(free))
            centre = _centre(free, box, scan) if voxels else centre
            if undecided is not None:
                entropy = np.zeros(scan.shape, np.float32) if entropy is None else entropy
                entropy[box][inside] = np.maximum(entropy[box], undecided)[inside]
        volume_ml = voxels * scan.voxel_volume_ml
        per_icv = None if located.icv_ml is None else 1000 * volume_ml / located.icv_ml
        regions.append(RegionVolume(place.region.name, voxels, volume_ml, per_icv, centre))
        warnings += _volume_warnings(place, volume_ml, clipped)
        if on_place is not None:
            on_place(done, len(located.places))
    asymmetry = _asymmetry(declared, {region.name: region.volume_ml for region in regions})
    location = Location(declared.template, located.similarity, located.seen, located.icv_ml, asymmetry, tuple(regions))
    return MergedLabels(labels, entropy, location, tuple(places), tuple(warnings))


def _settle(place: RegionCrop, declared: Localisation, predict: Predict) -> tuple[RegionCrop, bool]:
    """Centre the box on the structure in it, with the margin of the training crops.

    Returns:
        the place, and whether the structure still reaches the border of its box.
    """
    for left in reversed(range(MAX_ROUNDS + 1)):
        crop = place.crop.volume
        extent = _extent(predict(crop, crop.grid)[0])
        if extent is None:
            return place, False
        first, stop = extent
        clipped = bool((first == 0).any() or (stop == crop.array.shape).any())
        moved = place.around(first, stop, declared.margin_mm)
        change = max(np.abs(new - old).max() for new, old in zip(moved.box, place.box, strict=True))
        if change <= SETTLED_VOXELS or not left:
            break
        place = moved
    return place, clipped


def _extent(labels: Labels) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return the box `[first, stop)` of the largest connected structure; None for no labels."""
    largest = largest_component(labels > 0)
    if not largest.any():
        return None
    places = np.argwhere(largest)
    return places.min(axis=0), places.max(axis=0) + 1


def _centre(mask: NDArray[np.bool_], box: tuple[slice, slice, slice], scan: Grid) -> tuple[float, float, float]:
    """Return the centre of a structure in mm of the scan."""
    indices = np.argwhere(mask).mean(axis=0) + [side.start for side in box]
    x, y, z = (scan.affine[:3, :3] @ indices + scan.affine[:3, 3]).tolist()
    return x, y, z


def _coarse(declared: Localisation, scan: Grid) -> list[str]:
    largest = max(scan.spacing)
    if largest <= declared.largest_spacing_mm * (1 + SPACING_TOLERANCE):
        return []
    return [
        f"voxels of {'×'.join(f'{side:.3g}' for side in scan.spacing)} mm are too coarse, expected at most "
        f"{declared.largest_spacing_mm:g} mm along each axis; volumes may come out far too small or too large"
    ]


def _warnings(located: LocatedRegions) -> list[str]:
    if located.similarity is None or located.seen is None:
        return []
    declared, warnings = located.localisation, []
    if located.similarity < declared.least_score:
        warnings.append(
            f"the {declared.template} head fits badly: similarity {located.similarity:.2f}, expected "
            f"{declared.least_score:g} or more; look at the result, or place the boxes by hand with --roi"
        )
    if located.seen < MIN_TEMPLATE_SEEN:
        warnings.append(f"only {located.seen:.0%} of the brain is in the scan")
    return warnings


def _volume_warnings(place: RegionCrop, volume_ml: float, clipped: bool) -> list[str]:
    name, (low, high) = place.region.name, place.region.volume_ml
    warnings = []
    if not low <= volume_ml <= high:
        warnings.append(tell_implausible(name, volume_ml, low, high))
    if clipped:
        warnings.append(f"{name}: reaches the border of its box and may be cut off there")
    if place.crop.seen < MIN_BOX_SEEN:
        warnings.append(f"{name}: {1 - place.crop.seen:.0%} of its box lie beyond the scan")
    return warnings


def _asymmetry(declared: Localisation, volumes_ml: dict[str, float]) -> float | None:
    """Return (left - right) / mean in percent; None where one of them is not there."""
    left, right = (volumes_ml.get(name, 0.0) for name in declared.asymmetry or ("", ""))
    return 200 * (left - right) / (left + right) if left and right else None
