"""Where the windows of a sliding-window inference lie: exactly where MONAI's `sliding_window_inference` puts them."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import SlidingWindowInferer
from monai.utils import PytorchPadMode, ensure_tuple_rep, fall_back_tuple


@dataclass(frozen=True)
class Windows:
    """The windows over one padded volume, in groups that start at the same slice of the slab axis.

    Args:
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
    # monai.inferers.utils._get_scan_interval
    interval = tuple(
        roi if roi == size else max(int(roi * (1 - share)), 1)
        for roi, size, share in zip(roi_size, padded, overlap, strict=True)
    )
    corners = [tuple(part.start for part in window) for window in dense_patch_slices(padded, roi_size, interval)]
    slab_axis = max(range(3), key=lambda axis: padded[axis])
    corners.sort(key=lambda corner: corner[slab_axis])  # stable: MONAI's order within a group
    groups = tuple((start, tuple(group)) for start, group in groupby(corners, key=lambda corner: corner[slab_axis]))
    pad = tuple((lack // 2, lack - lack // 2) for lack in missing)
    return Windows(roi_size, slab_axis, groups, pad, padded)


def importance_map(windows: Windows, inferer: SlidingWindowInferer, device: torch.device) -> torch.Tensor:
    """Return the weights of the voxels of a window, (D, H, W) float32, as MONAI computes them."""
    weights: torch.Tensor = compute_importance_map(
        windows.roi_size, mode=inferer.mode, sigma_scale=inferer.sigma_scale, device=device, dtype=torch.float32
    )
    return weights


def pad_volume(image: torch.Tensor, windows: Windows, inferer: SlidingWindowInferer) -> torch.Tensor:
    """Return (C, D, H, W) made as large as the window where it is smaller, as MONAI pads it."""
    if windows.shape == tuple(image.shape[1:]):
        return image
    flat = [voxels for pair in reversed(windows.pad) for voxels in pair]
    mode = PytorchPadMode(inferer.padding_mode).value
    return torch.nn.functional.pad(image[None], flat, mode=mode, value=inferer.cval)[0]
