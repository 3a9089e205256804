"""What the scans are like that a bundle was trained on, in aggregated numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tomoseg.bundle.measured import read_measured, save_measured

DOMAIN: Final = "configs/domain.json"
LOOK_SIDE: Final = 8  # blocks along each axis of a scan, over which its intensities are averaged

Range = tuple[float, float]  # 1st and 99th percentile over the training cases


@dataclass(frozen=True)
class Domain:
    """The contents of `configs/domain.json`; axes in the order right, anterior, superior.

    Attributes:
        cases: number of training cases.
        spacing_mm: range of their voxel sizes along each axis.
        extent_mm: range of their fields of view along each axis.
        quantiles: of the intensities, in [0, 1].
        intensities: for each channel and quantile, its range after the bundle's preprocessing.
        roughness: range of the SD of the differences between neighbouring voxels, relative to that of the voxels.
        look: weight of each of the 8×8×8 blocks of the body. The weighted sum of the blocks' standardised mean
            intensities is the likeness: about 1 for training cases, -1 for those turned upside down or back to front.
        least_likeness: that counts as like the training cases.
    """

    cases: int
    spacing_mm: tuple[Range, Range, Range]
    extent_mm: tuple[Range, Range, Range]
    quantiles: tuple[float, ...]
    intensities: tuple[tuple[Range, ...], ...]
    roughness: Range
    look: tuple[float, ...]
    least_likeness: float

    def __post_init__(self) -> None:
        if len(self.look) != LOOK_SIDE**3 or any(len(one) != len(self.quantiles) for one in self.intensities):
            raise ValueError(f"expected {LOOK_SIDE**3} weights, and a range for each quantile")

    def save(self, root: Path) -> None:
        """Write it into a bundle's folder, atomically.

        Raises:
            OutputError: it cannot be written.
        """
        save_measured(root / DOMAIN, self)


def read_domain(root: Path) -> Domain | None:
    """Return what the bundle in a folder was trained on; None where it does not say.

    Raises:
        BundleError: the file is damaged.
    """
    return read_measured(root / DOMAIN, Domain, "Train the bundle again")
