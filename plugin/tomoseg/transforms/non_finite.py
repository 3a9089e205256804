"""Replace NaN and infinite values: a single one makes the logits of a whole window NaN."""

from typing import Any

import numpy as np
from monai.config import KeysCollection
from numpy.typing import NDArray

from tomoseg.core.errors import UsageError, VolumeError
from tomoseg.transforms.cleaner import Cleaner, Spacing


class ReplaceNonFinited(Cleaner):
    """Replace NaN by one value, and infinite values by the largest and smallest finite ones of their channel.

    Args:
        keys: of the images.
        nan: what NaN becomes, in the image's unit; None for the smallest finite value of the channel, which is air in
            CT and background in MRI: programs leave NaN outside the scanned or computed region.
        allow_missing_keys: leave out those that the data does not have.

    Raises:
        UsageError: `nan` is not finite.
        VolumeError: an image is not (C, I, J, K), not real-valued, or has a channel without any finite value.
    """

    def __init__(self, keys: KeysCollection, nan: float | None = None, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if nan is not None and not np.isfinite(nan):
            raise UsageError(f"nan: expected a finite value in place of NaN, got {nan}")
        self.nan = nan

    def clean(self, channel: NDArray[Any], spacing: Spacing, source: str) -> tuple[NDArray[Any], str]:
        """Return the channel without NaN and infinity, and a note."""
        finite = np.isfinite(channel)
        if finite.all():
            return channel, "no NaN or infinite values"
        if not finite.any():
            raise VolumeError(f"{source}: expected a scan, got nothing but NaN and infinite values")
        lowest, highest = channel.min(where=finite, initial=np.inf), channel.max(where=finite, initial=-np.inf)
        nan = lowest if self.nan is None else self.nan
        unknown = np.count_nonzero(np.isnan(channel))
        infinite = channel.size - np.count_nonzero(finite) - unknown
        return (
            np.nan_to_num(channel, nan=nan, posinf=highest, neginf=lowest),
            f"{unknown} NaN replaced by {nan:g}, {infinite} infinite values by {lowest:g} or {highest:g}",
        )
