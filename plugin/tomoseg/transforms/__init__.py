"""Scans made fit for a network: MONAI transforms for a bundle's config, some of them for the command line, too.

```json
{"_target_": "tomoseg.transforms.CorrectBiasFieldd", "keys": "image"}
```

They stand after LoadImaged with `ensure_channel_first`; `MergeRegionsd` stands in a post-processing. Only
`ResampleToSpacingd` moves voxels, and has an inverse.
"""

from collections.abc import Callable
from typing import Any

from tomoseg.transforms.bias_field import CorrectBiasFieldd
from tomoseg.transforms.cleaner import Cleaner
from tomoseg.transforms.denoising import DenoiseCurvatureFlowd, DenoiseWaveletd
from tomoseg.transforms.non_finite import ReplaceNonFinited
from tomoseg.transforms.normalization import NormalizeForegroundd
from tomoseg.transforms.regions import MergeRegionsd
from tomoseg.transforms.resampling import ResampleToSpacingd
from tomoseg.transforms.synthesis import RandImageFromLabelsd

__all__ = [
    "CorrectBiasFieldd",
    "DenoiseCurvatureFlowd",
    "DenoiseWaveletd",
    "MergeRegionsd",
    "NormalizeForegroundd",
    "RandImageFromLabelsd",
    "ReplaceNonFinited",
    "ResampleToSpacingd",
]

# as the option --clean calls them, in the order in which they are best run: the denoisers take noise to be as strong
# everywhere, which it no longer is once a bias field was divided out
CLEANERS: dict[str, Callable[[Any], Cleaner]] = {
    "non-finite": ReplaceNonFinited,
    "denoise": DenoiseWaveletd,
    "denoise-curvature": DenoiseCurvatureFlowd,
    "bias-field": CorrectBiasFieldd,
}
