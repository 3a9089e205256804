"""Copies of labelled scans that are worse than the scan, to learn how a result that went wrong looks."""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from monai.transforms import (
    AdjustContrast,
    Flip,
    GaussianSmooth,
    GibbsNoise,
    RandBiasField,
    RandGaussianNoise,
    Resize,
    Rotate,
    Rotate90,
    Zoom,
)
from numpy.typing import NDArray

from tomoseg.data.geometry import Grid
from tomoseg.data.volume import Volume

Voxels = NDArray[Any]  # (C, I, J, K)
SEVERITIES: Final = 3


@dataclass(frozen=True)
class Corruption:
    """One way in which scans go wrong.

    Attributes:
        intensity: changes an image whose values have the mean 0 and the SD 1, for a severity from 0 to 2.
        place: moves the voxels of an image and of its label map alike.
    """

    intensity: Callable[[int], Callable[[Any], Any]] | None = None
    place: Callable[[int], Callable[[Any], Any]] | None = None


def _thick(severity: int) -> Callable[[Any], Any]:
    return lambda image: Resize(image.shape[1:])(Zoom((1, 1, (0.5, 0.25, 0.12)[severity]), keep_size=False)(image))


def _moved(severity: int) -> Callable[[Any], Any]:
    angle = (0.1, 0.2, 0.4)[severity]
    return lambda image: (image + Rotate((angle, 0, angle))(image) + Rotate((0, -angle, -angle))(image)) / 3


def _cut(severity: int) -> Callable[[Any], Any]:
    share = (0.75, 0.5, 0.35)[severity]
    return lambda image: image[:, :, : max(round(share * image.shape[2]), 1)]


def _other_contrast(severity: int) -> Callable[[Any], Any]:
    return (AdjustContrast(0.4, retain_stats=True), AdjustContrast(4.0, retain_stats=True), torch.neg)[severity]


CORRUPTIONS: Final = {
    "noise": Corruption(lambda s: RandGaussianNoise(prob=1, std=(0.5, 1.5, 4.0)[s], sample_std=False)),
    "blur": Corruption(lambda s: GaussianSmooth((1.0, 2.0, 4.0)[s])),
    "ringing": Corruption(lambda s: GibbsNoise((0.6, 0.8, 0.9)[s])),
    "motion": Corruption(_moved),
    "thick slices": Corruption(_thick),
    "bias field": Corruption(lambda s: RandBiasField(prob=1, coeff_range=((0.1, 0.2), (0.2, 0.4), (0.4, 0.8))[s])),
    "contrast": Corruption(_other_contrast),
    "orientation": Corruption(place=lambda s: (Flip(1), Flip(2), Rotate90(1, (0, 2)))[s]),
    "cropped": Corruption(place=_cut),
}


def corrupt(volume: Volume, labels: NDArray[Any], kind: str, severity: int) -> tuple[Volume, NDArray[Any]]:
    """Return a scan and its label map with one of `CORRUPTIONS`; the same each time.

    Args:
        volume: the scan.
        labels: (I, J, K).
        kind: name of the corruption.
        severity: 0 to 2.
    """
    chosen, image = CORRUPTIONS[kind], np.stack(volume.channels)
    if chosen.place is not None:
        image, labels = (np.asarray(chosen.place(severity)(one)) for one in (image, labels[None]))
        labels = labels[0]
    else:
        assert chosen.intensity is not None
        mean, sd = image.mean(), image.std() or 1.0
        change = chosen.intensity(severity)
        if hasattr(change, "set_random_state"):
            change.set_random_state(zlib.crc32(f"{volume.source} {kind} {severity}".encode()))
        lowest = (image.min() - mean) / sd if kind == "bias field" else 0.0  # which multiplies
        changed = np.asarray(change(torch.from_numpy((image - mean) / sd - lowest))) + lowest
        image = (changed * sd + mean).astype(np.float32)
    first, *others = image
    grid = Grid(first.shape, volume.grid.affine)
    return replace(volume, array=first, grid=grid, other_channels=tuple(others)), labels


def list_copies(count: int, name: str) -> Iterator[tuple[str, int]]:
    """Yield the corruptions of a case: as many of all as are asked for, and other ones for other cases."""
    every = [(kind, severity) for severity in range(SEVERITIES) for kind in CORRUPTIONS]
    order = np.random.default_rng(zlib.crc32(name.encode())).permutation(len(every))
    yield from (every[index] for index in order[:count])
