"""Images of random contrast, drawn from label maps: the generative model of SynthSeg.

A network that sees nothing else learns shapes and no contrast, and segments scans of any (Billot et al., Medical Image
Analysis 86:102789, 2023, doi:10.1016/j.media.2023.102789). Ranges without a note are those of the paper or its code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable
from numpy.typing import NDArray
from scipy.interpolate import BSpline
from scipy.spatial.transform import Rotation
from torch.nn import functional

from tomoseg.core.errors import UsageError, VolumeError

Range = Sequence[float]  # lowest and highest value of a uniform distribution

BRIGHTEST = 255.0
CLIP = 300.0  # values above it are clipped before the image is scaled to [0, 1]

# Share of the images with dark air, its mean and its SD. The paper's code darkens 30 %; inverted scans are rare.
DARK_AIR = 0.8
DARK_AIR_MEAN = 15.0
DARK_AIR_SD = 5.0

COARSE = 4  # every fourth voxel of each axis is enough for the centroid of the labels
FAINT = 1e-3  # of the range: regions that are left out have no noise, their borders have
TINY = 1e-6


@dataclass(frozen=True)
class DrawnParameters:
    """What one image was drawn with.

    Attributes:
        mirrored: left and right are exchanged.
        rotation: about each axis, in degrees.
        scale: along each axis.
        shear: the six off-diagonal coefficients.
        translation: along each axis, in mm.
        elastic_sd: standard deviation of the elastic field, in mm.
        contrast: index in `contrasts`, or -1 for random means.
        removed: label values that are left out.
        means: mean of each label value, in [0, 255].
        sds: standard deviation of each label value.
        bias_sd: standard deviation of the bias field's logarithm.
        gamma: exponent of the values in [0, 1].
        slices: distance of the slices along each axis, in mm.
        thickness: of the slices along each axis, in mm.
        noise_sd: standard deviation of the noise that is added to the slices, in units of the image's range.
        seed: of the fields and of the noise.
    """

    mirrored: bool
    rotation: NDArray[np.float64]
    scale: NDArray[np.float64]
    shear: NDArray[np.float64]
    translation: NDArray[np.float64]
    elastic_sd: float
    contrast: int
    removed: tuple[int, ...]
    means: NDArray[np.float32]
    sds: NDArray[np.float32]
    bias_sd: float
    gamma: float
    slices: NDArray[np.float64]
    thickness: NDArray[np.float64]
    noise_sd: float
    seed: int


@dataclass(eq=False)
class RandImageFromLabelsd(Randomizable, MapTransform):  # type: ignore[misc]
    """Draw an image of random contrast from a label map, and the label map of the training classes with it.

    The label map is rotated, scaled, sheared and moved, deformed by a smooth field, and mirrored in half of the draws.
    Each tissue has one Gaussian, both sides the same. A bias field, a gamma curve, slices of a random thickness along
    a random axis, and noise follow. Label and image share one field: labels are the nearest ones, and the image is the
    mean over the voxels of the map that a voxel covers, so that thin tissues mix as they do in a scanner.

    The first axis is left to right: put `Orientationd(axcodes="RAS")` before it. The image is in about [0, 1]: scale
    it after this transform as scans are scaled, with the same transform as in `inference.json`.

    Args:
        keys: of the label maps, (1, I, J, K), integers in any type; int16 is fastest.
        classes: class of each label value; those that it does not name are background, 0. JSON's keys are strings.
        image_key: of the image; one for each of `keys`.
        pairs: left and right label value of each structure. They share one look, and the mirror exchanges them.
        mirror_prob: share of the images that are mirrored.
        spatial_size: voxels of image and label map; None for the shape of the map. A size centres the window on the
            centroid of the labels that have a class.
        pixdim: voxel size of image and label map in mm; None for that of the map.
        rotation: range about each axis, in degrees.
        scale: range along each axis.
        shear: range of the six coefficients.
        translation: range along each axis, in mm; or the three lowest and the three highest values.
        elastic_sd: range of the elastic field's standard deviation, in mm, which is the same everywhere. The paper's
            4 mm is that of its control points, between which it interpolates linearly: 2.2 mm over all voxels.
        elastic_spacing: distance of its control points, in mm.
        means: range of a tissue's mean.
        sds: range of a tissue's standard deviation, in the voxels of the output. The paper's range is for 1 mm; at
            3 mm flat tissue of these two heads has 3 to 8.
        contrasts: typical means of label values, such as those of T1 and T2; other values have random means.
        contrast_prob: share of the images that have one of `contrasts`. Set the attribute to change it during the
            training; workers follow when the next epoch starts them.
        contrast_sd: standard deviation by which the means vary around those of `contrasts`.
        removals: groups of label values, such as the skull, and the skull with the fluid around the brain.
        removal_prob: share of the images that lack one of `removals`, with a background of exactly 0.
        bias_sd: range of the standard deviation of the bias field's logarithm; the paper's 0.6 is 0.33 likewise.
        bias_spacing: distance of its control points, in mm.
        gamma_sd: standard deviation of the logarithm of gamma.
        isotropic: range of the voxel size in mm at which half of the images are acquired.
        anisotropic: range of the distance of the slices in mm of the other half, along one axis.
        noise_sd: range of the noise's standard deviation, in units of the image's range. In the air of two heads,
            Colin27 and an MPRAGE, it is 0.005 and 0.008 at 3 mm.
        allow_missing_keys: leave out those that the data does not have.

    Attributes:
        drawn: parameters of the last image.

    Raises:
        UsageError: `keys` and `image_key` differ in number.
        VolumeError: a label map is not (1, I, J, K), or has negative values.
    """

    keys: KeysCollection
    classes: Mapping[Any, int]
    image_key: KeysCollection = "image"
    pairs: Sequence[Sequence[int]] = ()
    mirror_prob: float = 0.5
    spatial_size: Sequence[int] | None = None
    pixdim: Sequence[float] | None = None
    rotation: Range = (-20, 20)
    scale: Range = (0.8, 1.2)
    shear: Range = (-0.015, 0.015)
    translation: Range | Sequence[Range] = (-30, 30)
    elastic_sd: Range = (0, 2.2)
    elastic_spacing: float = 30.0
    means: Range = (0, 255)
    sds: Range = (0, 35)
    contrasts: Sequence[Mapping[Any, float]] = ()
    contrast_prob: float = 0.0
    contrast_sd: float = 10.0
    removals: Sequence[Sequence[int]] = ()
    removal_prob: float = 0.5
    bias_sd: Range = (0, 0.33)
    bias_spacing: float = 50.0
    gamma_sd: float = 0.4
    isotropic: Range = (1, 4)
    anisotropic: Range = (1, 9)
    noise_sd: Range = (0, 0.03)
    allow_missing_keys: bool = False
    drawn: DrawnParameters | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        super().__init__(self.keys, self.allow_missing_keys)
        self.image_keys = (self.image_key,) if isinstance(self.image_key, str) else tuple(self.image_key)
        if len(self.image_keys) != len(self.keys):
            raise UsageError(f"image_key: {len(self.image_keys)} for {len(self.keys)} keys. Give one for each key.")
        self.classes = {int(value): int(name) for value, name in self.classes.items()}
        self.contrasts = [{int(value): mean for value, mean in contrast.items()} for contrast in self.contrasts]
        self._pairs = np.array(self.pairs, int).reshape(-1, 2)
        self.highest = max(chain(self.classes, self._pairs.flat, *self.contrasts, *self.removals), default=0)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Draw an image for each label map, and return both in a copy of the dictionary."""
        result = dict(data)
        for key, image_key in self.key_iterator(result, self.image_keys):
            result[image_key], result[key] = self.draw(result[key])
        return result

    def draw(self, label: Any) -> tuple[MetaTensor, MetaTensor]:
        """Draw the image and the label map of the classes, both (1, I, J, K), from a label map of that form."""
        labels = np.asarray(label)
        if labels.ndim != 4 or len(labels) != 1:
            raise VolumeError(f"label map: has the shape {labels.shape}. Give one channel and three axes.")
        labels = labels[0] if labels.dtype.kind in "iu" else labels[0].astype(np.int32)
        if labels.min() < 0:
            raise VolumeError(f"label map: has the value {labels.min()}. Give values of 0 and more.")
        affine = np.asarray(getattr(label, "affine", np.eye(4)), float)
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
        pixdim = spacing if self.pixdim is None else np.array(self.pixdim, float)
        shape, centre = np.ceil(labels.shape * spacing / pixdim - TINY).astype(int), (np.array(labels.shape) - 1) / 2
        size = max(int(labels.max()), self.highest) + 1
        if self.spatial_size is not None:
            shape = np.array(self.spatial_size)
            inside = np.argwhere(self._classes(size)[labels[::COARSE, ::COARSE, ::COARSE]] > 0)
            centre = inside.mean(0) * COARSE + (COARSE - 1) / 2 if len(inside) else centre

        drawn = self.randomize(size)
        generator = torch.Generator().manual_seed(drawn.seed)
        points = _points(shape, pixdim, drawn, self.elastic_spacing, generator)
        points = points / torch.from_numpy(spacing).float() + torch.from_numpy(centre).float()
        nearest = _sample(torch.from_numpy(labels.astype(np.float32)), points, "nearest").numpy().astype(np.int32)

        means, sds = drawn.means.copy(), drawn.sds.copy()
        names = self._classes(size)
        if drawn.mirrored:
            left, right = self._pairs.T
            names[left], names[right] = names[right], names[left]
        for table in (means, sds, names):
            table[list(drawn.removed)] = table[0]
        covered = (np.minimum(drawn.slices, pixdim) / spacing).round().astype(int).clip(1)
        volume = torch.from_numpy((means - means[0])[labels])  # air is 0, as is what lies outside of the map
        volume = functional.avg_pool3d(volume[None], covered.tolist(), ceil_mode=True)[0]
        image = _sample(
            volume, (points - torch.from_numpy((covered - 1) / 2).float()) / torch.from_numpy(covered), "bilinear"
        )
        image += means[0] + torch.from_numpy(sds[nearest]) * torch.randn(image.shape, generator=generator)
        image.clip_(0, CLIP).mul_(_field(shape, pixdim, self.bias_spacing, generator).mul_(drawn.bias_sd).exp_())
        image = image.sub_(image.min()).div_(image.max().clip_(TINY)).pow_(drawn.gamma)
        image = _acquire(image, pixdim, drawn, generator)

        moved = affine.copy()  # the middle of the window is where the centroid was
        moved[:3, :3] *= pixdim / spacing
        moved[:3, 3] += affine[:3, :3] @ centre - moved[:3, :3] @ ((shape - 1) / 2)
        return MetaTensor(image[None], affine=moved), MetaTensor(torch.from_numpy(names[nearest])[None], affine=moved)

    def _classes(self, size: int) -> NDArray[np.int16]:
        """Return the class of each label value in [0, size)."""
        names = np.zeros(size, np.int16)
        names[list(self.classes)] = list(self.classes.values())
        return names

    def randomize(self, data: int) -> DrawnParameters:
        """Draw the parameters of one image, and keep them as `drawn`.

        Args:
            data: number of label values: those of the map and of the arguments are below it.
        """
        random = self.R
        contrast, means, sds = -1, random.uniform(*self.means, data), random.uniform(*self.sds, data)
        if random.uniform() < DARK_AIR:
            means[0], sds[0] = random.uniform(0, DARK_AIR_MEAN), random.uniform(0, min(DARK_AIR_SD, self.sds[1]))
        if self.contrasts and random.uniform() < self.contrast_prob:
            contrast = random.randint(len(self.contrasts))
            for value, mean in self.contrasts[contrast].items():
                means[value] = random.normal(mean, self.contrast_sd)
        removed: tuple[int, ...] = ()
        if self.removals and random.uniform() < self.removal_prob:
            removed = tuple(self.removals[random.randint(len(self.removals))])
            means[0] = sds[0] = 0
        left, right = self._pairs.T
        means[right], sds[right] = means[left], sds[left]

        slices = np.full(3, random.uniform(*self.isotropic))
        thickness = slices.copy()
        if random.uniform() < 0.5:
            axis = random.randint(3)
            slices[:] = thickness[:] = self.isotropic[0]
            slices[axis] = random.uniform(*self.anisotropic)
            thickness[axis] = random.uniform(min(self.isotropic[0], slices[axis]), slices[axis])
        self.drawn = DrawnParameters(
            mirrored=random.uniform() < self.mirror_prob,
            rotation=random.uniform(*self.rotation, 3),
            scale=random.uniform(*self.scale, 3),
            shear=random.uniform(*self.shear, 6),
            translation=random.uniform(*self.translation, 3),
            elastic_sd=random.uniform(*self.elastic_sd),
            contrast=contrast,
            removed=removed,
            means=means.clip(0, BRIGHTEST).astype(np.float32),
            sds=sds.astype(np.float32),
            bias_sd=random.uniform(*self.bias_sd),
            gamma=float(np.exp(random.normal(0, self.gamma_sd))),
            slices=slices,
            thickness=thickness,
            noise_sd=random.uniform(*self.noise_sd),
            seed=int(random.randint(2**31 - 1)),
        )
        return self.drawn


def _points(
    shape: NDArray[np.int_],
    pixdim: NDArray[np.float64],
    drawn: DrawnParameters,
    elastic_spacing: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """Return where in the map the voxels of the image are, (I, J, K, 3), in mm from the middle of the window."""
    shear = np.eye(3)
    shear[~np.eye(3, dtype=bool)] = drawn.shear
    rotation = Rotation.from_euler("XYZ", drawn.rotation, degrees=True).as_matrix()
    matrix = np.linalg.inv(rotation @ shear @ np.diag(drawn.scale))
    if drawn.mirrored:
        matrix[:, 0] *= -1
    points = torch.from_numpy(drawn.translation).float()
    for axis, size in enumerate(shape):
        offsets = (np.arange(size) - (size - 1) / 2) * pixdim[axis]
        along = torch.from_numpy(offsets[:, None] * matrix[:, axis]).float()
        points = points + along.reshape(-1, *(1,) * (2 - axis), 3)
    fields = [_field(shape, pixdim, elastic_spacing, generator) for _ in range(3)]
    return points + drawn.elastic_sd * torch.stack(fields, -1)


def _field(
    shape: NDArray[np.int_], pixdim: NDArray[np.float64], spacing: float, generator: torch.Generator
) -> torch.Tensor:
    """Return a smooth field of mean 0 and SD 1: cubic splines over random values `spacing` mm apart."""
    weights = [_splines(size, step / spacing) for size, step in zip(shape, pixdim, strict=True)]
    field = torch.randn([weight.shape[1] for weight in weights], generator=generator)
    return _along_axes(field, weights)


def _splines(size: int, step: float) -> torch.Tensor:
    """Return the weights, (size, control points), of a cubic spline at each voxel, scaled so that the SD stays 1."""
    places = np.arange(size) * step
    knots = np.arange(-3, int(places[-1]) + 5)
    weights = BSpline.design_matrix(places, knots, 3).toarray()
    return torch.from_numpy(weights / np.linalg.norm(weights, axis=1, keepdims=True)).float()


def _along_axes(values: torch.Tensor, matrices: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Multiply each axis of values (I, J, K) by a matrix (new size, size); None leaves the axis as is."""
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            values = torch.tensordot(matrix, values, ([1], [axis])).movedim(0, axis)
    return values


def _sample(volume: torch.Tensor, points: torch.Tensor, mode: str) -> torch.Tensor:
    """Return the volume, (I, J, K), at points (..., 3) in its voxels; outside of it are zeros."""
    grid = ((2 * points + 1) / torch.tensor(volume.shape) - 1).flip(-1).float()
    return functional.grid_sample(volume[None, None], grid[None], mode=mode, align_corners=False)[0, 0]


def _acquire(
    image: torch.Tensor, pixdim: NDArray[np.float64], drawn: DrawnParameters, generator: torch.Generator
) -> torch.Tensor:
    """Return the image as slices that are thicker than its voxels show it, with their noise."""
    acquire: list[torch.Tensor | None] = [None] * 3
    restore: list[torch.Tensor | None] = [None] * 3
    for axis, (size, step) in enumerate(zip(image.shape, pixdim, strict=True)):
        if drawn.slices[axis] > step:
            acquire[axis], restore[axis] = _slices(size, drawn.slices[axis] / step, drawn.thickness[axis] / step)
    slices = _along_axes(image, acquire)
    noise = drawn.noise_sd * torch.randn(slices.shape, generator=generator)
    if drawn.removed:
        noise *= slices > FAINT
    return _along_axes(slices + noise, restore).contiguous()


def _slices(size: int, step: float, thickness: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the matrices from voxels to slices, their mean over the thickness, and back, linearly interpolated.

    Args:
        size: number of voxels.
        step: distance of the slices, in voxels.
        thickness: of the slices, in voxels.
    """
    number = max(int(size / step), 1)
    places = (np.arange(number) - (number - 1) / 2) * step + (size - 1) / 2
    voxels = np.arange(size)
    half = max(thickness, 1) / 2
    upper, lower = np.minimum(places[:, None] + half, voxels + 0.5), np.maximum(places[:, None] - half, voxels - 0.5)
    acquire = (upper - lower).clip(0)
    restore = np.stack([np.interp(voxels, places, row) for row in np.eye(number)], 1)
    return torch.from_numpy(acquire / acquire.sum(1, keepdims=True)).float(), torch.from_numpy(restore).float()
