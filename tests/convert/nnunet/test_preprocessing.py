"""The preprocessing of an imported bundle: nnU-Net's own, step by step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import Compose
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes

from tomoseg import Grid
from tomoseg.convert.nnunet.network import TEMPLATES
from tomoseg.convert.nnunet.plans import Channel, Resampling
from tomoseg.inference.sliding_window.placement import place
from tomoseg.planning.template import render_config

NONE = Resampling(resamples=False)
CT = Channel("CTNormalization", True, mean=-20.0, std=150.0, low=-400.0, high=300.0)
OTHER_CT = Channel("CTNormalization", mean=30.0, std=0.0, low=-60.0, high=90.0)
Z, MASKED = Channel("ZScoreNormalization"), Channel("ZScoreNormalization", True)
UNIT, RGB, AS_IT_IS = (Channel(f"{name}Normalization") for name in ("RescaleTo01", "RGBTo01", "No"))


def steps(channels: list[Channel], resampling: Resampling = NONE) -> Compose:
    """Return the transforms, built of the text of a config, as a bundle holds it."""
    masked = [index for index, one in enumerate(channels) if one.in_mask]
    values = {"channels": channels, "masked": masked, "resampling": resampling, "spacing": (1.5, 1.5, 2.0)}
    values["parts"] = [f"image_{index}" for index in range(len(channels))]
    _, *entries = render_config("preprocessing", TEMPLATES, axcodes=None, **values)  # without LoadImaged
    return ConfigParser({"steps": {"_target_": "Compose", "transforms": entries}}).get_parsed_content("steps")


def scan(channels: int) -> MetaTensor:
    """Return a body in zeros with a hole; one part of it is 0 in all channels but the first."""
    values = np.zeros((channels, 14, 13, 12), "float32")
    values[:, 2:12, 3:11, 1:10] = np.random.default_rng(0).normal(90, 200, (channels, 10, 8, 9)).round()
    values[:, 6, 6, 6] = 0
    values[1:, 2:4] = 0
    return MetaTensor(torch.from_numpy(values), affine=np.diag([1.5, 1.2, 2, 1]))


def normalized(image: NDArray[Any], channel: Channel, mask: NDArray[Any]) -> NDArray[Any]:
    """Return (I, J, K) as nnunetv2.preprocessing.normalization has it."""
    if channel == Z:
        return np.asarray((image - image.mean()) / image.std())
    if channel == MASKED:
        return np.where(mask, (image - image[mask].mean()) / image[mask].std(), image)
    if channel.scheme == "CTNormalization":
        return np.asarray((image.clip(channel.low, channel.high) - channel.mean) / max(channel.std, 1e-8))
    if channel == UNIT:
        return np.asarray((image - image.min()) / (image.max() - image.min()))
    return image / 255 if channel == RGB else image


@pytest.mark.parametrize(
    "channels",
    [
        *([one] for one in (CT, OTHER_CT, Z, MASKED, UNIT, RGB, AS_IT_IS)), [Z, Z], [MASKED, MASKED], [UNIT, UNIT],
        [CT, CT], [CT, OTHER_CT], [CT, MASKED], [MASKED, Z, UNIT], [AS_IT_IS, MASKED], [RGB, AS_IT_IS],
    ],
    ids=lambda channels: ", ".join(one.scheme.replace("Normalization", "m" * one.masked) for one in channels),
)  # fmt: skip
def test_each_channel_is_normalised_as_in_nnunet(channels: list[Channel]) -> None:
    image = scan(len(channels))
    data = steps(channels)({"image": image})
    assert not [key for key in data if key.startswith("image_")]
    body = image.numpy()[:, 2:12, 3:11, 1:10].astype(float)
    mask = binary_fill_holes((body != 0).any(axis=0))
    expected = np.stack([normalized(one, channel, mask) for one, channel in zip(body, channels, strict=True)])
    np.testing.assert_allclose(data["image"].numpy(), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("channels", [[Z], [CT, MASKED]])
def test_the_engine_knows_where_the_image_lies(channels: list[Channel]) -> None:
    """Also where channels were separated: the whole image records the crop and the resampling."""
    image = scan(len(channels))
    found = steps(channels, Resampling(order=1, max_anisotropy=1.1))({"image": image})["image"]
    assert found.shape == (len(channels), 10, 6, 9)
    placement = place(found, Grid((14, 13, 12), np.array(image.affine)))
    assert placement.inside == ((2, 3, 1), (12, 11, 10))
    assert placement.nearest_axes == (2,)
