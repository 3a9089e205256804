"""A bundle that learns from images drawn from label maps, with scans beside them or without."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import list_data_collate
from monai.transforms import OneOf

from support.bundles import SHARED, Place, load_network, parse_config, read_config
from support.config_names import check_names
from support.trainings import remove_scans, tiny_bundle, tomoseg, write_dataset
from tomoseg import PlanningOptions, Segmenter, find_bundle, train
from tomoseg.core.errors import DatasetError, UsageError
from tomoseg.data.datasets import read_dataset
from tomoseg.planning.bundle_writer import plan
from tomoseg.planning.fingerprint import LabelPrint, take_fingerprint
from tomoseg.planning.synthesis import choose_drawing, find_pairs
from tomoseg.training.options import TrainingOptions

BUDGET = PlanningOptions(4 * 10**9, "cpu", "small")
LAYOUTS: dict[str, dict[str, Any]] = {
    "decathlon": {"validation": 1},
    "nnunet with an ignore label": {"layout": "nnunet", "names": {"Front": 2, "Back part": 7}, "ignore": True},
    "plain": {"layout": "plain"},
    "partly annotated": {"partial": True},
}


@pytest.fixture(params=LAYOUTS)
def label_maps(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return remove_scans(write_dataset(tmp_path / "data", **LAYOUTS[request.param]))


def preprocess(bundle: Path, data: Path, part: str, **options: Any) -> list[Any]:
    """The samples of a part of the bundle's train.json."""
    parser = parse_config(bundle, "train", dataset_dir=str(data), fold=0, **options)
    cases = parser.get_parsed_content("train_cases" if part == "train" else "val_cases")
    assert cases
    transform = parser.get_parsed_content(f"{part}::preprocessing")
    return [transform(case) for case in cases]


def test_label_maps_alone_become_a_bundle(label_maps: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle(label_maps, tmp_path / "bundle", synthetic=1)
    for config in ("inference", "evaluate", "semi_supervised"):
        check_names(bundle, config)
    plan, card = read_config(bundle, "plan"), (bundle / "docs" / "README.md").read_text()
    assert plan["choices"]["images"]["value"] == "100% drawn from label maps"
    assert "there are no scans" in plan["choices"]["images"]["reason"]
    assert plan["choices"]["intensities"]["reason"] in card
    assert not {"zeros", "intensity_mean", "intensity_low"} & set(plan["fingerprint"])
    assert plan["fingerprint"]["median_shape"] == [22, 24, 18]
    assert "foreground intensities" not in card
    assert "`train.json` needs `tomoseg`" in card
    patch = read_config(bundle, "train")["patch_size"]
    drawn = preprocess(bundle, label_maps, "train")
    for sample in drawn:
        assert sample["image"].shape == sample["label"].shape == (1, *patch)
        assert (float(sample["image"].min()), float(sample["image"].max())) == (0, 1)
        assert sample["image"].dtype == torch.float32
        assert {0, 1} <= set(sample["label"].unique().tolist()) <= {0, 1, 2, 3}
    assert list_data_collate(drawn)["image"].shape == (len(drawn), 1, *patch)


def test_validation_on_drawn_images_is_the_same_each_time(label_maps: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle(label_maps, tmp_path / "bundle", synthetic=1)
    first, again = (preprocess(bundle, label_maps, "validate") for _ in range(2))
    other = preprocess(bundle, label_maps, "validate", seed=1)
    for one, same, another in zip(first, again, other, strict=True):
        assert torch.equal(one["image"], same["image"])
        assert not torch.equal(one["image"], another["image"])
    assert len(first) < 2 or not torch.equal(first[0]["image"], first[1]["image"])
    assert all(sample["label"].max() <= 2 for sample in first)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_of_the_samples_are_scans(tmp_path: Path, layout: str) -> None:
    data = write_dataset(tmp_path / "data", **LAYOUTS[layout])
    bundle = tiny_bundle(data, tmp_path / "bundle", synthetic=0.5)
    patch = read_config(bundle, "train")["patch_size"]
    parser = parse_config(bundle, "train", dataset_dir=str(data), fold=0)
    steps = parser.get_parsed_content("train::preprocessing").transforms
    (choice,) = (step for step in steps if isinstance(step, OneOf) and list(step.weights) == [0.5, 0.5])
    assert len(choice.transforms) == 2
    for share in (0, 0.5, 1):  # 0: scans only
        samples = preprocess(bundle, data, "train", synthetic_share=share)
        batch = list_data_collate(samples)
        assert batch["image"].shape == batch["label"].shape == (len(samples), 1, *patch)
        assert {sample["label"].dtype for sample in samples} == {torch.uint8}
    for real in preprocess(bundle, data, "validate"):
        assert (float(real["image"].min()), float(real["image"].max())) == (0, 1)
        assert set(real) >= {"image", "label"}
        assert "tissues" not in real


def test_scans_are_validated_on_where_all_samples_are_drawn(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    bundle = tiny_bundle(data, tmp_path / "bundle", synthetic=1)
    evaluate = parse_config(bundle, "evaluate", dataset_dir=str(data), fold=0)
    steps = evaluate.get_parsed_content("preprocessing")
    for case, sample in zip(evaluate.get_parsed_content("datalist"), preprocess(bundle, data, "validate"), strict=True):
        inside = np.asarray(steps(case)["image"])
        assert np.isin(inside.round(4), np.asarray(sample["image"]).round(4)).all()
    assert read_config(bundle, "plan")["fingerprint"]["intensity_mean"] > 0


@pytest.mark.parametrize(
    ("names", "pairs", "mirrored"),
    [
        (["left hippocampus", "right hippocampus"], ((1, 2),), True),
        (["Kidney_R", "Kidney_L", "Spine"], ((2, 1),), True),
        (["Left-Thalamus", "Right-Putamen"], (), False),  # no partner
        (["left lung", "right lung", "left lung"], (), False),
        (["left and right lung"], (), False),
        (["front", "back"], (), True),
    ],
)
def test_sides_are_paired_by_name(tmp_path: Path, names: list[str], pairs: Any, mirrored: bool) -> None:
    labels = [LabelPrint(value, name, 5, 5, 1.0) for value, name in enumerate(names, start=1)]
    assert find_pairs(labels) == pairs
    data = read_dataset(remove_scans(write_dataset(tmp_path / "data")))
    taken = take_fingerprint(data, data.label_names)
    object.__setattr__(taken, "labels", tuple(labels))
    drawing = choose_drawing(taken, 1, (20.0,) * 3, (2.0,) * 3)
    assert (drawing.pairs, drawing.mirror_prob) == (pairs, 0.5 if mirrored else 0)
    assert drawing.translation_mm == (2.0, 2.0, 2.0)


def test_label_maps_alone_need_the_option(label_maps: Path, tmp_path: Path) -> None:
    message = "expected scans, got label maps only. Plan a bundle with `tomoseg plan --synthetic 1`"
    with pytest.raises(DatasetError, match=message):
        plan(label_maps, tmp_path / "bundle", BUDGET)
    with_scans = tiny_bundle(write_dataset(tmp_path / "scans"), tmp_path / "bundle")
    with pytest.raises(DatasetError, match=message):
        train(with_scans, label_maps)
    with pytest.raises(UsageError, match=r"has label maps only. Give 1, so that all images are drawn"):
        plan(label_maps, tmp_path / "other", replace(BUDGET, synthetic=0.5))
    done = tomoseg("plan", label_maps, "-o", tmp_path / "third")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--synthetic 1" in done.stderr


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01, float("nan"), float("inf")])
def test_a_share_that_cannot_be_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="synthetic: expected a share above 0 and at most 1"):
        PlanningOptions(synthetic=share)


def test_what_cannot_be_drawn_from_is_refused(tmp_path: Path) -> None:
    data = remove_scans(write_dataset(tmp_path / "data"))
    path = data / "dataset.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"modality": {"0": "T1", "1": "T2"}}))
    with pytest.raises(UsageError, match=r"has 2 channels. Drawn images have one"):
        plan(data, tmp_path / "bundle", replace(BUDGET, synthetic=1))
    path.write_text(json.dumps(content | {"labels": {"1": "one", "99999": "two"}}))
    for label in (data / "labelsTr").iterdir():
        image = nib.load(label)
        nib.save(nib.Nifti1Image(np.where(np.asarray(image.dataobj) == 2, 99999, 1).astype("i4"), image.affine), label)
    with pytest.raises(UsageError, match=r"has the label 99999. Number the labels so that none is above 32767"):
        plan(data, tmp_path / "bundle", replace(BUDGET, synthetic=1))


def test_check_knows_label_maps_alone(label_maps: Path) -> None:
    done = tomoseg("check", label_maps, "--voxels")
    assert done.returncode == 0, done.stderr
    assert "no scans, label maps only" in done.stdout + done.stderr
    assert "6 training" in done.stdout


def test_a_training_without_scans_refuses_what_needs_them(tmp_path: Path) -> None:
    data = remove_scans(write_dataset(tmp_path / "data"))
    bundle = tiny_bundle(data, tmp_path / "bundle", synthetic=1)
    with pytest.raises(UsageError, match=r"--fold all: scores scans, and .* has none"):
        train(bundle, data, TrainingOptions(fold="all", epochs=1, device="cpu"))
    scans = write_dataset(tmp_path / "scans") / "imagesTr"
    with pytest.raises(UsageError, match="but not with --synthetic 1"):
        train(bundle, data, TrainingOptions(negatives=str(scans), epochs=1, device="cpu"))


@pytest.mark.slow
@pytest.mark.parametrize("share", [1, 0.5])
def test_hippocampi_are_learnt_from_label_maps(tmp_path: Path, share: float) -> None:
    source = SHARED / "Task04_Hippocampus"
    if not source.is_dir():
        pytest.skip(f"Task04_Hippocampus is not at {source}; it is no part of the project")
    data = tmp_path / "data"
    scans = sorted((source / "imagesTr").glob("hippocampus_*.nii.gz"))[:6]
    for folder in ("images", "labels"):
        (data / folder).mkdir(parents=True)
        for path in scans:
            shutil.copy(source / f"{folder}Tr" / path.name, data / folder)
    if share == 1:
        remove_scans(data)
    bundle = tiny_bundle(data, tmp_path / "bundle", synthetic=share)
    weights = []
    for folder in ("one", "two"):
        trained = train(bundle, data, TrainingOptions(epochs=2, device="cpu", seed=3), output=tmp_path / folder)
        assert trained.epochs == 2  # type: ignore[union-attr]
        assert 0 <= trained.metrics["val_mean_dice"] <= 1  # type: ignore[union-attr]
        weights.append(torch.load(trained.weights, weights_only=True))  # type: ignore[union-attr]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0]), "a seed gives one training"
    place = Place(bundle, tmp_path)  # stock MONAI, with tomoseg beside it
    place.call("run", "--config_file", place.configs("train"), "--dataset_dir", str(data), "--epochs", "1")
    load_network(bundle, bundle / "train" / "model.pt")
    found = Segmenter(find_bundle(bundle))(scans[0]).labels
    assert found.shape == nib.load(scans[0]).shape
