"""The MNI152 average head, as nilearn's wheel brings it: its voxels, its tissues, and where they are."""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from tomoseg.core.errors import MissingPackageError, UsageError
from tomoseg.core.files import require_regular
from tomoseg.data.itk_image import affine_of
from tomoseg.inference.localisation.raster import resampled_to, shrunk, to_array, to_itk

MNI152 = "MNI152"
# ICBM 2009a, symmetric, 1 mm, without skull: left and right are mirror images (doi:10.1016/j.neuroimage.2010.07.033)
FILES = "datasets/data/mni_icbm152_{}_tal_nlin_sym_09a_converted.nii.gz"
MIN_BRAIN_INTENSITY = 10  # of 255; darker voxels are not brain
CENTRE_MM = (0.0, -18.0, 8.0)  # of the brain's box
# Around the brain lie CSF and bone, dark with the skull as without; the scalp, which only some heads have, lies beyond.
RIM_MM = 6.0
CORE_MM = 14.0  # below the brain's surface; a head that is out of place by as much still has brain there
FINEST_MM = 2.0
LEVELS_MM = (6.0, 4.0, 3.0)


@dataclass(frozen=True, eq=False)
class Template:
    """A head whose tissues are known.

    Attributes:
        affine: 4×4, voxel indices of `tissues` to mm (RAS+).
        tissues: (tissue, I, J, K) in [0, 1] at 2 mm: grey matter, white matter, CSF, and the dark rim round the brain;
            0 elsewhere.
        levels: by spacing in mm the T1 image and the mask, 1 or 0, of brain and rim.
        core: (I, J, K) of the 4 mm level, what lies deep in the brain.
        weights: (I, J, K, tissue) of the 4 mm level: grey matter, white matter and CSF.
    """

    affine: NDArray[np.float64]
    tissues: NDArray[np.float32]
    levels: dict[float, tuple[sitk.Image, sitk.Image]]
    core: NDArray[np.bool_]
    weights: NDArray[np.float64]

    @property
    def brain_ml(self) -> float:
        """Volume of grey matter, white matter and CSF."""
        return float(self.tissues[:3].sum()) * abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000


@cache
def load_template(name: str) -> Template:
    """Return a template by its name.

    Raises:
        UsageError: there is none of this name.
        MissingPackageError: nilearn is not installed.
    """
    if name != MNI152:
        raise UsageError(f"template: expected {MNI152}, got {name!r}")
    image, grey, white = (shrunk(_read(path), FINEST_MM) for path in template_files())
    affine = affine_of(image)
    brain = ndimage.binary_fill_holes(to_array(image) > MIN_BRAIN_INTENSITY)
    outside = ndimage.distance_transform_edt(~brain) * FINEST_MM
    gm, wm = (to_array(tissue) / 255 * brain for tissue in (grey, white))
    tissues = np.stack([gm, wm, np.clip(brain - gm - wm, 0, 1), (outside > 0) & (outside <= RIM_MM)]).astype(np.float32)
    voxels = np.where(brain, to_array(image), 0)
    levels = {spacing: _level(voxels, tissues.sum(axis=0), affine, spacing) for spacing in LEVELS_MM}
    weights = np.stack([to_array(resampled_to(to_itk(part, affine), levels[4.0][0])) for part in tissues[:3]], axis=-1)
    core = ndimage.distance_transform_edt(weights.sum(axis=-1) > 0.5) * 4 > CORE_MM
    return Template(affine, tissues, levels, core, weights.astype(np.float64))


def template_files() -> list[Path]:
    """Return the files of T1, grey and white matter; nilearn itself, which takes seconds, is not imported."""
    spec = find_spec("nilearn")
    if spec is None or spec.origin is None:
        raise MissingPackageError("nilearn")
    return [Path(spec.origin).parent / FILES.format(kind) for kind in ("t1", "gm", "wm")]


def _read(path: Path) -> sitk.Image:
    image = nib.load(require_regular(path))
    return to_itk(np.asanyarray(image.dataobj).astype(np.float32), image.affine)


def _level(
    voxels: NDArray[Any], mask: NDArray[Any], affine: NDArray[np.float64], spacing: float
) -> tuple[sitk.Image, sitk.Image]:
    """Return image and mask at a coarser spacing, smoothed as the means of its voxels would be."""
    smooth = ndimage.gaussian_filter(voxels.astype(np.float32), spacing / FINEST_MM / 2.355)
    size = [int(np.ceil(count * FINEST_MM / spacing)) for count in voxels.shape]
    grid = sitk.Image(size, sitk.sitkFloat32)
    grid.SetSpacing([spacing] * 3)
    grid.SetOrigin(affine[:3, 3].tolist())
    inside = resampled_to(to_itk(mask.astype(np.float32), affine), grid) > 0.5
    return resampled_to(to_itk(smooth, affine), grid), inside
