"""nnU-Net's preprocessing as MONAI's transforms: crop, normalise each channel, resample."""

from collections.abc import Sequence

from tomoseg.bundle.configs import Json, component
from tomoseg.convert.nnunet.plans import Channel, Resampling

SMALLEST_SD = 1e-8


def preprocessing_steps(
    key: str, spacing: Sequence[float], channels: Sequence[Channel], resampling: Resampling
) -> list[Json]:
    """Return the entries of a config that do what nnU-Net does with a scan that was loaded and turned.

    Args:
        key: of the image.
        spacing: mm along the axes of the image.
        channels: how each is normalised.
        resampling: how it is brought to the spacing.
    """
    # no expression, which a reader of the config would have to understand
    not_zero = component("torch.ne", other=0, _mode_="callable")
    crop = component("CropForegroundd", keys=key, source_key=key, select_fn=not_zero, allow_smaller=True)
    resample = component(
        "tomoseg.transforms.ResampleToSpacingd",
        keys=key,
        spacing=list(spacing),
        order=resampling.order,
        max_anisotropy=resampling.max_anisotropy,
    )
    return [crop, *_normalize(key, channels), *([resample] if resampling.resamples else [])]


def _normalize(key: str, channels: Sequence[Channel]) -> list[Json]:
    masked = [index for index, one in enumerate(channels) if one.in_mask]
    if len(masked) == len(channels):
        return [component("tomoseg.transforms.NormalizeForegroundd", keys=key)]
    # it must see which voxels are 0 in all channels
    steps = [component("tomoseg.transforms.NormalizeForegroundd", keys=key, channels=masked)] if masked else []
    if not masked and len(set(channels)) == 1:
        return _normalize_one(key, channels[0])
    apart = [f"{key}_{index}" for index in range(len(channels))]
    each = [_normalize_one(name, channels[index]) for index, name in enumerate(apart) if index not in masked]
    if not any(each):
        return steps
    return [
        *steps,
        component("SplitDimd", keys=key),
        *(step for one in each for step in one),
        component("ConcatItemsd", keys=apart, name=key),
        component("DeleteItemsd", keys=apart),
    ]


def _normalize_one(key: str, channel: Channel) -> list[Json]:
    match channel.scheme:
        case "CTNormalization":
            low, high, sd = channel.low, channel.high, max(channel.std, SMALLEST_SD)
            return [
                component(
                    "ScaleIntensityRanged", keys=key, a_min=low, a_max=high,
                    b_min=(low - channel.mean) / sd, b_max=(high - channel.mean) / sd, clip=True,
                )
            ]  # fmt: skip
        case "ZScoreNormalization":
            return [component("NormalizeIntensityd", keys=key, channel_wise=True)]
        case "RescaleTo01Normalization":
            return [component("ScaleIntensityd", keys=key, minv=0.0, maxv=1.0, channel_wise=True)]
        case "RGBTo01Normalization":
            return [component("ScaleIntensityRanged", keys=key, a_min=0.0, a_max=255.0, b_min=0.0, b_max=1.0)]
    return []
