"""Normalisation of images in which only a part is not 0, as of a brain that was cut out of its skull."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import TransformBackends
from scipy.ndimage import binary_fill_holes

SMALLEST_SD = 1e-8  # nnunetv2's ZScoreNormalization


class NormalizeForegroundd(MapTransform):  # type: ignore[misc]
    """Normalise the foreground of each channel to mean 0 and standard deviation 1; the rest does not change.

    The foreground is what differs from 0 in any channel, with its holes filled: nnU-Net's `use_mask_for_norm`. MONAI's
    `NormalizeIntensityd(nonzero=True)` leaves out every 0, those of one channel only and those within the body, too.

    Args:
        keys: of the images, (C, I, J, K).
        channels: which are normalised; None for all. The foreground is that of all channels in any case.
        allow_missing_keys: leave out those that the data does not have.

    Example:
        >>> import torch
        >>> from tomoseg.transforms import NormalizeForegroundd
        >>> image = torch.zeros(1, 5, 5, 5)
        >>> image[:, 1:4, 1:4, 1:4] = torch.rand(1, 3, 3, 3) + 1
        >>> found = NormalizeForegroundd("image")({"image": image})["image"]
        >>> bool(found[image > 0].mean().abs() < 1e-5), bool((found[image == 0] == 0).all())
        (True, True)
    """

    backend: ClassVar[list[Any]] = [TransformBackends.TORCH]

    def __init__(
        self, keys: KeysCollection, channels: Sequence[int] | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channels = channels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the data with each image normalised, float32; what went in stays as it was."""
        normalized = dict(data)
        for key in self.key_iterator(normalized):
            image = torch.as_tensor(normalized[key]).float().clone()
            body = binary_fill_holes((image != 0).any(dim=0).numpy(force=True))
            foreground = torch.from_numpy(body).to(image.device)
            for channel in range(len(image)) if self.channels is None else self.channels:
                values = image[channel][foreground].as_subclass(torch.Tensor)
                if len(values):
                    sd = values.std(correction=0).clamp(min=SMALLEST_SD)
                    image[channel][foreground] = (values - values.mean()) / sd
            normalized[key] = image
        return normalized
