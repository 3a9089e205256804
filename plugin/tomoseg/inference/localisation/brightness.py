"""Scans made alike before a template is laid over them: as bright everywhere, and without the scalp."""

from collections.abc import Mapping

import numpy as np
import SimpleITK as sitk
from scipy import ndimage

from tomoseg.data.itk_image import affine_of
from tomoseg.inference.localisation.raster import resampled_to, to_array, to_itk

MAX_BRIGHTNESS = 1.5  # of the median of voxels that are not air; fat is brighter than any brain
OTSU_BINS = 200
FIELD_MM = 25.0  # SD of the Gaussian
FAR_SHARE = 0.02  # share of bright voxels, within its reach
SCALP_MM = 4.0  # half the thickness of thin structures
MIN_BRIGHTNESS = 0.4  # of the mean brightness
FINEST_MM = 2.0


def flattened(levels: Mapping[float, sitk.Image]) -> dict[float, sitk.Image]:
    """Divide a scan, at several spacings, by its local mean brightness, which comes from coils and not from tissues.

    The mean is weighted by a Gaussian, without air, and no voxel counts as brighter than brain. N4 separates a bias
    field from tissues more carefully in 20 times the time, but finding the head does not need that.
    """
    rough = levels[max(levels)]
    array = to_array(rough)
    low, high = np.quantile(array, (0, 0.995))
    otsu = sitk.OtsuThresholdImageFilter()
    otsu.SetNumberOfHistogramBins(OTSU_BINS)
    otsu.Execute(sitk.Clamp(rough, sitk.sitkFloat32, float(low), float(high)))
    bright = array > (low + otsu.GetThreshold()) / 2
    if not bright.any():
        return dict(levels)
    middle = float(np.median(array[bright]) - low)
    limited = np.minimum(array - low, MAX_BRIGHTNESS * middle)
    sigma = FIELD_MM / np.array(rough.GetSpacing())
    share = ndimage.gaussian_filter(bright.astype(np.float32), sigma)
    # far from bright voxels the field has its overall mean
    field = (ndimage.gaussian_filter(limited * bright, sigma) + FAR_SHARE * middle) / (share + FAR_SHARE)
    smooth = to_itk(field.astype(np.float32), affine_of(rough))
    flat = {}
    for spacing, image in levels.items():
        divisor = resampled_to(smooth, image, outside=None)
        flat[spacing] = sitk.Clamp((image - float(low)) / divisor, sitk.sitkFloat32, 0.0, MAX_BRIGHTNESS)
    return flat


def stripped(levels: Mapping[float, sitk.Image]) -> dict[float, sitk.Image]:
    """Return the levels without bright, thin structures such as the scalp."""
    fine = levels[FINEST_MM]
    radius = [max(1, round(SCALP_MM / spacing)) for spacing in fine.GetSpacing()]
    thick = sitk.BinaryErode(fine > MIN_BRIGHTNESS, radius)
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(thick), sortByObjectSize=True)
    core = sitk.Cast(sitk.BinaryDilate(parts == 1, [size + 1 for size in radius]), sitk.sitkFloat32)
    return {spacing: image * resampled_to(core, image) for spacing, image in levels.items()}
