"""Scans made fit for a network: MONAI transforms for a bundle's config and for the command line.

```json
{"_target_": "tomoseg.transforms.CorrectBiasFieldd", "keys": "image"}
```

They stand after LoadImaged with `ensure_channel_first`. None of them moves a voxel, so none has anything to invert.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = ["CorrectBiasFieldd", "DenoiseCurvatureFlowd", "DenoiseWaveletd", "RandImageFromLabelsd", "ReplaceNonFinited"]

if TYPE_CHECKING:
    from tomoseg.transforms.bias_field import CorrectBiasFieldd
    from tomoseg.transforms.denoising import DenoiseCurvatureFlowd, DenoiseWaveletd
    from tomoseg.transforms.non_finite import ReplaceNonFinited
    from tomoseg.transforms.synthesis import RandImageFromLabelsd

# modules of the names, imported when a name is first used
_HOME = {
    "CorrectBiasFieldd": "bias_field",
    "DenoiseCurvatureFlowd": "denoising",
    "DenoiseWaveletd": "denoising",
    "RandImageFromLabelsd": "synthesis",
    "ReplaceNonFinited": "non_finite",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'tomoseg.transforms' has no attribute {name!r}")
    return getattr(import_module(f"tomoseg.transforms.{_HOME[name]}"), name)
