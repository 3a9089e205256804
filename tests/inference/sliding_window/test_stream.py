"""Streamed equals dense: the blended logits, and the labels in the scan's own grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import Invertd
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from support.strategies import grids
from support.tiers import examples
from tomoseg import Grid
from tomoseg.core.run_stats import RunStats
from tomoseg.inference.sliding_window.blend import Predictor, Slab
from tomoseg.inference.sliding_window.discretizer import ArgMax, Discretizer, Interpolated, Threshold
from tomoseg.inference.sliding_window.placement import Placement, Triple, identity_placement, place
from tomoseg.inference.sliding_window.restore import Restorer
from tomoseg.inference.sliding_window.stream import Limits, Output, StreamedRun
from tomoseg.inference.sliding_window.windows import place_windows


def streamed(
    image: torch.Tensor, inferer: SlidingWindowInferer, predict: Predictor, **limits: Any
) -> tuple[torch.Tensor, int, RunStats]:
    """Return the blended logits, each slice as it was handed out first, the slab axis, and the statistics."""
    d, h, w = image.shape[1:]
    whole = identity_placement((d, h, w))
    parts: list[torch.Tensor] = []

    def collect(logits: torch.Tensor) -> torch.Tensor:
        if parts:  # the last slice of the slab before comes again
            assert torch.equal(logits[:, :1], parts[-1][:, -1:])
        parts.append(logits[:, 1:].clone() if parts else logits.clone())
        return logits

    def outputs(labels: int) -> list[Output]:
        return [Output(np.zeros(image.shape[1:], "uint8"), whole, ArgMax(labels), collect)]

    stats = StreamedRun(image, inferer, predict, outputs, Limits(**limits), "scan").run()
    axis = place_windows(image.shape[1:], inferer).slab_axis
    return torch.cat(parts, dim=1).movedim(1, axis + 1), axis, stats


@settings(max_examples=examples(60), deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 40)] * 3),
    roi=st.tuples(*[st.integers(2, 16)] * 3),
    overlap=st.sampled_from((0.0, 0.25, 0.5, 0.8)),
    mode=st.sampled_from(("constant", "gaussian")),
    seed=st.integers(0, 99),
)
def test_streamed_scores_equal_the_dense_ones(shape: Triple, roi: Triple, overlap: float, mode: str, seed: int) -> None:
    torch.manual_seed(seed)
    image = torch.randn(1, *shape)
    network = torch.nn.Conv3d(1, 3, 3, padding=1)
    inferer = SlidingWindowInferer(roi_size=roi, sw_batch_size=1, overlap=overlap, mode=mode, padding_mode="constant")
    with torch.no_grad():
        dense = inferer(image[None], network)[0]
        ours, axis, _ = streamed(image, inferer, network)
    assert ours.shape == dense.shape
    if axis == 0:  # MONAI adds up in the same order then
        assert torch.equal(ours, dense)
    torch.testing.assert_close(ours, dense, atol=1e-5, rtol=1e-5)


def interpolated(logits: NDArray[Any], matrix: NDArray[Any], shape: Triple) -> NDArray[Any]:
    """Return the logits in the scan's grid, computed the plain way."""
    index = np.indices(shape).reshape(3, -1)
    coordinates = matrix[:3, :3] @ index + matrix[:3, 3:]
    parts = [map_coordinates(part.astype("float64"), coordinates, order=1, mode="nearest") for part in logits]
    return np.stack(parts).reshape(-1, *shape)


def cut(logits: torch.Tensor, axis: int, cuts: list[int]) -> list[Slab]:
    logits = logits.movedim(axis + 1, 1)
    ends = sorted({*(c % logits.shape[1] for c in cuts), logits.shape[1]} - {0})
    starts = [0, *(end - 1 for end in ends[:-1])]
    return [Slab(a, logits[:, a:b]) for a, b in zip(starts, ends, strict=True)]


@settings(max_examples=examples(150), deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 14)] * 3),
    scan=st.tuples(*[st.integers(1, 18)] * 3),
    axes=st.permutations(range(3)),
    signs=st.tuples(*[st.sampled_from((-1, 1))] * 3),
    zoom=st.tuples(*[st.one_of(st.just(1.0), st.floats(0.3, 3))] * 3),
    shift=st.tuples(*[st.one_of(st.integers(-3, 3).map(float), st.floats(-3, 3))] * 3),
    shear=st.one_of(st.just(0.0), st.floats(-0.4, 0.4)),
    slab_axis=st.integers(0, 2),
    cuts=st.lists(st.integers(1, 13), max_size=4),
    classes=st.integers(2, 5),
    seed=st.integers(0, 999),
)
def test_what_is_restored_slab_by_slab_equals_the_dense_interpolation(
    shape: Triple,
    scan: Triple,
    axes: list[int],
    signs: Triple,
    zoom: tuple[float, ...],
    shift: tuple[float, ...],
    shear: float,
    slab_axis: int,
    cuts: list[int],
    classes: int,
    seed: int,
) -> None:
    logits = np.random.default_rng(seed).normal(size=(classes, *shape)).astype("float32")
    matrix = np.eye(4)
    matrix[:3, :3] = np.eye(3)[:, list(axes)] * signs * zoom
    matrix[0, :3] += shear * matrix[1, :3]
    # begin near the corner that the axes point away from, so that most of the scan lies inside
    matrix[:3, 3] = np.where(matrix[:3, :3].sum(axis=1) < 0, np.array(shape) - 1, 0) + np.array(shift)
    whole = ((0, 0, 0), shape)
    placement = Placement(matrix, whole, whole, ((0, 0, 0), scan))
    given = torch.from_numpy(logits)

    def restored(values: NDArray[Any], discretizer: Discretizer, logits: torch.Tensor) -> NDArray[Any]:
        restorer = Restorer(values, placement, slab_axis, discretizer)
        for slab in cut(logits, slab_axis, cuts):
            restorer.feed(slab)
        restorer.finish()
        return values

    # a tie may go either way
    dense = interpolated(logits, matrix, scan)
    ordered = np.sort(dense, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-3
    labels = restored(np.full(scan, 99, "uint8"), ArgMax(classes), given)
    np.testing.assert_array_equal(labels[clear], dense.argmax(axis=0)[clear])
    assert labels.max() < classes

    dense = interpolated(1 / (1 + np.exp(-logits[:1])), matrix, scan)[0]
    clear = np.abs(dense - 0.4) > 1e-4
    chosen = restored(np.full(scan, 99, "uint8"), Threshold(0.4, torch.sigmoid), given[:1])
    np.testing.assert_array_equal(chosen[clear], (dense >= 0.4)[clear])
    assert chosen.max() <= 1

    values = restored(np.full(scan, np.nan, "float32"), Interpolated(), given[:1])
    np.testing.assert_allclose(values, interpolated(logits[:1], matrix, scan)[0], atol=1e-4)


ORIENT = {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": None}


def spacing(*pixdim: float) -> dict[str, object]:
    return {"_target_": "Spacingd", "keys": "image", "pixdim": pixdim, "mode": "bilinear"}


def nnunet(*spacing: float, max_anisotropy: float | None = 3.0) -> dict[str, object]:
    name = "tomoseg.transforms.ResampleToSpacingd"
    return {"_target_": name, "keys": "image", "spacing": spacing, "max_anisotropy": max_anisotropy}


CROP = {"_target_": "CropForegroundd", "keys": "image", "source_key": "image", "allow_smaller": True, "margin": 1}
PAD = {"_target_": "SpatialPadd", "keys": "image", "spatial_size": [30, 33, 31]}
DIVISIBLE = {"_target_": "DivisiblePadd", "keys": "image", "k": 8}
CENTRE = {"_target_": "CenterSpatialCropd", "keys": "image", "roi_size": [9, 30, 11]}
CHAINS = [
    [ORIENT],
    [ORIENT, spacing(1.1, 0.9, 1.7)],
    [ORIENT, spacing(2.0, 2.0, 2.0), PAD],
    [ORIENT, spacing(1.1, 1.4, 1.0), CROP],
    [ORIENT, CROP, spacing(1.3, 1.2, 0.8)],
    [CENTRE, ORIENT, spacing(1.1, 1.2, 1.3), DIVISIBLE],
    [ORIENT, spacing(1.0, 1.0, 1.5), CROP, PAD],
    [ORIENT, spacing(1.3, 1.3, 1.3), CENTRE, DIVISIBLE],
    [ORIENT, CROP],
    [spacing(1.2, 1.2, 1.2)],
    [spacing(1.3, 1.0, 1.2), ORIENT],
    [CROP, spacing(1.3, 1.1, 1.2), CENTRE, ORIENT, PAD],
    [ORIENT, CROP, nnunet(1.3, 1.2, 0.8, max_anisotropy=None)],
    [CROP, nnunet(1.1, 0.9, 1.7, max_anisotropy=0)],  # the nearest slice along the last axis
    [nnunet(0.35, 1.0, 1.4), ORIENT, PAD],  # along the last axis at the resampling, any axis behind it
    [ORIENT, nnunet(1.2, 1.3, 1.1, max_anisotropy=1.6), CENTRE, DIVISIBLE],
]


@settings(max_examples=examples(120), deadline=None)
@example(grid=Grid((20, 30, 24), np.eye(4)[:, [1, 2, 0, 3]]), chain=CHAINS[-2], seed=0, slab_axis=0)
@given(grid=grids(), chain=st.sampled_from(CHAINS), seed=st.integers(0, 99), slab_axis=st.integers(0, 2))
def test_labels_equal_those_of_monais_own_inverse(
    grid: Grid, chain: list[dict[str, object]], seed: int, slab_axis: int
) -> None:
    """Any orientation, anisotropic and oblique: the arg-max of what Invertd makes of the same logits."""
    sizes = [max(6, size // 2) for size in grid.shape]
    affine = grid.affine.copy()
    affine[:3, :3] = grid.affine[:3, :3] / np.array(grid.spacing) * np.clip(grid.spacing, 0.7, 2)
    scan = Grid(sizes, affine)
    generator = torch.Generator().manual_seed(seed)
    array = torch.rand(1, *sizes, generator=generator) * (torch.rand(1, *sizes, generator=generator) > 0.7)
    array[:, :2], array[:, :, -2:] = 0, 0
    steps = ConfigParser({"steps": {"_target_": "Compose", "transforms": chain}}).get_parsed_content("steps")
    image = steps({"image": MetaTensor(array, affine=torch.tensor(scan.affine))})["image"]
    logits = torch.randn(3, *image.shape[1:], generator=generator)
    invert = Invertd("pred", steps, "image", nearest_interp=False)
    inverted = invert({"image": image, "pred": MetaTensor(logits, meta=image.meta)})["pred"].numpy()
    wanted = inverted.argmax(axis=0)
    ordered = np.sort(inverted, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-4  # a tie, such as where the image was cropped, may go either way

    labels = np.full(scan.shape, 99, "uint8")
    restorer = Restorer(labels, place(image, scan), slab_axis, ArgMax(3))
    for slab in cut(logits, slab_axis, [5, 9]):
        restorer.feed(slab)
    restorer.finish()
    assert labels.max() < 3
    np.testing.assert_array_equal(labels[clear], wanted[clear])
