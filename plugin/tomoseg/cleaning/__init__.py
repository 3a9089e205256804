"""Scans made fit for a network: MONAI transforms for a bundle's config and for the command line.

```json
{"_target_": "tomoseg.cleaning.CorrectBiasFieldd", "keys": "image"}
```

They stand after LoadImaged with `ensure_channel_first`. None of them moves a voxel, so none has anything to invert.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tomoseg.cleaning.bias_field import CorrectBiasFieldd
from tomoseg.cleaning.cleaner import CLEANING, Cleaner, cleaning_remarks
from tomoseg.cleaning.denoising import DenoiseCurvatureFlowd, DenoiseWaveletd
from tomoseg.cleaning.non_finite import ReplaceNonFinited

# as a command line calls them, in the order in which they are best run: the denoisers take noise to be as strong
# everywhere, which it no longer is once a bias field was divided out
CLEANERS: dict[str, Callable[[Any], Cleaner]] = {
    "non-finite": ReplaceNonFinited,
    "denoise": DenoiseWaveletd,
    "denoise-curvature": DenoiseCurvatureFlowd,
    "bias-field": CorrectBiasFieldd,
}

__all__ = [
    "CLEANERS",
    "CLEANING",
    "Cleaner",
    "CorrectBiasFieldd",
    "DenoiseCurvatureFlowd",
    "DenoiseWaveletd",
    "ReplaceNonFinited",
    "cleaning_remarks",
]
