"""Resampling to a spacing on nnU-Net's grid: the outer borders stay, and thick slices are never mixed."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.transforms.utils import scale_affine
from monai.utils import TraceKeys, TransformBackends, ensure_tuple_rep
from scipy.ndimage import zoom

from tomoseg.core.errors import UsageError, VolumeError

MAX_ORDER = 5  # of scipy's splines
EQUAL_SPACING = 1e-6  # relative; affines hold spacings with the rounding errors of a rotation
TIE_VOXELS = 1e-5  # a point this close to the middle between two voxels takes the upper one
BLOCK = 64  # new voxels along an axis that are computed at once
NEGLIGIBLE = 1e-9  # weight of a voxel; those of a spline fall by 0.27 from one to the next


class ResampleToSpacingd(MapTransform, InvertibleTransform):  # type: ignore[misc]
    """Resample images to a spacing as nnU-Net does, with MONAI's record of it for `Invertd`.

    An axis of `size` voxels gets `round(size * old_spacing / spacing)` of them. The outer borders of the image stay
    where they are, so the new spacing may differ a little from the wanted one. Splines are those of
    `skimage.transform.resize(mode="edge", anti_aliasing=False)`: values stay in the range of their channel.

    Where voxels are so anisotropic that the coarsest axis must not be mixed, the nearest slice is taken along it, and
    splines only within its slices; values then stay in the range of their slice. `Invertd` restores linearly, or with
    `nearest_interp` to the nearest voxel; it decides about a coarsest axis by itself, from `spacing` first.

    Args:
        keys: of the images: MetaTensors (C, I, J, K), whose affine gives their spacing.
        spacing: mm along (I, J, K).
        order: of the splines, 0 (nearest) to 5, for all or for each of the keys.
        max_anisotropy: largest ratio between the spacings of two axes that are both interpolated: of the image's
            spacing, else of the wanted one, provided that one axis is the coarsest. None for no limit.
        allow_missing_keys: leave out those that the data does not have.

    Raises:
        UsageError: a spacing, an order or the limit is out of range.
        VolumeError: an image is no MetaTensor (C, I, J, K), or has no voxels.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from tomoseg.transforms import ResampleToSpacingd
        >>> image = MetaTensor(torch.rand(1, 40, 40, 12), affine=torch.diag(torch.tensor([1.0, 1.0, 5.0, 1.0])))
        >>> tuple(ResampleToSpacingd("image", (2, 2, 2.5))({"image": image})["image"].shape)
        (1, 20, 20, 24)
    """

    backend: ClassVar[list[Any]] = [TransformBackends.TORCH]

    def __init__(
        self,
        keys: KeysCollection,
        spacing: Sequence[float],
        order: int | Sequence[int] = 3,
        max_anisotropy: float | None = 3.0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if len(spacing) != 3 or not all(math.isfinite(mm) and mm > 0 for mm in spacing):
            raise UsageError(f"spacing: expected mm along 3 axes, got {spacing}")
        self.spacing = tuple(float(mm) for mm in spacing)
        self.orders: tuple[int, ...] = ensure_tuple_rep(order, len(self.keys))
        if not all(one in range(MAX_ORDER + 1) for one in self.orders):
            raise UsageError(f"order: expected 0 to {MAX_ORDER}, got {order}")
        self.max_anisotropy = math.inf if max_anisotropy is None else float(max_anisotropy)
        if not self.max_anisotropy >= 0:
            raise UsageError(f"max_anisotropy: expected a ratio of spacings, got {max_anisotropy}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample the items of the keys, and return them in a copy of the dictionary."""
        resampled = dict(data)
        for key, order in self.key_iterator(resampled, self.orders):
            resampled[key] = self._resample(resampled[key], order, str(key))
        return resampled

    def inverse(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with each image in the grid that it had."""
        restored = dict(data)
        for key in self.key_iterator(restored):
            image = restored[key]
            done = self.pop_transform(image)
            extra = done[TraceKeys.EXTRA_INFO]
            orders = [1 if extra["mode"] == "bilinear" else 0] * 3
            for axis in extra["nearest_axes"]:
                orders[axis] = 0
            values = resize(image.as_tensor(), done[TraceKeys.ORIG_SIZE], orders)
            restored[key] = MetaTensor(values).copy_meta_from(image)
            restored[key].affine = extra["src_affine"]
        return restored

    def _resample(self, image: Any, order: int, key: str) -> Any:
        if not isinstance(image, MetaTensor) or image.ndim != 4:
            raise VolumeError(
                f"the image {key!r}: ResampleToSpacingd expected a MetaTensor (C, I, J, K), got a "
                f"{type(image).__name__} {tuple(getattr(image, 'shape', ()))}; LoadImaged with ensure_channel_first "
                "makes one"
            )
        if not image.numel():
            raise VolumeError(f"the image {key!r}: a crop left nothing of it. Give a scan with voxels that are not 0")
        size, old = tuple(image.shape[1:]), image.pixdim.tolist()
        # nnunetv2.preprocessing.resampling.default_resampling.compute_new_shape
        shape = [
            max(round(mm / wanted * voxels), 1) for mm, wanted, voxels in zip(old, self.spacing, size, strict=True)
        ]
        coarsest = self._coarsest_axis(old, self.spacing)
        orders = [0 if axis == coarsest else order for axis in range(3)]
        # back, the image's spacing is the wanted one
        coarsest = self._coarsest_axis(self.spacing, old)
        values = MetaTensor(resize(image.as_tensor(), shape, orders)).copy_meta_from(image)
        return self.push_transform(
            values,
            affine=scale_affine(size, shape),
            extra_info={
                "mode": "bilinear" if order else "nearest",
                "padding_mode": "border",
                "nearest_axes": [] if coarsest is None else [coarsest],
                "src_affine": image.affine,
            },
            orig_size=size,
        )

    def _coarsest_axis(self, old: Sequence[float], new: Sequence[float]) -> int | None:
        """Return the axis that is not to be mixed; nnunetv2's `determine_do_sep_z_and_axis`."""
        for spacing in (old, new):
            if max(spacing) / min(spacing) > self.max_anisotropy:
                axes = [axis for axis, mm in enumerate(spacing) if mm >= max(spacing) * (1 - EQUAL_SPACING)]
                return axes[0] if len(axes) == 1 else None
        return None


def resize(volume: torch.Tensor, shape: Sequence[int], orders: Sequence[int]) -> torch.Tensor:
    """Return a volume in other voxels between the same outer borders, which the outermost voxels reach beyond.

    Args:
        volume: (C, I, J, K).
        shape: the wanted number of voxels along (I, J, K).
        orders: of the splines along (I, J, K); an axis of order 0 comes last, and the others are clipped to the range
            of each of its slices, which only orders of 2 and more leave.

    Returns:
        (C, *shape) float32.
    """
    resized = volume.float().contiguous()
    within = [axis for axis, order in enumerate(orders) if order]
    spans = [axis + 1 for axis in within]
    limits = [pick(resized, spans, keepdim=True) for pick in (torch.amin, torch.amax)] if max(orders) > 1 else []
    # what makes the volume smaller comes first
    for axis in sorted(within, key=lambda axis: shape[axis] / volume.shape[axis + 1]):
        resized = _apply(resized, axis + 1, shape[axis], orders[axis])
    if limits:
        resized = resized.clamp(*limits)
    for axis in set(range(3)) - set(within):
        resized = resized.index_select(axis + 1, _nearest(volume.shape[axis + 1], shape[axis]).to(volume.device))
    return resized


def _nearest(size: int, resized: int) -> torch.Tensor:
    """Return for each of the new voxels along an axis the old one that has its centre."""
    index = np.floor((np.arange(resized) + 0.5) * (size / resized) + TIE_VOXELS).astype(np.int64)
    return torch.from_numpy(np.minimum(index, size - 1))


def _apply(volume: torch.Tensor, dim: int, resized: int, order: int) -> torch.Tensor:
    """Resize one axis by a product with the spline's matrix, block by block of the band in which it is not 0."""
    size = volume.shape[dim]
    if size == resized:
        return volume
    matrix = zoom(np.eye(size), (resized / size, 1), order=order, mode="nearest", grid_mode=True)
    result = volume.new_empty((*volume.shape[:dim], resized, *volume.shape[dim + 1 :]))
    old, new = (
        one.flatten(0, dim - 1).flatten(2) if dim < 3 else one.flatten(0, 2).T[None] for one in (volume, result)
    )
    for first in range(0, resized, BLOCK):
        rows = matrix[first : first + BLOCK]
        band = np.flatnonzero(np.abs(rows).max(axis=0) > NEGLIGIBLE)
        columns = slice(int(band[0]), int(band[-1]) + 1)
        block = torch.from_numpy(rows[:, columns]).to(volume)
        for part, into in zip(old[:, columns], new[:, first : first + BLOCK], strict=True):
            torch.mm(block, part, out=into)
    return result
