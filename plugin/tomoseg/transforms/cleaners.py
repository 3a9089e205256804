"""Names of the transforms for the option --clean."""

from collections.abc import Callable
from typing import Any

from tomoseg.transforms.bias_field import CorrectBiasFieldd
from tomoseg.transforms.cleaner import Cleaner
from tomoseg.transforms.denoising import DenoiseCurvatureFlowd, DenoiseWaveletd
from tomoseg.transforms.non_finite import ReplaceNonFinited

# as a command line calls them, in the order in which they are best run: the denoisers take noise to be as strong
# everywhere, which it no longer is once a bias field was divided out
CLEANERS: dict[str, Callable[[Any], Cleaner]] = {
    "non-finite": ReplaceNonFinited,
    "denoise": DenoiseWaveletd,
    "denoise-curvature": DenoiseCurvatureFlowd,
    "bias-field": CorrectBiasFieldd,
}
