"""A scan that is unlike those that a bundle was trained on is warned of, in all outputs; one that fits is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

from support.command_line import run_inside
from support.trainings import tiny_bundle, write_dataset
from tomoseg import Grid, Segmenter, TrainingOptions, train
from tomoseg.bundle.domain import DOMAIN, read_domain
from tomoseg.bundle.trust import record
from tomoseg.core.errors import BundleError
from tomoseg.data.read import read_volume
from tomoseg.data.volume import Volume
from tomoseg.inference.domain import Traits, compare_traits, measure_traits
from tomoseg.training.domain import MIN_CASES, fit_domain

Array = NDArray[np.float32]
CASES = 12


def noise(array: Array) -> Array:
    return np.random.default_rng(0).normal(array.mean(), array.std(), array.shape).astype(np.float32)


def wide(array: Array) -> Array:
    return np.pad(array, 30, mode="reflect")


UNLIKE: dict[str, tuple[Callable[[Array], Array], str]] = {
    "upside down": (lambda array: np.flip(array, 2), "a likeness of .*turned upside down"),
    "back to front": (lambda array: np.flip(array, 1), "a likeness of .*turned back to front"),
    "inverted": (lambda array: array.max() - array, "a likeness of .*another contrast"),
    "noise": (noise, "neighbouring voxels differ by .* SD, expected"),
    "wide": (wide, "a field of view of .* mm from left to right, expected"),
}


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter.from_bundle("hippocampus", device="cpu", backend="torch")


@pytest.mark.parametrize("kind", UNLIKE)
def test_an_unlike_scan_has_a_reason(kind: str, segmenter: Segmenter, real_scan: Path) -> None:
    change, reason = UNLIKE[kind]
    volume = read_volume(real_scan)
    array = np.ascontiguousarray(change(volume.array), np.float32)
    found = segmenter.prepare(replace(volume, array=array, grid=Grid(array.shape, volume.grid.affine)), as_it_is=True)
    unlike = found.out_of_domain
    assert unlike is not None
    assert unlike.distance > 1
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError("; ".join(unlike.reasons))
    assert sum(line.startswith("unlike the training cases") for line in found.warnings) == 1


def test_a_scan_that_fits_has_none_nor_its_mirror_image(segmenter: Segmenter, real_scan: Path) -> None:
    volume = read_volume(real_scan)
    for array in (volume.array, np.ascontiguousarray(volume.array[::-1])):
        found = segmenter.prepare(replace(volume, array=array))
        assert found.out_of_domain is not None
        assert found.out_of_domain.distance < 1
        assert found.out_of_domain.reasons == found.warnings == ()


def test_the_storage_order_of_axes_changes_nothing(segmenter: Segmenter, real_scan: Path) -> None:
    image = nib.load(real_scan)
    distances = []
    for axcodes in ("RAS", "LPI", "SAR"):
        wanted = nib.orientations.axcodes2ornt(axcodes)
        turn = nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted)
        found = segmenter.prepare(image.as_reoriented(turn)).out_of_domain
        assert found is not None
        distances.append(found.distance)
    assert distances == pytest.approx([distances[0]] * 3, abs=1e-3)


def test_each_output_says_it(real_scan: Path, tmp_path: Path) -> None:
    volume = read_volume(real_scan)
    nib.save(nib.Nifti1Image(np.flip(volume.array, 2), volume.grid.affine), tmp_path / "turned.nii.gz")
    (tmp_path / "good.nii.gz").write_bytes(real_scan.read_bytes())
    done = run_inside("segment", tmp_path, "-o", tmp_path / "out", "-b", "hippocampus", "--device", "cpu")
    cases = {
        Path(case["input"]).name: case for case in json.loads((tmp_path / "out" / "report.json").read_text())["cases"]
    }
    assert cases["good.nii.gz"]["out_of_domain"]["reasons"] == []
    unlike = cases["turned.nii.gz"]["out_of_domain"]
    assert "turned upside down" in unlike["reasons"][0]
    assert f"unlike the training cases (distance {unlike['distance']:.1f}" in done.stderr
    assert "turned upside down" in (tmp_path / "out" / "report.html").read_text("utf-8")


def test_training_writes_what_it_was_trained_on(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", CASES)
    bundle = tiny_bundle(data, tmp_path / "bundle")
    case = data / "imagesTr" / "case_00.nii.gz"
    train(bundle, data, TrainingOptions(fold="none", epochs=1, device="cpu"))
    domain = read_domain(bundle)
    assert domain is not None
    assert domain.cases == CASES
    assert domain.spacing_mm == ((1.0, 1.0),) * 3
    fits = Segmenter.from_bundle(bundle, device="cpu", backend="torch").prepare(read_volume(case)).out_of_domain
    assert fits is not None
    assert fits.reasons == ()
    (bundle / DOMAIN).unlink()
    record(bundle)
    assert Segmenter.from_bundle(bundle, device="cpu", backend="torch").prepare(read_volume(case)).out_of_domain is None
    (bundle / DOMAIN).write_text("{}")
    record(bundle)
    with pytest.raises(BundleError, match=r"domain\.json: cannot be read: .*\. Train the bundle again"):
        Segmenter.from_bundle(bundle, device="cpu", backend="torch")


def test_a_few_odd_cases_do_not_widen_the_ranges(segmenter: Segmenter, real_scan: Path) -> None:
    volume = read_volume(real_scan)
    rng = np.random.default_rng(0)

    def traits(array: Array) -> Traits:
        changed = Volume((array + rng.normal(0, array.std() / 20, array.shape)).astype(np.float32), volume.grid, "x")
        prepared = segmenter.prepare(changed, as_it_is=True)
        return measure_traits(prepared.image, prepared.grid)

    usual = [traits(volume.array) for _ in range(10 * MIN_CASES)]
    domain = fit_domain([*usual, traits(np.flip(volume.array, 2))], mirrored=False)
    assert compare_traits(usual[0], domain).reasons == ()
    assert compare_traits(traits(np.flip(volume.array, 2)), domain).reasons
