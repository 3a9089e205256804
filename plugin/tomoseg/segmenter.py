"""One scan in, one segmentation out."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import torch

from tomoseg.bundle import Bundle
from tomoseg.errors import BundleError, UsageError, one_line
from tomoseg.geometry import Grid
from tomoseg.pipeline import Pipeline, Prediction
from tomoseg.registry import find_bundle
from tomoseg.segmentation import Segmentation
from tomoseg.volumes import Volume, read_volume

if TYPE_CHECKING:
    import SimpleITK as sitk


class Segmenter:
    """A bundle with its weights loaded, ready for any number of scans.

    Args:
        bundle: the bundle.
        device: "auto" (CUDA where there is one, else the CPU), "cpu", "cuda" or "cuda:N".
        overlap: share of the sliding window by which neighbours overlap, in [0, 1); None for the bundle's own.

    Raises:
        UsageError: the device does not exist, or the overlap is out of range.
        BundleError: the bundle's config or checkpoint is missing, damaged, or does not fit the other.
    """

    def __init__(self, bundle: Bundle, device: str = "auto", overlap: float | None = None) -> None:
        if overlap is not None and not 0 <= overlap < 1:
            raise UsageError(f"overlap: expected a share from 0 to below 1, got {overlap}")
        self.bundle = bundle
        self.overlap = overlap
        self.names = bundle.labels
        self._pipeline = Pipeline(bundle, _choose_device(device), overlap)

    @classmethod
    def from_bundle(
        cls, name_or_folder: str | os.PathLike[str], *, device: str = "auto", overlap: float | None = None
    ) -> Segmenter:
        """Load a bundle by its registered name, an unambiguous beginning of one, or its folder."""
        return cls(find_bundle(name_or_folder), device, overlap)

    @property
    def device(self) -> str:
        return str(self._pipeline.device)

    @property
    def checkpoint(self) -> str:
        """Path of the weights in use."""
        return str(self._pipeline.checkpoint)

    def __call__(
        self, source: str | os.PathLike[str] | nib.spatialimages.SpatialImage | sitk.Image | Volume
    ) -> Segmentation:
        """Segment one scan.

        Args:
            source: path of a NIfTI file, a nibabel image, a SimpleITK image, or a volume that was read already.

        Raises:
            VolumeError: the scan is missing, damaged, not 3D, or holds non-finite values.
            BundleError: the bundle fails on it.
        """
        start = time.perf_counter()
        volume = source if isinstance(source, Volume) else read_volume(source)
        reading = time.perf_counter() - start
        prediction = self._pipeline(volume)
        return Segmentation(
            labels=self._label_map(prediction, volume.grid),
            grid=volume.grid,
            names=self.names,
            seconds={"reading": reading, **prediction.seconds},
            header=volume.header,
            remark=prediction.remark,
        )

    def _label_map(self, prediction: Prediction, grid: Grid) -> np.ndarray[Any, np.dtype[Any]]:
        """Return the labels as (I, J, K), after making sure that they lie in the scan's grid."""
        where = f"bundle {self.bundle.name}: post-processing"
        array = prediction.array
        if array.ndim == 4 and array.shape[0] != 1:
            raise BundleError(
                f"{where}: expected one label map, got {array.shape[0]} channels; end it with an arg-max (AsDiscreted)"
            )
        array = array.reshape(array.shape[-3:])
        if not Grid(array.shape, prediction.affine).matches(grid):
            raise BundleError(
                f"{where}: expected labels in the scan's grid {grid.shape}, got {array.shape} elsewhere; "
                "the config lacks an Invertd that undoes its preprocessing"
            )
        largest = max(self.names, default=int(array.max(initial=0)))
        labels = array.astype(np.uint8 if largest <= 255 else np.uint16)
        if not np.array_equal(labels, array):
            raise BundleError(f"{where}: expected whole label numbers, got others, e.g. {array.max():g}")
        return labels


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}: {one_line(error, 80)}") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device: {name} asked for, but there are {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    return device
