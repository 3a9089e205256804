"""Register a head with the template: from rough places to an affine map, by mutual information.

Rigid with one size first, then affine, coarse to fine, from several starts. Mutual information, the objective, has a
maximum, too, where a large template has its dark rim in the air around the head. So the choice between maxima depends
on the share of the scan's variance within the brain that the tissues explain. Each start runs on one thread, beside
others, and looks at every voxel of the template, so the result is the same on any number of cores.
"""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import SimpleQueue
from typing import Any

import numpy as np
import SimpleITK as sitk
from nibabel.affines import from_matvec, to_matvec
from numpy.typing import NDArray

from tomoseg.data.geometry import Grid
from tomoseg.data.itk_image import affine_of
from tomoseg.inference.localisation.brightness import FINEST_MM, flattened, stripped
from tomoseg.inference.localisation.raster import Matrix, canonical, resampled_to, shrunk, to_array, to_itk
from tomoseg.inference.localisation.search import SPACING_MM, find_starts
from tomoseg.inference.localisation.template import CENTRE_MM, Template

STARTS_PER_SIZE = 4
HISTOGRAM_BINS = 32  # of the joint histogram
MATRIX_DECIMALS = 6
_one_registers = threading.Lock()  # it takes all threads
GOOD_SIMILARITY = 0.3  # similarity of a registration that needs no other


@dataclass(frozen=True)
class Stage:
    """One stage of the registration.

    Attributes:
        affine: whether the map is affine, or rigid with one size.
        sizes: by which each map is multiplied to begin with.
        template_mm, scan_mm: spacing of either image.
        step_mm: by which it begins to climb.
        iterations: at most.
        kept: how many of the maps go on.
    """

    affine: bool
    sizes: tuple[float, ...]
    template_mm: float
    scan_mm: float
    step_mm: float
    iterations: int
    kept: int


STAGES = (
    Stage(affine=False, sizes=(1.0,), template_mm=6.0, scan_mm=4.0, step_mm=3.0, iterations=40, kept=3),
    # where the skull is thin, the scalp looks like the surface of a larger brain
    Stage(affine=True, sizes=(1.0, 0.9), template_mm=4.0, scan_mm=4.0, step_mm=2.0, iterations=60, kept=2),
    Stage(affine=True, sizes=(1.0,), template_mm=3.0, scan_mm=2.0, step_mm=1.0, iterations=40, kept=1),
)
SIZE_RANGE = (0.6, 1.4)  # of a head along any axis, compared with the template; others are mistakes


@dataclass(frozen=True)
class Registration:
    """How the template lies in a scan.

    Attributes:
        matrix: 4×4, the template's mm to the scan's.
        similarity: share of the scan's variance within the brain that the template's grey matter, white matter and CSF
            explain, 0 to 1.
        seen: share of the template's brain that the scan covers.
    """

    matrix: Matrix
    similarity: float
    seen: float


def register(template: Template, array: NDArray[np.float32], grid: Grid) -> Registration:
    """Find the template in a scan.

    Args:
        template: the template.
        array: (I, J, K), finite.
        grid: its grid.
    """
    with _one_registers:
        return _register(template, to_itk(*canonical(array, grid)))


def _register(template: Template, image: sitk.Image) -> Registration:
    whole = flattened({spacing: shrunk(image, spacing) for spacing in (SPACING_MM, 4.0, FINEST_MM)})
    found = [Registration(np.eye(4), 0.0, 0.0)]
    for levels in (stripped(whole), whole):
        rough = levels[SPACING_MM]
        matrices = find_starts(template, to_array(rough), affine_of(rough), STARTS_PER_SIZE)
        for stage in STAGES:
            starts = [_resized(matrix, size) for matrix in matrices for size in stage.sizes]
            refined = _refine_all(template, levels, whole[4.0], stage, starts)
            refined = sorted(refined, key=lambda one: -one.similarity)[: stage.kept]
            matrices = [one.matrix for one in refined]
        found += refined
        if refined[0].similarity > GOOD_SIMILARITY:
            break
    return max(found, key=lambda one: one.similarity)


def _resized(matrix: Matrix, size: float) -> Matrix:
    """Return a matrix that makes the template so many times as large, about its centre."""
    turn, place = to_matvec(matrix)
    return np.asarray(from_matvec(turn * size, place + (turn - turn * size) @ CENTRE_MM))


def _refine_all(
    template: Template, levels: Mapping[float, sitk.Image], judged: sitk.Image, stage: Stage, starts: Sequence[Matrix]
) -> list[Registration]:
    """Climb from several matrices at once; threads have images of their own: SimpleITK 2.5 crashes with shared ones."""
    threads = min(len(starts), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads())
    own: SimpleQueue[tuple[Template, sitk.Image, sitk.Image]] = SimpleQueue()
    for _ in range(threads):
        images = {spacing: (_copy(image), _copy(mask)) for spacing, (image, mask) in template.levels.items()}
        own.put((replace(template, levels=images), _copy(levels[stage.scan_mm]), _copy(judged)))

    def climb(matrix: Matrix) -> Registration:
        images = own.get()
        try:
            return _refine(*images, stage, matrix)
        finally:
            own.put(images)

    with ThreadPoolExecutor(threads, "tomoseg-register") as pool:
        return list(pool.map(climb, starts))


def _copy(image: sitk.Image) -> sitk.Image:
    copy = sitk.Image(image)
    copy.MakeUnique()
    return copy


def _refine(template: Template, scan: sitk.Image, judged: sitk.Image, stage: Stage, matrix: Matrix) -> Registration:
    """Climb from a matrix, the template's mm to the scan's."""
    fixed, mask = template.levels[stage.template_mm]
    transform = sitk.AffineTransform(3) if stage.affine else sitk.Similarity3DTransform()
    transform.SetCenter(CENTRE_MM)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation((matrix[:3, 3] + matrix[:3, :3] @ CENTRE_MM - CENTRE_MM).tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetMetricFixedMask(mask)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(stage.step_mm, 0.05, stage.iterations)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(fixed, _limited(template, scan, matrix))
    except RuntimeError:  # too little of the template is in view
        return Registration(matrix, 0.0, 0.0)
    turn = np.array(transform.GetMatrix()).reshape(3, 3)
    found = from_matvec(turn, np.array(transform.GetTranslation()) + CENTRE_MM - turn @ CENTRE_MM)
    # the same sums differ by 1e-13 from call to call, as their arrays happen to be aligned
    return _judge(template, judged, found.round(MATRIX_DECIMALS))


def _limited(template: Template, image: sitk.Image, matrix: Matrix) -> sitk.Image:
    """Return the scan limited to the brightness of the brain's core, to keep the histogram's bins for the brain."""
    array = _in_template(template, image, matrix)
    inside = array[template.core & np.isfinite(array)]
    if inside.size < 30:
        return image
    lowest = float(to_array(image).min())
    return sitk.Clamp(image, sitk.sitkFloat32, lowest, max(float(np.quantile(inside, 0.98)), lowest + 1e-6))


def _in_template(template: Template, image: sitk.Image, matrix: Matrix) -> NDArray[Any]:
    """Return the scan in the template's grid of 4 mm, NaN where it has no voxels."""
    return to_array(resampled_to(image, template.levels[4.0][0], matrix, outside=float("nan")))


def _judge(template: Template, image: sitk.Image, matrix: Matrix) -> Registration:
    """Return the registration with how good it is."""
    sizes = np.linalg.svd(matrix[:3, :3], compute_uv=False)
    if not SIZE_RANGE[0] <= sizes.min() <= sizes.max() <= SIZE_RANGE[1] or np.linalg.det(matrix[:3, :3]) < 0:
        return Registration(matrix, 0.0, 0.0)
    array = _in_template(template, _limited(template, image, matrix), matrix)
    brain = template.weights.sum(axis=-1) > 0.5
    used = brain & np.isfinite(array)
    seen = float(np.count_nonzero(used) / np.count_nonzero(brain))
    values, weights = array[used], template.weights[used]
    if values.size < 100 or values.std() == 0:
        return Registration(matrix, 0.0, seen)
    means, *_ = np.linalg.lstsq(weights, values, rcond=None)
    return Registration(matrix, float(1 - (values - weights @ means).var() / values.var()), seen)
