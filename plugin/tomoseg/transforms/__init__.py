"""Scans made fit for a network: MONAI transforms for a bundle's config and for the command line.

```json
{"_target_": "tomoseg.transforms.CorrectBiasFieldd", "keys": "image"}
```

They stand after LoadImaged with `ensure_channel_first`. None of them moves a voxel, so none has anything to invert.
"""

from tomoseg.transforms.bias_field import CorrectBiasFieldd
from tomoseg.transforms.denoising import DenoiseCurvatureFlowd, DenoiseWaveletd
from tomoseg.transforms.non_finite import ReplaceNonFinited

__all__ = ["CorrectBiasFieldd", "DenoiseCurvatureFlowd", "DenoiseWaveletd", "ReplaceNonFinited"]
