"""The rules: from a fingerprint and what may be used, every choice and its reason. No torch, no chance.

Most follow nnU-Net (Isensee et al., Nature Methods 18, 203-211, 2021); where they differ, the reason says so.
The sentences of the reasons stand in `templates/reasons.jinja`.
"""

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import Any

from tomoseg.core.errors import UsageError
from tomoseg.data.labels import split_side
from tomoseg.planning.fingerprint import Fingerprint
from tomoseg.planning.imbalance import LOSSES, MAX_SAMPLING_RATIO, LossName, choose_ratios
from tomoseg.planning.network import Network, Triple, shape_levels, triple
from tomoseg.planning.options import PlanningOptions
from tomoseg.planning.presets import BATCHES, PRESETS
from tomoseg.planning.synthesis import Drawing, choose_drawing
from tomoseg.planning.template import render_macros

Spacing = tuple[float, float, float]

MIN_ANISOTROPY = 3.0  # an axis is coarse beyond so many times the next coarser one
MAX_WINDOWS = 64  # the window holds at least one of so many parts of the median scan
MIN_VOXELS = 4  # voxels at the coarsest level
MIN_PATCH_VOXELS = 16  # voxels along each axis but one of fewer slices, so that there are three levels
MIN_COARSE_RATIO = 2.0  # to the finest spacing, from which random turns leave an axis alone
SHIFTS_PER_WINDOW = 10  # windows are moved by one of so many parts of their length
MAX_BATCH_SHARE = 0.05  # of all voxels of the dataset in one batch
MIN_MASKED_SHARE = 0.25  # share of zeros from which an MRI counts as cropped to the head
CROP_PER_WINDOW = 1.25  # the crop that is turned and scaled is so many times the window, but for axes where it is not
FOLDS = 5
EPOCH_STEPS = 100


@dataclass(frozen=True)
class TrainingPlan:
    """Every choice, and why; axes in the order right, anterior, superior.

    Attributes:
        modality: "CT" or "MR".
        labels: names by the value that the network gives, from 1 on.
        sources: the values of these labels in the dataset.
        ignored: the value of nnU-Net's ignore label in the dataset.
        partial: whether cases say which labels were drawn in them.
        spacing_mm, patch, crop: spacing of the network's grid, its window, and the larger crop that augmentation turns.
        cut: whether scans are larger than the reach of windows about the middle, so that windows need random places.
        batch: windows in a step.
        network: the network.
        intensities: (low, high, mean, sd) for CT; None for a z-score of each image.
        nonzero: the z-score is over voxels other than 0.
        mirror_axes: axes that may be mirrored.
        loss: one of `LOSSES`.
        ratios: how often windows lie on each label.
        steps: of an epoch.
        epochs: by device.
        folds: of the cross-validation.
        drawing: how images are drawn from label maps; None where all are scans.
        reasons: why, by choice.
        guessed: whether the modality was guessed from the values.
    """

    modality: str
    labels: dict[int, str]
    sources: tuple[int, ...]
    ignored: int | None
    partial: bool
    spacing_mm: Spacing
    patch: Triple
    crop: Triple
    cut: bool
    batch: int
    network: Network
    intensities: tuple[float, float, float, float] | None
    nonzero: bool
    mirror_axes: tuple[int, ...]
    loss: LossName
    ratios: tuple[float, ...]
    steps: int
    epochs: dict[str, int]
    folds: int
    drawing: Drawing | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    guessed: bool = False

    @property
    def coarse(self) -> tuple[bool, bool, bool]:
        """Along which axes the voxels are so much longer that a scan turned voxel by voxel would be sheared."""
        return coarse_axes(self.spacing_mm)

    @property
    def classes(self) -> dict[int, int]:
        """The network's value of each of the dataset's; of the ignore label, the first value beyond its labels."""
        values = dict(zip(self.sources, self.labels, strict=True))
        return values if self.ignored is None else values | {self.ignored: self.network.out_channels}

    @property
    def outside(self) -> float:
        """The value of what lies beyond a scan: in CT the lowest, which is air, else the mean of the image."""
        if self.intensities is None:
            return 0.0
        low, _, mean, sd = self.intensities
        return round((low - mean) / sd, 6)

    @property
    def normalization(self) -> dict[str, bool]:
        """Options of the z-score."""
        return ({"nonzero": True} if self.nonzero else {}) | (
            {"channel_wise": True} if self.network.channels > 1 else {}
        )

    def choices(self) -> dict[str, Any]:
        """Return the choices by their names in `reasons`."""
        return {
            "labels": {str(value): name for value, name in self.labels.items()},
            "spacing_mm": list(self.spacing_mm),
            **({} if self.drawing is None else {"images": f"{self.drawing.share:.0%} drawn from label maps"}),
            "intensities": self._describe_intensities(),
            "patch": list(self.patch),
            "batch": self.batch,
            "network": {
                "filters": list(self.network.filters),
                "kernels": [list(kernel) for kernel in self.network.kernels],
                "strides": [list(stride) for stride in self.network.strides],
                "residual": self.network.residual,
                "parameters": self.network.parameters,
            },
            "mirror_axes": list(self.mirror_axes),
            "loss": f"{'marginal ' * self.masked}{LOSSES[self.loss]}",
            "sampling": self._describe_sampling(),
            "steps": self.steps,
            "folds": self.folds,
        }

    @property
    def masked(self) -> bool:
        """Whether there are voxels whose label is not known."""
        return self.partial or self.ignored is not None

    def _describe_sampling(self) -> dict[str, float] | str:
        if self.drawing is not None and self.drawing.share == 1:
            return "around the middle of the labels"
        return dict(zip(self.labels.values(), self.ratios, strict=True)) if self.cut else "whole scans"

    def _describe_intensities(self) -> str:
        if self.drawing is not None:
            return "0.5th to 99.5th percentile of each image to 0..1"
        if self.intensities is None:
            return f"z-score of each image{', over voxels other than 0' if self.nonzero else ''}"
        low, high, mean, sd = self.intensities
        return f"clipped to {low:g}..{high:g}, minus {mean:g}, divided by {sd:g}"


def decide(
    fingerprint: Fingerprint, modality: str, options: PlanningOptions, ignored: int | None = None
) -> TrainingPlan:
    """Return the plan for a dataset.

    Args:
        fingerprint: of the dataset.
        modality: "CT" or "MR".
        options: what the user asked for; the modality of them is not read.
        ignored: the value of nnU-Net's ignore label.

    Raises:
        UsageError: nothing fits into the memory, or a label is asked for that is none.
    """
    sources = tuple(label.value for label in fingerprint.labels)
    labels = {index: label.name for index, label in enumerate(fingerprint.labels, start=1)}
    preset = PRESETS[options.preset]
    spacing, coarse_mm, windows = choose_spacing(fingerprint, preset.edge[options.trained_on] ** 3)
    shape = _shape(fingerprint, spacing)
    patch, network = choose_network(shape, spacing, len(labels) + 1, options)
    network = replace(network, channels=len(fingerprint.channels))
    intensities, nonzero, drawing = None, False, None
    if options.synthetic is None:
        intensities, nonzero = choose_intensities(fingerprint, modality)
    else:
        moved_mm = [voxels * mm for voxels, mm in zip(moved_by(patch, spacing), spacing, strict=True)]
        window_mm = [voxels * mm for voxels, mm in zip(patch, spacing, strict=True)]
        drawing = choose_drawing(fingerprint, options.synthetic, window_mm, moved_mm)
    crop = triple(
        size if coarse else math.ceil(size * CROP_PER_WINDOW / 2 - size / 2) * 2 + size
        for size, coarse in zip(patch, coarse_axes(spacing), strict=True)
    )
    largest = [math.ceil(mm / by) for mm, by in zip(fingerprint.largest_extent_mm, spacing, strict=True)]
    reached = [size + 2 * moved for size, moved in zip(patch, moved_by(patch, spacing), strict=True)]
    names = {label.value: label.name for label in fingerprint.labels}
    # a body hardly differs in left and right, unless labels have a side
    sided = [name for name in names.values() if split_side(name)[1]]
    opposite = [names[value] for pair in fingerprint.opposite[:1] for value in pair]
    plan = TrainingPlan(
        modality=modality,
        labels=labels,
        sources=sources,
        ignored=ignored,
        partial=fingerprint.partial,
        spacing_mm=spacing,
        patch=patch,
        crop=crop,
        cut=any(size > reach for size, reach in zip(largest, reached, strict=True)),
        batch=choose_batch(network, patch, shape, fingerprint, options),
        network=network,
        intensities=intensities,
        nonzero=nonzero,
        mirror_axes=() if sided or opposite else (0,),
        loss=options.loss,
        ratios=choose_ratios(options.sampling, fingerprint.labels),
        steps=EPOCH_STEPS,
        epochs=preset.epochs,
        folds=min(FOLDS, fingerprint.cases),
        drawing=drawing,
    )
    reasons = render_macros(
        "reasons.jinja",
        plan.choices(),
        plan=plan,
        fingerprint=fingerprint,
        options=options,
        preset=preset,
        coarse_mm=coarse_mm,
        windows=windows,
        shape=shape,
        whole=all(edge >= size for edge, size in zip(patch, shape, strict=True)),
        share=math.prod(shape) / math.prod(patch),
        coarsest=MIN_VOXELS,
        largest_batch=BATCHES[options.trained_on],
        largest_ratio=MAX_SAMPLING_RATIO,
        sided=sided,
        opposite=opposite,
    )
    return replace(plan, reasons=reasons)


def coarse_axes(spacing: Spacing) -> tuple[bool, bool, bool]:
    """Return along which axes voxels are at least `MIN_COARSE_RATIO` times as long as along the finest."""
    return triple(mm >= MIN_COARSE_RATIO * min(spacing) for mm in spacing)


def moved_by(patch: Triple, spacing: Spacing) -> Triple:
    """Return by how many voxels windows are moved at random, at most: not at all along a coarse axis."""
    return triple(
        0 if coarse else size // SHIFTS_PER_WINDOW for size, coarse in zip(patch, coarse_axes(spacing), strict=True)
    )


def choose_spacing(fingerprint: Fingerprint, voxels: int) -> tuple[Spacing, float, float]:
    """Return the network's grid: the median spacing, the 10th percentile on a coarse axis, coarser for large scans.

    Args:
        fingerprint: of the dataset.
        voxels: of the largest window.

    Returns:
        The spacing; the percentile in mm, 0 without a coarse axis; and how many windows hold the median scan, 0 where
        these are few enough.
    """
    spacing, coarse_mm, windows = list(fingerprint.median_spacing_mm), 0.0, 0.0
    worst = max(range(3), key=lambda axis: spacing[axis])
    others = [spacing[axis] for axis in range(3) if axis != worst]
    if spacing[worst] > MIN_ANISOTROPY * max(others):
        spacing[worst] = coarse_mm = max(fingerprint.coarse_spacing_mm[worst], max(others))
    median = math.prod(_shape(fingerprint, _lengths(spacing)))
    if median > MAX_WINDOWS * voxels:
        windows = median / voxels
        spacing = _coarsen(spacing, windows / MAX_WINDOWS)
    return _lengths(spacing), coarse_mm, windows


def _coarsen(spacing: list[float], factor: float) -> list[float]:
    """Return a spacing with so many times fewer voxels, the finest axes first, which makes it more isotropic."""
    low, high = min(spacing), max(spacing) * factor
    for _ in range(60):
        floor = (low + high) / 2
        enough = math.prod(max(length, floor) for length in spacing) >= math.prod(spacing) * factor
        low, high = (low, floor) if enough else (floor, high)
    return [max(length, high) for length in spacing]


def choose_network(shape: Triple, spacing: Spacing, scores: int, options: PlanningOptions) -> tuple[Triple, Network]:
    """Return the window and the network: as much of the median scan as memory and time allow.

    Args:
        shape: of the median scan, in the network's grid.
        spacing: of that grid.
        scores: number of labels, background included.
        options: what may be used.
    """
    preset = PRESETS[options.preset]
    voxels = float(preset.edge[options.trained_on] ** 3)
    while True:
        box = _box(shape, spacing, voxels)
        patch, network = _fit(box, shape, spacing, scores, options)
        if network.training_bytes(patch, min(BATCHES["cpu"], BATCHES[options.trained_on])) <= options.memory_bytes:
            return patch, network
        voxels *= 0.9
        if voxels < MIN_PATCH_VOXELS**3:
            raise UsageError(
                f"memory: expected at least {network.training_bytes(patch, 2) / 1e9:.1f} GB for {scores} labels, got "
                f"{options.memory_bytes / 1e9:.1f} GB; allow more with --memory, or choose --preset small"
            )


def _box(shape: Triple, spacing: Spacing, voxels: float) -> Triple:
    """Return the window of so many voxels that is nearest to a cube in mm and nowhere beyond the scan."""
    least = [MIN_PATCH_VOXELS] * 3
    shortest = shape.index(min(shape))
    least[shortest] = min(MIN_PATCH_VOXELS, max(shape[shortest], MIN_VOXELS))
    low, high = 0.0, max(size * mm for size, mm in zip(shape, spacing, strict=True))
    for _ in range(60):
        edge = (low + high) / 2
        held = math.prod(min(size, edge / mm) for size, mm in zip(shape, spacing, strict=True))
        low, high = (edge, high) if held <= voxels else (low, edge)
    return triple(
        max(edge, math.floor(min(size, low / mm + 1e-6))) for edge, size, mm in zip(least, shape, spacing, strict=True)
    )


def _fit(box: Triple, shape: Triple, spacing: Spacing, scores: int, options: PlanningOptions) -> tuple[Triple, Network]:
    """Return the network for a window, and the window as its strides ask for; rounded up where it holds the scan."""
    kernels, strides = shape_levels(box, spacing, MIN_VOXELS)
    preset = PRESETS[options.preset]
    network = Network(scores, tuple(kernels), tuple(strides), (), preset.residual)
    # a network of many levels has too many weights even with the fewest features at first: then fewer at the coarsest
    most, fewest = preset.features[options.trained_on], preset.fewest_features[options.trained_on]
    ceilings, firsts = range(preset.most_features, 31, -8), range(most, fewest - 1, -4)
    for ceiling, features in itertools.product(ceilings, firsts):
        filters = tuple(min(features * 2**level, ceiling) for level in range(len(strides)))
        network = replace(network, filters=filters)
        if network.parameters <= preset.parameters * 1e6:
            break
    return triple(
        by * (math.ceil(size / by) if size >= scan else round(size / by))
        for size, scan, by in zip(box, shape, network.divisor, strict=True)
    ), network


def choose_batch(
    network: Network, patch: Triple, shape: Triple, fingerprint: Fingerprint, options: PlanningOptions
) -> int:
    """Return the windows of a step: 2 on a CPU, more on a GPU while memory and the dataset allow it."""
    most = BATCHES[options.trained_on]
    if options.trained_on == "cpu":
        return most
    dataset = math.prod(shape) * fingerprint.cases
    batch = 2
    while (
        batch < most
        and network.training_bytes(patch, batch + 1) <= options.memory_bytes
        and math.prod(patch) * (batch + 1) <= MAX_BATCH_SHARE * dataset
    ):
        batch += 1
    return batch


def choose_intensities(
    fingerprint: Fingerprint, modality: str
) -> tuple[tuple[float, float, float, float] | None, bool]:
    """Return the normalisation, of CT by the fingerprint, of MRI by each image; and whether zeros are left out."""
    low, high = fingerprint.intensity_low, fingerprint.intensity_high
    mean, sd = fingerprint.intensity_mean, fingerprint.intensity_sd
    if modality == "CT" and high > low and sd > 0:
        return (low, high, mean, sd), False
    return None, fingerprint.zeros > MIN_MASKED_SHARE


def _shape(fingerprint: Fingerprint, spacing: Spacing) -> Triple:
    return triple(max(1, round(mm / by)) for mm, by in zip(fingerprint.median_extent_mm, spacing, strict=True))


def _lengths(values: list[float]) -> Spacing:
    return triple(float(f"{value:.4g}") for value in values)
