"""What a result or a scan gives away of being wrong: labels that are missing or too large, values of another unit."""

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoseg.data.labels import Label
from tomoseg.data.volume import Volume

# Hounsfield units by definition: air −1000, water 0; fat, muscle and organs lie within 200 of water
# (https://radiopaedia.org/articles/hounsfield-unit)
AIR_HU = (-1100, -900)
SOFT_TISSUE_HU = (-200, 200)
MIN_TISSUE_SHARE = 0.001  # of the voxels, of each of the two
ARTICLES = {"CT": "a CT", "MR": "an MR"}
MAX_SAMPLED_VOXELS = 2 * 10**6  # the shares are counted among these


def volume_warnings(
    table: Sequence[Label], volumes_ml: Mapping[int, float], cut_off: Set[int], trained_on: str
) -> list[str]:
    """Return one line for each label that is missing or implausibly small or large; nothing where no range is declared.

    Args:
        table: what the labels mean.
        volumes_ml: of each label, by its value.
        cut_off: values of the labels that reach the scan's border, and may extend beyond it.
        trained_on: scan to suggest if no label was found, e.g. "a CT as head_neck was trained on".
    """
    declared = [(label, *label.volume_ml) for label in table if label.volume_ml is not None]
    expected = [label for label, low, _ in declared if low > 0]
    missing = [label for label in expected if not volumes_ml[label.value]]
    if len(missing) == len(expected) > 1 and not any(volumes_ml[label.value] for label, *_ in declared):
        *names, last = (label.name for label in missing)
        return [f"no {', '.join(names)} or {last} was found: is this {trained_on}?"]
    lines = []
    for label, low, high in declared:
        volume = volumes_ml[label.value]
        if label in missing:
            lines.append(f"{label.name}: not found, expected {low:g} to {high:g} mL")
        elif volume > high or (volume < low and label.value not in cut_off):
            lines.append(tell_implausible(label.name, volume, low, high))
    return lines


def tell_implausible(name: str, volume_ml: float, low: float, high: float) -> str:
    """Return the warning for a structure whose volume is outside its plausible range, all in mL."""
    return f"{name}: {volume_ml:.2f} mL is implausible, expected {low:g} to {high:g} mL"


def at_border(labels: NDArray[np.unsignedinteger[Any]]) -> set[int]:
    """Return the values in the outermost voxels of labels: (I, J, K), or (label, I, J, K) where they may overlap."""
    if labels.ndim == 4:
        return {value for value, mask in enumerate(labels, start=1) if at_border(mask)}
    faces = (labels.take(index, axis) for axis in range(3) for index in (0, -1))
    return set(np.unique(np.concatenate([np.unique(face) for face in faces])).tolist()) - {0}


def scan_warnings(volume: Volume, modality: str, hounsfield: bool) -> list[str]:
    """Return why a scan may be none for a bundle: one line each.

    Args:
        volume: the scan.
        modality: that the bundle takes; of others than CT and MR nothing is known.
        hounsfield: whether the bundle takes Hounsfield units.
    """
    taken = modality.upper()[:2]
    given = volume.series.modality if volume.series else ""
    lines = []
    for channel in volume.channels:
        if (values := _few_values(channel)) is not None:
            lines.append(f"every voxel holds {values}: is this a scan?")
        elif hounsfield and (line := ct_warnings(channel)) is not None:
            lines.append(line)
        elif taken == "MR" and not given and ct_warnings(channel) is None:
            lines.append("its values are Hounsfield units, with air near -1000: a CT? expected an MR scan")
    if taken in ARTICLES and given in ARTICLES and taken != given:
        lines.insert(0, f"{ARTICLES[given]} series, expected {taken}: labels found in it mean nothing")
    return list(dict.fromkeys(lines))


def _few_values(array: NDArray[np.float32]) -> str | None:
    """Return the values of voxels (I, J, K) if there are no more than two, None if there are."""
    seen = array if np.isfinite(array).all() else array[np.isfinite(array)]
    lowest, highest = float(seen.min(initial=np.inf)), float(seen.max(initial=-np.inf))
    if lowest >= highest:
        return f"{lowest:g}" if seen.size else "NaN or infinity"
    return f"{lowest:g} or {highest:g}" if ((seen == lowest) | (seen == highest)).all() else None


def ct_warnings(array: NDArray[np.float32]) -> str | None:
    """Return why the voxels (I, J, K) of a CT do not look like Hounsfield units, None if they do.

    Of a large scan some voxels are looked at, evenly spread.
    """
    step = max(1, math.ceil((array.size / MAX_SAMPLED_VOXELS) ** (1 / 3)))
    seen = array[::step, ::step, ::step]
    seen = seen[np.isfinite(seen)]
    minimum, maximum = float(seen.min(initial=np.inf)), float(seen.max(initial=-np.inf))
    shown = f"values from {minimum:g} to {maximum:g}"
    if minimum >= 0:
        if maximum <= 255:
            return f"{shown}: no Hounsfield units, but grey levels of a picture?"
        return f"{shown}: no Hounsfield units? rescale intercept not applied"
    if minimum > AIR_HU[1]:
        return f"{shown}: no Hounsfield units, or a crop without air? expected air, below {AIR_HU[1]}"
    for name, (low, high) in (("air", AIR_HU), ("soft tissue", SOFT_TISSUE_HU)):
        if np.count_nonzero((seen >= low) & (seen <= high)) < MIN_TISSUE_SHARE * seen.size:
            return f"{shown}: no Hounsfield units? hardly any {name}, {low} to {high}"
    return None
