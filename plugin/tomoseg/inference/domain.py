"""How unlike the training cases of a bundle a scan is, from what the network is given and without running it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.orientations import apply_orientation, io_orientation
from numpy.typing import NDArray

from tomoseg.bundle.domain import LOOK_SIDE, Domain, Range
from tomoseg.data.geometry import Grid
from tomoseg.report.records import OutOfDomain

QUANTILES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
MAX_SAMPLED_VOXELS = 2 * 10**6  # of a channel, evenly spread
BODY_LEVEL = 0.05  # between the lowest intensity and the 99th percentile, above which a voxel is no air
BODY_SHARE = 0.05  # of the fullest plane, that a plane of the body's box has at least
# What lies just outside of the range of the training cases is like them, too: up to so much of the range's width,
RANGE_MARGIN = 0.3
# and at least up to twice the voxel size (finer ones are resampled), 1.5 times the field of view, a tenth of the
# intensities' range, and 0.3 of the largest roughness.
SPACING_MARGIN, EXTENT_MARGIN, INTENSITY_MARGIN, ROUGHNESS_MARGIN = math.log(2), math.log(1.5), 0.1, 0.3
DIRECTIONS = ("from left to right", "from back to front", "from feet to head")
TURNS = {"upside down": (2,), "back to front": (1,), "by half a turn": (1, 2)}  # axes (right, anterior, superior)


@dataclass(frozen=True, eq=False)
class Traits:
    """One scan in the numbers that are compared.

    Attributes:
        spacing_mm, extent_mm: (3,) along right, anterior, superior; None for a crop that was cut as the bundle says.
        intensities: (channel, quantile) after the bundle's preprocessing.
        roughness: SD of the differences between neighbouring voxels, relative to that of the voxels.
        look: (8, 8, 8) mean intensities of the blocks of the body along right, anterior, superior; of all channels.
    """

    spacing_mm: NDArray[np.float64] | None
    extent_mm: NDArray[np.float64] | None
    intensities: NDArray[np.float64]
    roughness: float
    look: NDArray[np.float64]


def measure_traits(image: MetaTensor, scan: Grid | None) -> Traits:
    """Return the traits of a scan.

    Args:
        image: (C, D, H, W), as the preprocessing made it.
        scan: the scan's own grid; None for a crop that was cut as the bundle says.
    """
    step = max(1, math.ceil((image[0].numel() / MAX_SAMPLED_VOXELS) ** (1 / 3)))
    seen = np.nan_to_num(image.as_tensor()[:, ::step, ::step, ::step].float().cpu().numpy())
    body = torch.from_numpy(_cut_body(seen.mean(axis=0)))
    blocks = torch.nn.functional.adaptive_avg_pool3d(body[None], LOOK_SIDE)[0].double().numpy()
    look = apply_orientation(blocks, io_orientation(np.asarray(image.affine)))
    differences = [np.diff(seen, axis=axis).std() for axis in (1, 2, 3) if seen.shape[axis] > 1]
    roughness = float(np.mean(differences or [0.0]) / (seen.std() or 1.0))
    quantiles = np.quantile(seen.reshape(len(seen), -1), QUANTILES, axis=1).T
    if scan is None:
        return Traits(None, None, quantiles, roughness, look)
    order = np.argsort(io_orientation(scan.affine)[:, 0])
    spacing = np.array(scan.spacing)[order]
    return Traits(spacing, spacing * np.array(scan.shape)[order], quantiles, roughness, look)


def _cut_body(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the box (I, J, K) of an image that leaves out planes with hardly anything but air."""
    low = array.min()
    inside = array > low + BODY_LEVEL * (np.quantile(array, 0.99) - low)
    for axis in range(3):
        share = inside.mean(axis=tuple({0, 1, 2} - {axis}))
        planes = np.flatnonzero(share >= BODY_SHARE * share.max())
        array = array.take(range(planes[0], planes[-1] + 1), axis)
    return array


def standardise(look: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the blocks of a scan as one vector with the mean 0 and the length 1; zeros for a scan of one value."""
    centred: NDArray[np.float64] = look.ravel() - look.mean()
    length = float(np.linalg.norm(centred))
    return centred / (length or 1.0)


def compare(image: MetaTensor, scan: Grid | None, domain: Domain | None) -> OutOfDomain | None:
    """Return how unlike the training cases of a bundle a scan is, and in what; None where these are not known.

    Args:
        image: as for `measure_traits`.
        scan: as there.
        domain: what the training cases are like.
    """
    return None if domain is None else compare_traits(measure_traits(image, scan), domain)


def compare_traits(traits: Traits, domain: Domain) -> OutOfDomain:
    """Return the same for a scan that was measured."""
    found = list(_compare_lengths(traits, domain))
    found.append(max(_compare_intensities(traits, domain)))
    rough = (
        f"neighbouring voxels differ by {traits.roughness:.2f} SD, expected {_show(domain.roughness)}: noise or blur?"
    )
    found.append((_beyond(traits.roughness, domain.roughness, ROUGHNESS_MARGIN * domain.roughness[1]), rough))
    weights = np.array(domain.look)
    likeness = float(standardise(traits.look) @ weights)
    turned = {how: float(standardise(np.flip(traits.look, axes)) @ weights) for how, axes in TURNS.items()}
    best = max(turned, key=lambda how: turned[how])
    why = f"turned {best}" if turned[best] >= domain.least_likeness else "another body part"
    shown = f"a likeness of {likeness:.2f}, expected at least {domain.least_likeness:.2f}: {why}, or another contrast?"
    found.append(((1 - likeness) / (1 - domain.least_likeness), shown))
    reasons = tuple(reason for distance, reason in found if distance > 1)
    return OutOfDomain(max(0.0, *(distance for distance, _ in found)), reasons)


def _compare_lengths(traits: Traits, domain: Domain) -> Iterator[tuple[float, str]]:
    """Yield distance and description of each length of a scan."""
    for what, lengths, ranges, margin in (
        ("voxels of", traits.spacing_mm, domain.spacing_mm, SPACING_MARGIN),
        ("a field of view of", traits.extent_mm, domain.extent_mm, EXTENT_MARGIN),
    ):
        for length, known, direction in zip(() if lengths is None else lengths, ranges, DIRECTIONS, strict=False):
            low, high = map(math.log, known)
            if margin == SPACING_MARGIN:
                low = -math.inf
            distance = _beyond(math.log(length), (low, high), margin)
            yield distance, f"{what} {length:.3g} mm {direction}, expected {_show(known)} mm"


def _compare_intensities(traits: Traits, domain: Domain) -> Iterator[tuple[float, str]]:
    for channel, (values, ranges) in enumerate(zip(traits.intensities, domain.intensities, strict=False)):
        margin = INTENSITY_MARGIN * (ranges[-1][1] - ranges[0][0])
        where = f" of channel {channel}" if len(domain.intensities) > 1 else ""
        for share, value, known in zip(domain.quantiles, values, ranges, strict=False):
            shown = f"{share:.0%} of the normalised intensities{where} up to {value:.2f}, expected {_show(known)}"
            yield _beyond(value, known, margin), shown


def _beyond(value: float, known: Range, margin: float) -> float:
    """Return how far a value lies beyond a range, in margins."""
    low, high = known
    return float(max(low - value, value - high, 0.0) / max(RANGE_MARGIN * (high - low), margin))


def _show(known: Range) -> str:
    low, high = (f"{value:.3g}" for value in known)
    return low if low == high else f"{low} to {high}"


def join(one: OutOfDomain | None, other: OutOfDomain | None) -> OutOfDomain | None:
    """Return the larger distance, and the reasons of both."""
    if one is None or other is None:
        return one or other
    return OutOfDomain(max(one.distance, other.distance), (*one.reasons, *other.reasons))


def tell(unlike: OutOfDomain | None) -> list[str]:
    """Return the warning, if there is something to warn of."""
    if unlike is None or not unlike.reasons:
        return []
    reasons = "; ".join(unlike.reasons)
    return [f"unlike the training cases (distance {unlike.distance:.1f}, expected at most 1): {reasons}"]
