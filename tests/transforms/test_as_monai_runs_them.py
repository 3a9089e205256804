"""Cleaning transforms as MONAI runs them: the kind of image, its grid, metadata and inverse stay; notes are kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.transforms import (
    Compose,
    CropForegroundd,
    EnsureTyped,
    Invertd,
    LoadImaged,
    Orientationd,
    SaveImaged,
    Spacingd,
)
from numpy.typing import NDArray

from support.bundles import voxels
from tomoseg.core.errors import VolumeError
from tomoseg.transforms import CLEANERS, ReplaceNonFinited
from tomoseg.transforms.cleaner import CLEANING, Cleaner, cleaning_notes


def as_array(image: Any) -> NDArray[Any]:
    array: NDArray[Any] = image.numpy() if isinstance(image, torch.Tensor) else image
    return array


@pytest.fixture
def oblique_scan(real_scan: Path, tmp_path: Path) -> Path:
    """The real scan in an oblique grid, mirrored, with its axes swapped and an anisotropic spacing."""
    image = nib.load(real_scan)
    turn = np.array([[0.96, -0.28, 0, 0], [0.28, 0.96, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    affine = turn @ image.affine @ np.diag([1, 1, 2, 1])
    swapped = nib.Nifti1Image(voxels(image)[:, :, ::2] * 1000, affine).as_reoriented(
        np.array([[1, -1], [2, 1], [0, 1]])
    )
    path = tmp_path / "oblique.nii.gz"
    nib.save(swapped, path)
    return path


@pytest.mark.parametrize("name", CLEANERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int16, np.uint16, np.uint8, np.bool_])
@pytest.mark.parametrize("kind", ["array", "reversed array", "tensor", "MetaTensor"])
def test_kind_and_dtype_stay(name: str, dtype: Any, kind: str) -> None:
    values = (np.random.default_rng(0).random((2, 8, 9, 10)) * 100).astype(dtype)
    image: Any = values.copy()
    if kind == "reversed array":
        image = image[:, ::-1, ::-1].swapaxes(1, 3)
    elif kind != "array":
        image = torch.from_numpy(image) if kind == "tensor" else MetaTensor(torch.from_numpy(image))
    before = as_array(image).copy()
    result = CLEANERS[name]("image")({"image": image})["image"]
    again = CLEANERS[name]("image")({"image": image})["image"]
    assert type(result) is type(image)
    assert result.shape == image.shape
    changed = np.dtype(dtype).kind != "f" and name != "non-finite"  # fractions do not fit into integers
    assert as_array(result).dtype == (np.float32 if changed else dtype)
    np.testing.assert_array_equal(as_array(result), as_array(again))
    np.testing.assert_array_equal(as_array(image), before)
    assert not np.shares_memory(as_array(result), as_array(image))


@pytest.mark.parametrize("name", CLEANERS)
def test_bfloat16_stays(name: str) -> None:
    image = torch.rand((1, 8, 8, 8), generator=torch.Generator().manual_seed(0)).bfloat16()
    assert CLEANERS[name]("image")({"image": image})["image"].dtype == torch.bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", CLEANERS)
def test_what_is_on_the_gpu_stays_there(name: str) -> None:
    image = torch.rand((1, 16, 16, 16), generator=torch.Generator().manual_seed(0))
    there = CLEANERS[name]("image")({"image": MetaTensor(image).cuda()})["image"]
    here = CLEANERS[name]("image")({"image": MetaTensor(image)})["image"]
    assert there.device.type == "cuda"
    assert torch.equal(there.cpu().as_tensor(), here.as_tensor())


@pytest.mark.parametrize("name", CLEANERS)
def test_each_channel_is_cleaned_by_itself(name: str) -> None:
    one, other = np.random.default_rng(0).uniform(0, 100, (2, 1, 24, 20, 18)).astype(np.float32)
    cleaner = CLEANERS[name]("image")
    both = cleaner({"image": np.concatenate([one, other * 3])})["image"]
    assert np.array_equal(both[:1], cleaner({"image": one})["image"])
    assert np.array_equal(both[1:], cleaner({"image": other * 3})["image"])


@pytest.mark.parametrize("name", CLEANERS)
def test_missing_keys_may_be_left_out(name: str) -> None:
    image = np.random.default_rng(0).random((1, 8, 8, 8), np.float32)
    data = {"t1": image, "age": 40}
    cleaned = CLEANERS[name](["t1", "t2"], allow_missing_keys=True)(data)  # type: ignore[call-arg]
    assert set(cleaned) == {"t1", "age"}
    assert data["t1"] is image
    with pytest.raises(KeyError, match="t2"):
        CLEANERS[name](["t1", "t2"])(data)


@pytest.mark.parametrize("name", CLEANERS)
def test_metadata_and_the_inverse_are_left_alone(name: str, oblique_scan: Path) -> None:
    def run(*cleaners: Cleaner) -> tuple[MetaTensor, MetaTensor]:
        steps = Compose(
            [
                LoadImaged("image", ensure_channel_first=True),
                Orientationd("image", axcodes="RAS", labels=None),
                *cleaners,
                Spacingd("image", pixdim=(1.3, 1.3, 1.3)),
                CropForegroundd("image", source_key="image", select_fn=lambda x: x > -1),
            ]
        )
        data = steps({"image": str(oblique_scan)})
        pattern = torch.arange(data["image"].numel(), dtype=torch.float32).reshape(data["image"].shape)
        data["pred"] = MetaTensor(pattern, meta=data["image"].meta)
        back = Invertd("pred", steps, orig_keys="image", nearest_interp=False)(data)["pred"]
        return data["image"], back

    (plain, plain_back), (cleaned, back) = run(), run(CLEANERS[name]("image"))
    assert torch.equal(cleaned.affine, plain.affine)
    traces = [
        re.sub(r"id: \d+", "id", str(image.applied_operations)) for image in (cleaned, plain)
    ]  # ids are addresses
    assert traces[0] == traces[1]
    assert len(cleaned.applied_operations) == 3
    assert len(cleaned.meta[CLEANING]) == 1
    assert {key: str(value) for key, value in cleaned.meta.items() if key != CLEANING} == {
        key: str(value) for key, value in plain.meta.items()
    }
    scan = nib.load(oblique_scan)
    assert back.shape[1:] == scan.shape
    assert torch.allclose(back.affine, torch.from_numpy(scan.affine), atol=1e-4)
    assert torch.equal(back.as_tensor(), plain_back.as_tensor())


def test_remarks_stay_through_other_transforms_batches_and_files(oblique_scan: Path, tmp_path: Path) -> None:
    steps = Compose(
        [
            LoadImaged("image", ensure_channel_first=True),
            *(cleaner("image") for cleaner in CLEANERS.values()),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=(1.5, 1.5, 1.5)),
            CropForegroundd("image", source_key="image"),
            EnsureTyped("image"),
        ]
    )
    image = steps({"image": str(oblique_scan)})["image"]
    notes = cleaning_notes(image)
    assert [note.split(",")[0] for note in notes] == [
        "cleaned: no NaN or infinite values",
        "cleaned: denoised by wavelets (scikit-image)",
        "cleaned: denoised by curvature flow (SimpleITK)",
        "cleaned: corrected for its bias field by N4 (SimpleITK)",
    ]
    batch = next(iter(DataLoader(Dataset([{"image": str(oblique_scan)}] * 2, steps), batch_size=2)))
    assert [cleaning_notes(item["image"]) for item in decollate_batch(batch)] == [notes, notes]
    SaveImaged("image", output_dir=tmp_path, output_postfix="clean", separate_folder=False, print_log=False)(
        {"image": image}
    )
    assert nib.load(tmp_path / "oblique_clean.nii.gz").shape == image.shape[1:]


def test_every_image_of_a_batch_has_as_many_remarks() -> None:
    """MONAI collates only lists of one length, so a constant image must have its note as well."""
    images = [torch.zeros(1, 8, 8, 8), torch.rand(1, 8, 8, 8), torch.full((1, 8, 8, 8), 3.0)]
    images[1][0, 0, 0, 0] = torch.nan
    steps = Compose([cleaner("image") for cleaner in CLEANERS.values()])
    data = [{"image": MetaTensor(image)} for image in images]
    items = decollate_batch(next(iter(DataLoader(Dataset(data, steps), batch_size=3))))
    assert [cleaning_notes(item["image"]) for item in items] == [cleaning_notes(steps(item)["image"]) for item in data]


def test_the_remarks_of_what_went_in_stay_as_they_were() -> None:
    first = ReplaceNonFinited("image")({"image": MetaTensor(torch.rand(1, 8, 8, 8))})
    second = ReplaceNonFinited("image")(first)
    assert len(cleaning_notes(first["image"])) == 1
    assert len(cleaning_notes(second["image"])) == 2
    assert cleaning_notes(np.zeros(3)) == ()


def test_a_bundle_config_names_them(oblique_scan: Path, tmp_path: Path) -> None:
    targets: list[dict[str, Any]] = [
        {"_target_": "tomoseg.transforms.ReplaceNonFinited", "keys": "image", "nan": 0.0},
        {"_target_": "tomoseg.transforms.DenoiseWaveletd", "keys": "image"},
        {"_target_": "tomoseg.transforms.DenoiseCurvatureFlowd", "keys": ["image"], "iterations": 2},
        {"_target_": "tomoseg.transforms.CorrectBiasFieldd", "keys": "image"},
    ]
    load = {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True}
    config = {"preprocessing": {"_target_": "Compose", "transforms": [load, *targets]}}
    (tmp_path / "inference.json").write_text(json.dumps(config))
    parser = ConfigParser()
    parser.read_config(tmp_path / "inference.json")
    image = parser.get_parsed_content("preprocessing")({"image": str(oblique_scan)})["image"]
    assert len(cleaning_notes(image)) == len(targets)
    assert {target["_target_"].rpartition(".")[2] for target in targets} == {
        cleaner("image").__class__.__name__ for cleaner in CLEANERS.values()
    }


@pytest.mark.parametrize("name", CLEANERS)
@pytest.mark.parametrize(
    "image", [np.zeros((4, 4, 4)), np.zeros((1, 4, 0, 4)), np.zeros((1, 4, 4, 4), complex)], ids=lambda a: str(a.shape)
)
def test_what_is_no_volume_is_refused(name: str, image: NDArray[Any]) -> None:
    with pytest.raises(VolumeError, match=r"^the image 'mri': .* expected real values of shape \(C, I, J, K\), got "):
        CLEANERS[name]("mri")({"mri": image})
