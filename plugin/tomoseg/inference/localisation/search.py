"""Where a head is in a scan, roughly: every place, many rotations and sizes, all at once by Fourier transforms.

For each rotation and size, the template's tissues are laid over the scan at every voxel, and the correlation ratio
(doi:10.1007/BFb0056301) is the share of the scan's variance that the tissues explain there. No contrast is presumed: a
tissue may be of any brightness. The sums over a tissue at all places are one correlation, and so a product in the
Fourier domain.
"""

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import SimpleITK as sitk
from nibabel.affines import from_matvec
from numpy.typing import NDArray
from scipy import fft, ndimage
from scipy.spatial.transform import Rotation

from tomoseg.inference.localisation.raster import Matrix
from tomoseg.inference.localisation.template import CENTRE_MM, FINEST_MM, Template

SPACING_MM = 8.0  # of the scan
ANGLES_DEG = (-20.0, 0.0, 20.0)  # about each axis; the registration reaches 15° further
TEMPLATE_SIZES = (0.88, 1.0)  # of the template, which is larger than most heads
TEMPLATE_HALF_MM = 110.0  # from the template's centre to beyond any of its voxels
MIN_SHARE_IN_VIEW = 0.35  # of the template that must be in view


def find_starts(template: Template, scan: NDArray[np.float32], affine: Matrix, most: int) -> list[Matrix]:
    """Return the best place of each of the best rotations, for each size as many: 4×4, the template's mm to the scan's.

    Args:
        template: the template.
        scan: (I, J, K) at about 8 mm, brightness limited to that of brain.
        affine: 4×4, its indices to mm.
        most: how many for each size.
    """
    image = scan - scan.min()
    image /= image.std() or 1.0
    steps = affine[:3, :3]
    half = np.ceil(TEMPLATE_HALF_MM / np.linalg.norm(steps, axis=0)).astype(int)
    # what lies beyond one end must not come in again at the other, and a kernel must have room
    sizes = np.maximum(np.array(scan.shape) + half, 2 * half + 1).tolist()
    shape = [fft.next_fast_len(size, real=True) for size in sizes]
    moments = [fft.rfftn(power, shape) for power in (np.ones_like(image), image, image * image)]
    tissues = [ndimage.gaussian_filter(tissue, SPACING_MM / FINEST_MM / 2.355) for tissue in template.tissues]
    offsets = np.stack(np.meshgrid(*(np.arange(-reach, reach + 1) for reach in half), indexing="ij"), -1)
    around = offsets.reshape(-1, 3) @ steps.T

    def best_place(angles: Sequence[float], size: float) -> tuple[float, Matrix]:
        turn = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() * size
        points = around @ np.linalg.inv(turn).T + CENTRE_MM
        indices = (points - template.affine[:3, 3]) / FINEST_MM
        kernels = [
            ndimage.map_coordinates(tissue, indices.T, order=1, output=np.float32).reshape(2 * half + 1)
            for tissue in tissues
        ]
        similarities = _similarities(kernels, moments, shape, half)[tuple(map(slice, scan.shape))]
        place = np.unravel_index(int(np.argmax(similarities)), similarities.shape)
        matrix = from_matvec(turn, steps @ np.array(place) + affine[:3, 3] - turn @ CENTRE_MM)
        return float(similarities[place]), matrix

    turns = list(itertools.product(ANGLES_DEG, repeat=3))
    found: list[Matrix] = []
    with ThreadPoolExecutor(sitk.ProcessObject.GetGlobalDefaultNumberOfThreads(), "tomoseg-search") as pool:
        for size in TEMPLATE_SIZES:
            places = pool.map(partial(best_place, size=size), turns)
            found += [matrix for _, matrix in sorted(places, key=lambda start: -start[0])[:most]]
    return found


def _similarities(
    kernels: list[NDArray[np.float32]], moments: list[NDArray[np.complex64]], shape: list[int], half: NDArray[np.intp]
) -> NDArray[np.float32]:
    """Return the similarity of each place of the template's centre.

    Args:
        kernels: the tissues around the centre.
        moments: transforms of the scan's voxels to the powers 0, 1 and 2.
        shape: of the transformed array.
        half: voxels from the kernels' first to their centre.
    """
    explained = np.zeros(shape, np.float32)
    counts, sums, all_tissues = np.zeros(shape, np.float32), np.zeros(shape, np.float32), 0
    for kernel in kernels:
        padded = np.zeros(shape, np.float32)
        padded[tuple(map(slice, kernel.shape))] = kernel
        transform = np.conj(fft.rfftn(np.roll(padded, -half, axis=(0, 1, 2))))
        count, total = (fft.irfftn(moment * transform, shape) for moment in moments[:2])
        explained += total * total / np.maximum(count, 1e-3)
        counts, sums, all_tissues = counts + count, sums + total, all_tissues + transform
    whole = sum(float(kernel.sum()) for kernel in kernels)
    counts = np.maximum(counts, 1e-3)
    between = explained - sums * sums / counts
    within = fft.irfftn(moments[2] * all_tissues, shape) - sums * sums / counts
    seen = (counts > MIN_SHARE_IN_VIEW * whole) & (within > 1e-3 * counts)
    ratio = np.where(seen, between / np.where(seen, within, 1), 0)
    return np.asarray(ratio * np.sqrt(np.clip(counts / whole, 0, 1)))
