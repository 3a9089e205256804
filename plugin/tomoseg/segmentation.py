"""The result for one scan."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from tomoseg.geometry import Grid
from tomoseg.volumes import write_label_map


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A label map in the scan's own grid.

    Args:
        labels: (I, J, K) uint8, or uint16 where the bundle has more than 255 labels.
        grid: equal to the scan's.
        names: label value → name, background left out.
        seconds: time of each stage, in the order they ran.
        header: the scan's NIfTI header, if it had one.
        remark: what was done otherwise than usual, empty if nothing was.
    """

    labels: NDArray[np.unsignedinteger[Any]]
    grid: Grid
    names: dict[int, str]
    seconds: dict[str, float] = field(default_factory=dict)
    header: nib.Nifti1Header | None = None
    remark: str = ""

    @property
    def voxel_counts(self) -> dict[int, int]:
        """Number of voxels of each label value, 0 for a label that does not occur."""
        counts = np.bincount(self.labels.ravel(), minlength=max(self.names, default=0) + 1)
        return {value: int(counts[value]) for value in self.names}

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Volume of each label in millilitres, 0 for a label that does not occur."""
        return {self.names[value]: count * self.grid.voxel_volume_ml for value, count in self.voxel_counts.items()}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the label map as NIfTI; the file is there whole or not at all.

        Args:
            path: ends in .nii.gz or .nii; missing folders are made.

        Raises:
            OutputError: the name has another suffix, or the file cannot be written.
        """
        write_label_map(Path(path), self.labels, self.grid, self.header)
