"""nnU-Net's preprocessing as transforms of MONAI, with two of ours: crop, normalise, resample, in this order."""

from collections.abc import Sequence

from tomoseg.bundle.configs import Json, component
from tomoseg.convert.nnunet.plans import Channel, Resampling
from tomoseg.core.errors import BundleError

SMALLEST_SD = 1e-8  # nnunetv2's CTNormalization
RGB_RANGE = 255.0
BEYOND = 3e38  # any value of a scan, in float32


def preprocessing_steps(
    key: str, spacing: Sequence[float], channels: Sequence[Channel], resampling: Resampling
) -> list[Json]:
    """Return the steps that follow loading and orientation.

    Args:
        key: of the scan.
        spacing: of the network's grid in mm, along the axes of the scan.
        channels: how each is normalised.
        resampling: to that grid.

    Raises:
        BundleError: channels are normalised in a combination that these steps cannot say.
    """
    crop = component("CropForegroundd", keys=key, source_key=key, select_fn="$lambda x: x != 0", allow_smaller=True)
    steps = [crop, *_normalise(key, channels)]
    if not resampling.resamples:
        return steps
    step = component("tomoseg.transforms.ResampleToSpacingd", keys=key, spacing=list(spacing))
    if resampling.order != 3:
        step["order"] = resampling.order
    if resampling.max_anisotropy != 3:
        step["max_anisotropy"] = resampling.max_anisotropy
    return [*steps, step]


def _normalise(key: str, channels: Sequence[Channel]) -> list[Json]:
    schemes = {channel.scheme for channel in channels}
    if schemes == {"RescaleTo01Normalization"}:
        return [component("ScaleIntensityd", keys=key, channel_wise=True)]
    if "RescaleTo01Normalization" in schemes:
        raise BundleError("normalization_schemes: RescaleTo01Normalization beside others cannot be imported")
    if len(channels) == 1 and schemes == {"CTNormalization"}:
        return [_scale_ct(key, channels[0])]
    steps = []
    if masked := [index for index, channel in enumerate(channels) if channel.in_mask]:
        steps.append(component("tomoseg.transforms.NormalizeForegroundd", keys=key, channels=masked))
    if "CTNormalization" in schemes:
        ct = [channel.scheme == "CTNormalization" for channel in channels]
        low = [[[[channel.low if clipped else -BEYOND]]] for channel, clipped in zip(channels, ct, strict=True)]
        high = [[[[channel.high if clipped else BEYOND]]] for channel, clipped in zip(channels, ct, strict=True)]
        bounds = f"torch.tensor({low}), torch.tensor({high})"
        steps.append(component("Lambdad", keys=key, func=f"$lambda x: x.clamp({bounds})"))
    shifts = [_shift(channel) for channel in channels]
    if any(shift != (0.0, 1.0) for shift in shifts):
        means, deviations = zip(*shifts, strict=True)
        fixed = {} if set(means) == {None} else {"subtrahend": list(means), "divisor": list(deviations)}
        steps.append(component("NormalizeIntensityd", keys=key, channel_wise=True, **fixed))
    return steps


def _scale_ct(key: str, channel: Channel) -> Json:
    deviation = max(channel.std, SMALLEST_SD)
    return component(
        "ScaleIntensityRanged",
        keys=key,
        a_min=channel.low,
        a_max=channel.high,
        b_min=(channel.low - channel.mean) / deviation,
        b_max=(channel.high - channel.mean) / deviation,
        clip=True,
    )


def _shift(channel: Channel) -> tuple[float | None, float | None]:
    """Return what is subtracted from a channel and what it is divided by then; None for its own mean and deviation."""
    if channel.scheme == "CTNormalization":
        return channel.mean, max(channel.std, SMALLEST_SD)
    if channel.scheme == "RGBTo01Normalization":
        return 0.0, RGB_RANGE
    return (0.0, 1.0) if channel.in_mask or channel.scheme == "NoNormalization" else (None, None)
