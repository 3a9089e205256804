"""Where the windows of a sliding-window inference lie: exactly where MONAI puts them, or exactly where nnU-Net does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, product

import numpy as np
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import SlidingWindowInferer
from monai.utils import PytorchPadMode, ensure_tuple_rep, fall_back_tuple
from scipy.ndimage import gaussian_filter

Corner = tuple[int, int, int]  # first voxel of a window along (D, H, W)


@dataclass(frozen=True)
class Windows:
    """The windows over one padded volume, in groups that start at the same slice of the slab axis.

    Attributes:
        roi_size: window size in voxels along (D, H, W).
        slab_axis: 0, 1 or 2; the groups are ordered along it.
        groups: for each start along the slab axis the windows' first voxels (d, h, w), in MONAI's order.
        pad: voxels to add (before, after) along (D, H, W) where the volume is smaller than the window.
        shape: size of the padded volume along (D, H, W).
    """

    roi_size: tuple[int, int, int]
    slab_axis: int
    groups: tuple[tuple[int, tuple[tuple[int, int, int], ...]], ...]
    pad: tuple[tuple[int, int], ...]
    shape: tuple[int, int, int]

    @property
    def count(self) -> int:
        """Number of windows."""
        return sum(len(corners) for _, corners in self.groups)


def place_windows(shape: Sequence[int], inferer: SlidingWindowInferer) -> Windows:
    """Place the windows of `inferer` over a volume of `shape` voxels along (D, H, W).

    The slab axis is the one with the most voxels, so that a slab is as thin as it can be.
    """
    roi_size = fall_back_tuple(inferer.roi_size, shape)
    padded = tuple(max(size, roi) for size, roi in zip(shape, roi_size, strict=True))
    missing = [whole - size for whole, size in zip(padded, shape, strict=True)]
    overlap = ensure_tuple_rep(inferer.overlap, 3)
    if has_nnunet_windows(inferer):
        corners = [(d, h, w) for d, h, w in product(*map(_nnunet_starts, padded, roi_size, overlap))]
    else:
        corners = _monai_corners(padded, roi_size, overlap)
    slab_axis = max(range(3), key=lambda axis: padded[axis])
    corners.sort(key=lambda corner: corner[slab_axis])  # stable: the order within a group is kept
    groups = tuple((start, tuple(group)) for start, group in groupby(corners, key=lambda corner: corner[slab_axis]))
    pad = tuple((lack // 2, lack - lack // 2) for lack in missing)
    return Windows(roi_size, slab_axis, groups, pad, padded)


def has_nnunet_windows(inferer: SlidingWindowInferer) -> bool:
    """Return whether the bundle's config declares nnU-Net's windows, see `InferenceConfig.nnunet_windows`."""
    return bool(getattr(inferer, "nnunet_windows", False))


def _monai_corners(padded: Sequence[int], roi_size: Sequence[int], overlap: Sequence[float]) -> list[Corner]:
    # monai.inferers.utils._get_scan_interval
    interval = tuple(
        roi if roi == size else max(int(roi * (1 - share)), 1)
        for roi, size, share in zip(roi_size, padded, overlap, strict=True)
    )
    return [(d.start, h.start, w.start) for d, h, w in dense_patch_slices(padded, roi_size, interval)]


def _nnunet_starts(size: int, roi: int, overlap: float) -> list[int]:
    """Return the first voxels of nnU-Net's windows along one axis: as few as the overlap allows, evenly spread.

    nnunetv2.inference.sliding_window_prediction.compute_steps_for_sliding_window
    """
    steps = math.ceil((size - roi) / (roi * (1 - overlap)))
    return [round(index * ((size - roi) / steps)) for index in range(steps + 1)] if steps else [0]


def importance_map(windows: Windows, inferer: SlidingWindowInferer, device: torch.device) -> torch.Tensor:
    """Return the weights of the voxels of a window, (D, H, W) float32, as MONAI or nnU-Net computes them."""
    if has_nnunet_windows(inferer):
        return _nnunet_weights(windows.roi_size).to(device)
    weights: torch.Tensor = compute_importance_map(
        windows.roi_size, mode=inferer.mode, sigma_scale=inferer.sigma_scale, device=device, dtype=torch.float32
    )
    return weights


def _nnunet_weights(roi_size: Sequence[int]) -> torch.Tensor:
    """Return a Gaussian around `size // 2`, rounded to float16; nnunetv2's `compute_gaussian`."""
    impulse = np.zeros(tuple(roi_size))
    impulse[tuple(size // 2 for size in roi_size)] = 1
    weights = gaussian_filter(impulse, [size / 8 for size in roi_size], mode="constant", cval=0)
    weights = (weights / (weights.max() / 10)).astype(np.float16)
    weights[weights == 0] = weights[weights > 0].min()
    return torch.from_numpy(weights.astype(np.float32))


def pad_volume(image: torch.Tensor, windows: Windows, inferer: SlidingWindowInferer) -> torch.Tensor:
    """Return (C, D, H, W) made as large as the window where it is smaller, as MONAI pads it."""
    if windows.shape == tuple(image.shape[1:]):
        return image
    flat = [voxels for pair in reversed(windows.pad) for voxels in pair]
    mode = PytorchPadMode(inferer.padding_mode).value
    return torch.nn.functional.pad(image[None], flat, mode=mode, value=inferer.cval)[0]
