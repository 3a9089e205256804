"""Images on nnU-Net's grid and back: splines as in scikit-image, slices that are not mixed, outer borders kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, Invertd
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from skimage.transform import resize

from tomoseg.core.errors import UsageError, VolumeError, root_cause
from tomoseg.transforms import ResampleToSpacingd

Triple = tuple[float, float, float]

# shape, spacing, wanted spacing, the axis along which the nearest slice is taken there, and back; each differs from the
# one before in what decides
GRIDS = [
    ((20, 31, 17), (1, 1, 1), (1.3, 0.7, 1), None, None),
    ((40, 36, 12), (0.8, 0.8, 5), (1.5, 1.5, 1.5), 2, 2),
    ((40, 36, 12), (0.8, 0.8, 5), (1.5, 1.5, 2.5), 2, 2),  # back each slice lies between two
    ((24, 40, 36), (2, 0.8, 0.8), (5, 0.8, 0.8), 0, 0),
    ((12, 40, 36), (6, 1, 1.2), (1, 1, 4), 0, 2),
    ((12, 30, 9), (0.2, 1.25, 1.25), (1, 1, 4.5), None, 2),  # two coarsest axes
    ((30, 30, 31), (1.5, 1.5, 1), (3, 3, 2), None, None),
    ((30, 30, 10), (1, 1, 3), (2, 2, 6), None, None),  # not above the limit
    ((9, 8, 7), (1.5, 1.5, 1.5), (1.5, 1.5, 1.5), None, None),
    ((3, 4, 1), (1, 1, 2), (0.5, 0.5, 8), 2, 2),  # half a voxel is left
]


def image(shape: Any, spacing: Triple, channels: int = 2, seed: int = 0) -> MetaTensor:
    """Return noise in a grid that is turned by 30 degrees around the last axis and lies off the origin."""
    angle, affine = np.deg2rad(30), np.eye(4)
    affine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    affine[:3, :3] *= spacing
    affine[:3, 3] = -70, 20.5, 300
    values = np.random.default_rng(seed).normal(size=(channels, *shape)).astype("float32")
    return MetaTensor(torch.from_numpy(values), affine=affine)


def resized(volume: NDArray[Any], shape: Any, order: int, nearest: int | None) -> NDArray[Any]:
    """Return what nnU-Net's resampling gives for (I, J, K): slice by slice, then the nearest slice."""
    volume = volume.astype(float)
    if nearest is None:
        found: NDArray[Any] = resize(volume, shape, order, mode="edge", anti_aliasing=False)
        return found
    within = [size for axis, size in enumerate(shape) if axis != nearest]
    slices = [resize(one, within, order, mode="edge", anti_aliasing=False) for one in np.moveaxis(volume, nearest, 0)]
    stacked = np.stack(slices, axis=nearest)
    scales = [old / new for old, new in zip(stacked.shape, shape, strict=True)]
    points = [scale * (index + 0.5) - 0.5 for scale, index in zip(scales, np.indices(shape), strict=True)]
    nearest_slices: NDArray[Any] = map_coordinates(stacked, points, order=0, mode="nearest")
    return nearest_slices


@pytest.mark.parametrize("order", [3, 1])
@pytest.mark.parametrize(("shape", "spacing", "wanted", "there", "back"), GRIDS)
def test_there_and_back_as_nnunet(
    shape: Any, spacing: Triple, wanted: Triple, there: int | None, back: int | None, order: int
) -> None:
    steps = Compose([ResampleToSpacingd("image", wanted, order)])
    original = image(shape, spacing)
    data = steps({"image": original})
    new = tuple(max(round(a / b * size), 1) for a, b, size in zip(spacing, wanted, shape, strict=True))
    expected = np.stack([resized(channel, new, order, there) for channel in original.numpy()])
    np.testing.assert_allclose(data["image"].numpy(), expected, atol=1e-5)

    logits = image(new, wanted, channels=3, seed=1)
    restored = Invertd("pred", steps, "image", nearest_interp=False)({**data, "pred": logits})["pred"]
    expected = np.stack([resized(channel, shape, 1, back) for channel in logits.numpy()])
    np.testing.assert_allclose(restored.numpy(), expected, atol=1e-5)
    torch.testing.assert_close(restored.affine, original.affine)
    assert restored.applied_operations == []


@pytest.mark.parametrize(("shape", "spacing", "wanted", "there", "back"), GRIDS)
def test_the_outer_borders_stay(
    shape: Any, spacing: Triple, wanted: Triple, there: int | None, back: int | None
) -> None:
    before = image(shape, spacing)
    after = ResampleToSpacingd("image", wanted)({"image": before})["image"]
    for corner in ((0, 0, 0), (1, 0, 1), (1, 1, 1)):
        first, second = (one.affine.numpy() @ [*(np.array(corner) * one.shape[1:] - 0.5), 1] for one in (before, after))
        np.testing.assert_allclose(first, second, atol=1e-9)


def test_labels_stay_labels_there_and_back() -> None:
    """With one order for each key, and behind a crop; `nearest_interp` brings labels back."""
    scan = image((30, 20, 10), (1, 1, 2), channels=1)
    label = scan.clone().copy_meta_from(scan)
    label[:] = 0
    label[:, 8:20, 5:15, 2:7] = 7
    keys = ["image", "label"]
    steps = Compose([CropForegroundd(keys, "label", margin=1), ResampleToSpacingd(keys, (0.5, 2, 1.5), (3, 0))])
    data = steps({"image": scan, "label": label})
    assert data["image"].shape == data["label"].shape
    assert set(data["label"].unique().tolist()) == {0, 7}
    labels = MetaTensor(data["label"].as_tensor())
    restored = Invertd("pred", steps, "image", nearest_interp=True)({**data, "pred": labels})["pred"]
    assert set(restored.unique().tolist()) == {0, 7}
    assert (restored.as_tensor() == label.as_tensor()).float().mean() > 0.97


@pytest.mark.parametrize(("limit", "nearest"), [(3, 2), (5, 2), (6.3, None), (None, None), (0, 2)], ids=str)
def test_the_limit_of_anisotropy(limit: float | None, nearest: int | None) -> None:
    scan = image((30, 20, 10), (0.8, 0.8, 5), channels=1)
    found = ResampleToSpacingd("image", (1.5, 1.5, 1.5), max_anisotropy=limit)({"image": scan})["image"]
    expected = resized(scan[0].numpy(), found.shape[1:], 3, nearest)
    np.testing.assert_allclose(found[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"spacing": (1, 1)}, "spacing: expected mm along 3 axes"),
        ({"spacing": (1, 0, 1)}, "spacing: expected mm along 3 axes"),
        ({"spacing": (1, float("nan"), 1)}, "spacing: expected mm along 3 axes"),
        ({"spacing": (1, 1, 1), "order": 6}, "order: expected 0 to 5, got 6"),
        ({"spacing": (1, 1, 1), "max_anisotropy": -1}, "max_anisotropy: expected a ratio"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        ResampleToSpacingd("image", **options)


def test_a_scan_of_which_a_crop_leaves_nothing() -> None:
    steps = Compose([CropForegroundd("image", "image"), ResampleToSpacingd("image", (1, 1, 1))])
    with pytest.raises(RuntimeError) as error:
        steps({"image": MetaTensor(torch.zeros(1, 4, 4, 4))})
    assert str(root_cause(error.value)).startswith("the image 'image': a crop left nothing of it. Give a scan with")


@pytest.mark.parametrize("wrong", [torch.zeros(1, 4, 4, 4), MetaTensor(torch.zeros(4, 4, 4)), "scan.nii.gz"])
def test_an_image_without_a_grid(wrong: Any) -> None:
    with pytest.raises(VolumeError, match=r"'image': ResampleToSpacingd expected a MetaTensor \(C, I, J, K\), got a"):
        ResampleToSpacingd("image", (1, 1, 1))({"image": wrong})
