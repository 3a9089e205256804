"""Cleaning: bias, noise, NaN and infinity go; edges, brightness and unit stay."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.data import MetaTensor
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, gaussian_filter

from support.bundles import voxels
from tomoseg.core.errors import MissingPackageError, TomosegError, UsageError, VolumeError
from tomoseg.transforms import CLEANERS, CorrectBiasFieldd, DenoiseCurvatureFlowd, DenoiseWaveletd, ReplaceNonFinited
from tomoseg.transforms.cleaner import Cleaner, cleaning_notes

Volume = NDArray[np.float32]

NEED_FINITE = sorted(set(CLEANERS) - {"non-finite"})
DENOISERS = ("denoise", "denoise-curvature")
TISSUES = (1, 2, 3)
HU = (-1000, -100, 50, 700)  # of air and the tissues
MIDWAY = (-550, -25, 375)
NOISE = 25.0  # HU
BIASED_SPACING = (3.4, 3.4, 3.4)


def phantom(values: Sequence[float], finer: int = 3) -> tuple[Volume, NDArray[np.int64], NDArray[np.float64]]:
    """A head of three tissues in air with the values of these four, as a scanner sees it: a voxel is a mean.

    Returns:
        (I, J, K) values, labels (-1 where voxels are mixed), and coordinates from -1 to 1.
    """
    x, y, z = grid((48 * finer, 54 * finer, 45 * finer))
    radius = np.sqrt(x**2 + y**2 + z**2)
    labels = np.where(radius < 0.95, 1, 0) + (radius < 0.75)
    labels[(np.abs(x) - 0.35) ** 2 + 0.5 * y**2 + z**2 < 0.06] = 3
    parts = labels.reshape(48, finer, 54, finer, 45, finer).transpose(0, 2, 4, 1, 3, 5).reshape(48, 54, 45, -1)
    pure = np.where(parts.min(-1) == parts.max(-1), parts.min(-1), -1)
    return np.asarray(values, np.float32)[parts].mean(-1), pure, grid(pure.shape)


def grid(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Coordinates from -1 to 1 along each axis, (3, I, J, K)."""
    return np.stack(np.meshgrid(*[np.linspace(-1, 1, size) for size in shape], indexing="ij"))


def clean(cleaner: Cleaner, array: Any, spacing: tuple[float, ...] | None = None) -> Any:
    """Clean one channel, (I, J, K); with a spacing in mm, as a MetaTensor."""
    image = array[None]
    if spacing is not None:
        image = MetaTensor(torch.from_numpy(image.copy()), affine=torch.diag(torch.tensor([*spacing, 1.0])).double())
    return as_array(cleaner({"image": image})["image"])[0]


def as_array(image: Any) -> NDArray[Any]:
    array: NDArray[Any] = image.numpy() if isinstance(image, torch.Tensor) else image
    return array


def rms(difference: Any) -> float:
    return float(np.sqrt(np.mean(np.square(difference))))


@pytest.fixture(scope="module")
def noisy_ct() -> tuple[Volume, Volume, NDArray[np.int64]]:
    """The phantom in HU, without noise and with, and its labels."""
    truth, labels, _ = phantom(HU)
    noise = np.random.default_rng(0).normal(0, NOISE, truth.shape)
    return truth, (truth + noise).astype(np.float32), labels


@pytest.fixture(scope="module")
def biased_mri() -> tuple[Volume, NDArray[np.int64]]:
    """The phantom as an MRI with a smooth bias, and its labels."""
    truth, labels, (x, y, z) = phantom([0, 60, 100, 140])
    bias = np.exp(0.3 * x - 0.25 * y**2 + 0.2 * z)
    noise = np.random.default_rng(0).normal(0, 1, labels.shape) * (truth > 0)
    return (truth * bias + noise).astype(np.float32), labels


@pytest.fixture(scope="module")
def corrected(biased_mri: tuple[Volume, NDArray[np.int64]]) -> Volume:
    """The phantom with its bias divided out."""
    array: Volume = clean(CorrectBiasFieldd("image"), biased_mri[0], BIASED_SPACING)
    return array


# bias


def test_a_known_bias_is_divided_out(biased_mri: tuple[Volume, NDArray[np.int64]], corrected: Volume) -> None:
    biased, labels = biased_mri
    for tissue in TISSUES:
        before, after = biased[labels == tissue], corrected[labels == tissue]
        assert after.std() / after.mean() < before.std() / before.mean() / 2.5


def test_tissue_stays_about_as_bright(biased_mri: tuple[Volume, NDArray[np.int64]], corrected: Volume) -> None:
    biased, labels = biased_mri
    change = np.log(corrected[labels > 0] / biased[labels > 0])
    assert abs(change.mean()) < 0.02 < change.std()


def test_the_field_is_smooth_at_full_resolution(biased_mri: tuple[Volume, NDArray[np.int64]]) -> None:
    biased = np.repeat(np.repeat(np.repeat(biased_mri[0], 2, 0), 2, 1), 2, 2)  # boxes of 2 voxels are shrunk
    inside = np.repeat(np.repeat(np.repeat(biased_mri[1], 2, 0), 2, 1), 2, 2) > 1
    field = np.where(
        inside, biased / np.where(inside, clean(CorrectBiasFieldd("image"), biased, (1.7,) * 3), 1), np.nan
    )
    assert np.nanmax(np.abs(np.diff(np.log(field), axis=0))) < 0.03
    assert np.nanmedian(np.abs(np.diff(np.log(field), axis=0))) > 0  # no steps as wide as a box


def test_a_shifted_mri_is_corrected_as_it_was_before(
    biased_mri: tuple[Volume, NDArray[np.int64]], corrected: Volume
) -> None:
    """The phantom's lowest value is that of air's noise, so it is shifted in any case."""
    shifted = clean(CorrectBiasFieldd("image"), biased_mri[0] - 75, BIASED_SPACING)
    assert biased_mri[0].min() < 0
    assert np.abs(shifted + 75 - corrected).max() < 1e-3 * corrected.max()


def test_a_bias_is_found_in_real_tissue(real_scan: Path) -> None:
    """The average head has some bias itself, so the test looks at the difference that a bias makes."""
    scan = np.asarray(voxels(nib.load(real_scan)), np.float32) * 1000
    x, y, _ = grid(scan.shape)
    bias = np.exp(0.2 * x - 0.15 * y).astype(np.float32)
    cleaner, tissue = CorrectBiasFieldd("image"), scan > 200
    without, with_bias = (np.log(clean(cleaner, array)[tissue]) for array in (scan, scan * bias))
    assert rms(without - np.log(scan[tissue])) < 0.1
    difference = with_bias - without
    assert difference.std() < np.log(bias[tissue]).std() / 2


# noise


@pytest.mark.parametrize("name", DENOISERS)
def test_noise_falls_and_hounsfield_units_stay(name: str, noisy_ct: tuple[Volume, Volume, NDArray[np.int64]]) -> None:
    truth, noisy, labels = noisy_ct
    denoised = clean(CLEANERS[name]("image"), noisy)
    assert rms(denoised - truth) < 0.9 * rms(noisy - truth)
    assert denoised.dtype == np.float32
    assert noisy.min() <= denoised.min()
    assert denoised.max() <= noisy.max()
    for tissue in (0, *TISSUES):
        inside = binary_erosion(labels == tissue)
        assert abs(denoised[inside].mean() - noisy[inside].mean()) < 2
        assert denoised[inside].std() < 0.8 * NOISE


@pytest.mark.parametrize("name", DENOISERS)
def test_values_that_were_cut_off_stay_in_range(name: str, noisy_ct: tuple[Volume, Volume, NDArray[np.int64]]) -> None:
    cut = noisy_ct[1].clip(-1000, 700)
    denoised = clean(CLEANERS[name]("image"), cut)
    assert denoised.min() == -1000
    assert denoised.max() <= 700


@pytest.mark.parametrize("name", DENOISERS)
def test_edges_stay(name: str, noisy_ct: tuple[Volume, Volume, NDArray[np.int64]]) -> None:
    """They are blurred less than by a Gaussian that takes as much noise."""
    truth, noisy, labels = noisy_ct
    denoised, blurred = clean(CLEANERS[name]("image"), noisy), gaussian_filter(noisy, 0.5)
    assert rms((denoised - truth)[labels < 0]) < 0.8 * rms((blurred - truth)[labels < 0])
    wrong = [np.count_nonzero((np.digitize(ct, MIDWAY) != labels)[labels >= 0]) for ct in (denoised, noisy)]
    assert wrong[0] < wrong[1] / 2


@pytest.mark.parametrize("name", DENOISERS)
def test_noise_on_a_real_scan_falls(name: str, real_scan: Path) -> None:
    scan = np.asarray(voxels(nib.load(real_scan)), np.float32) * 1000
    noisy = scan + np.random.default_rng(0).normal(0, 50, scan.shape).astype(np.float32)
    assert rms(clean(CLEANERS[name]("image"), noisy) - scan) < 0.6 * rms(noisy - scan)


def test_the_noise_is_estimated_and_reported(noisy_ct: tuple[Volume, Volume, NDArray[np.int64]]) -> None:
    image = MetaTensor(torch.from_numpy(noisy_ct[1][None]))
    (note,) = cleaning_notes(DenoiseWaveletd("image")({"image": image})["image"])
    assert abs(float(note.rpartition(" ")[2]) - NOISE) < 0.05 * NOISE


def test_a_padded_background_does_not_hide_the_noise(noisy_ct: tuple[Volume, Volume, NDArray[np.int64]]) -> None:
    padded = np.pad(noisy_ct[1], 20, constant_values=-2048)
    (note,) = cleaning_notes(DenoiseWaveletd("image")({"image": MetaTensor(torch.from_numpy(padded[None]))})["image"])
    assert abs(float(note.rpartition(" ")[2]) - NOISE) < 0.1 * NOISE


def test_less_noise_is_taken_as_asked(noisy_ct: tuple[Volume, Volume, NDArray[np.int64]]) -> None:
    changes = [rms(clean(DenoiseWaveletd("image", sigma), noisy_ct[1]) - noisy_ct[1]) for sigma in (2, 10, NOISE)]
    assert changes == sorted(changes)
    assert changes[0] < changes[-1] / 5


@settings(deadline=None, max_examples=15)
@given(scale=st.floats(1e-4, 1e4), offset=st.floats(-10, 10))
@pytest.mark.parametrize("name", DENOISERS)
def test_the_unit_does_not_matter(name: str, scale: float, offset: float) -> None:
    values = np.random.default_rng(0).normal(0, 0.1, (16, 14, 12)) + np.linspace(0, 1, 12)
    cleaner = CLEANERS[name]("image")
    expected = clean(cleaner, values.astype(np.float32))
    got = clean(cleaner, ((values + offset) * scale).astype(np.float32))
    assert np.abs(got / scale - offset - expected).max() < 1e-3


@pytest.mark.parametrize("spacing", [0.3, 2.0])
def test_the_flow_is_the_same_in_voxels_of_any_size(
    spacing: float, noisy_ct: tuple[Volume, Volume, NDArray[np.int64]]
) -> None:
    cleaner = DenoiseCurvatureFlowd("image")
    difference = clean(cleaner, noisy_ct[1], (spacing,) * 3) - clean(cleaner, noisy_ct[1])
    assert np.abs(difference).max() < 0.01 * NOISE


@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
def test_the_spacing_belongs_to_its_axis(
    axes: tuple[int, int, int], noisy_ct: tuple[Volume, Volume, NDArray[np.int64]]
) -> None:
    noisy, spacing = noisy_ct[1][:20, :24, :16], (0.7, 1.1, 3.0)
    cleaner = DenoiseCurvatureFlowd("image")
    turned = clean(cleaner, noisy.transpose(axes), tuple(spacing[axis] for axis in axes))
    expected = clean(cleaner, noisy, spacing)
    assert np.abs(turned - expected.transpose(axes)).max() < 0.01 * NOISE
    assert np.abs(clean(cleaner, noisy) - expected).max() > NOISE


def test_the_flow_is_stable() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (16, 16, 16)).astype(np.float32)
    variations = [
        np.abs(np.diff(clean(DenoiseCurvatureFlowd("image", steps), noise, (0.5, 1, 4)), axis=0)).sum()
        for steps in (1, 5, 20, 100)
    ]
    assert variations == sorted(variations, reverse=True)


# NaN and infinity


@settings(deadline=None)
@given(
    array=hnp.arrays(
        np.float32,
        (1, 3, 4, 5),
        elements=st.one_of(st.floats(-1e6, 1e6, width=32), st.sampled_from([np.nan, np.inf, -np.inf])),
    ),
    nan=st.none() | st.floats(-1000, 1000, width=32),
)
def test_non_finite_values_are_replaced_and_counted(array: Volume, nan: float | None) -> None:
    array[0, 0, 0, 0] = 7
    finite = array[np.isfinite(array)]
    image = MetaTensor(torch.from_numpy(array.copy()))
    result = ReplaceNonFinited("image", nan)({"image": image})["image"]
    expected = finite.min() if nan is None else nan
    np.testing.assert_array_equal(
        result.numpy(), np.nan_to_num(array, nan=expected, posinf=finite.max(), neginf=finite.min())
    )
    (note,) = cleaning_notes(result)
    if finite.size == array.size:
        assert note == "cleaned: no NaN or infinite values"
    else:
        assert f"{np.isnan(array).sum()} NaN" in note
        assert f"{np.isinf(array).sum()} infinite" in note


def test_each_channel_has_its_own_range() -> None:
    image = MetaTensor(torch.tensor([[[[np.nan, 1.0, np.inf]]], [[[4.0, 5.0, 6.0]]]]))
    result = ReplaceNonFinited("image")({"image": image})["image"]
    assert result.tolist() == [[[[1, 1, 1]]], [[[4, 5, 6]]]]
    assert cleaning_notes(result) == (
        "cleaned: channel 0: 1 NaN replaced by 1, 1 infinite values by 1 or 1; channel 1: no NaN or infinite values",
    )


# with each cleaner


@pytest.mark.parametrize("name", CLEANERS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 9), (1, 12, 12), (2, 3, 4), (12, 11, 1), (5, 40, 2)], ids=str)
def test_few_slices_are_cleaned_too(name: str, shape: tuple[int, int, int]) -> None:
    values = np.random.default_rng(0).uniform(50, 100, shape).astype(np.float32)
    cleaned = clean(CLEANERS[name]("image"), values, (1, 1, 3))
    assert cleaned.shape == shape
    assert np.isfinite(cleaned).all()
    assert np.array_equal(cleaned, values) or sum(size > 1 for size in shape) > 1


@pytest.mark.parametrize("name", CLEANERS)
@pytest.mark.parametrize("value", [-1024.0, 0.0, 7.0])
def test_a_constant_volume_stays(name: str, value: float) -> None:
    image = MetaTensor(torch.full((1, 12, 12, 12), value))
    result = CLEANERS[name]("image")({"image": image})["image"]
    assert torch.equal(result.as_tensor(), image.as_tensor())
    assert any(word in cleaning_notes(result)[0] for word in ("nothing to do", "no NaN"))


def test_without_noise_nothing_is_taken() -> None:
    half = np.zeros((16, 16, 16), np.float32)
    half[8:] = 100
    assert np.array_equal(clean(DenoiseWaveletd("image"), half), half)


# errors


@pytest.mark.parametrize("name", NEED_FINITE)
def test_values_that_are_not_finite_are_refused(name: str) -> None:
    image = torch.rand(1, 8, 8, 8)
    image[0, 1, 2, :3] = torch.nan
    scan = MetaTensor(image, meta={"filename_or_obj": "scan.nii.gz"})
    with pytest.raises(VolumeError, match=r"^scan\.nii\.gz: .* got 3 that are not; ReplaceNonFinited replaces them$"):
        CLEANERS[name]("image")({"image": scan})


def test_a_scan_without_any_value_is_refused() -> None:
    with pytest.raises(VolumeError, match="nothing but NaN"):
        ReplaceNonFinited("image")({"image": np.full((1, 2, 2, 2), np.nan)})


@pytest.mark.parametrize(
    ("cleaner", "option", "value"),
    [
        (ReplaceNonFinited, "nan", np.inf),
        (DenoiseWaveletd, "sigma", 0.0),
        (DenoiseWaveletd, "sigma", np.nan),
        (DenoiseCurvatureFlowd, "iterations", 0),
    ],
)
def test_options_out_of_range_are_refused(cleaner: Any, option: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{option}: expected"):
        cleaner("image", **{option: value})


@pytest.mark.parametrize(("module", "package"), [("skimage", "scikit-image"), ("pywt", "PyWavelets")])
def test_without_the_extra_the_error_names_it(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as import sees a package that is not installed
    with pytest.raises(MissingPackageError, match=rf"^{package} is not installed. .*\"tomoseg\[clean\]\"$") as caught:
        DenoiseWaveletd("image")({"image": np.random.default_rng(0).random((1, 8, 8, 8))})
    assert isinstance(caught.value, TomosegError)
