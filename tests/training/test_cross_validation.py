"""All folds: each case is predicted by a network that had not seen it, and the bundle gets the best of them."""

from __future__ import annotations

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from support.bundles import Place, read_config, voxels
from support.config_names import check_names
from support.tiers import examples
from support.trainings import check_data, load, tiny_bundle, tomoseg, write_dataset
from tomoseg import Segmenter, find_bundle
from tomoseg.bundle.ensemble import KEEP_LARGEST, ensemble_config, keep_components, single_config
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.core.errors import UsageError
from tomoseg.core.files import sha256
from tomoseg.data.components import largest_component
from tomoseg.data.overlap import dice
from tomoseg.training.card import write_accuracy
from tomoseg.training.cross_validation import CrossValidation, average_weights, cross_validate
from tomoseg.training.options import TrainingOptions
from tomoseg.training.state import load_state
from tomoseg.training.training import train
from tomoseg.training.validation_dice import mean_of_labels

OPTIONS = TrainingOptions(epochs=2, device="cpu")


@pytest.fixture(scope="module")
def validated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CrossValidation]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("folds")
    bundle = tiny_bundle(write_dataset(folder / "data", partial=True), folder / "bundle", steps=3)
    return folder, cross_validate(
        find_bundle(bundle), check_data(folder / "data"), OPTIONS, folder / "out", hidden=True
    )


def test_every_case_is_predicted_once_by_the_fold_that_held_it_out(validated: tuple[Path, CrossValidation]) -> None:
    folder, result = validated
    assert result.cases == 6
    with (result.folder / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert sorted(row["case"] for row in rows) == [f"case_{case:02}" for case in range(6)]
    for row in rows:
        weights = folder / "out" / f"fold_{row['fold']}" / "model.pt"
        bundle = single(folder)
        fresh = Segmenter(bundle, RunOptions(device="cpu", checkpoints=(str(weights),)))
        scan = folder / "data" / "imagesTr" / f"{row['case']}.nii.gz"
        predicted = voxels(nib.load(result.folder / "predictions" / scan.name))
        np.testing.assert_array_equal(predicted, fresh(scan).labels)
        truth = voxels(nib.load(folder / "data" / "labelsTr" / scan.name))
        assert float(row["Front"]) == pytest.approx(dice(predicted == 1, truth == 1), abs=1e-6)
        assert bool(row["Back part"]) == bool((truth == 2).any()), "not scored where it was not drawn"


def single(folder: Path) -> Bundle:
    """Return the bundle as it was planned, without what the cross-validation made of it."""
    copy = folder / "single_bundle"
    if not copy.exists():
        shutil.copytree(folder / "bundle", copy)
        path = copy / "configs" / "inference.json"
        path.write_text(json.dumps(keep_components(single_config(json.loads(path.read_text())), [])))
    return find_bundle(copy)


def test_the_summary_has_every_fold_and_what_was_chosen(validated: tuple[Path, CrossValidation]) -> None:
    _, result = validated
    content = json.loads((result.folder / "summary.json").read_text())
    assert [fold["fold"] for fold in content["folds"]] == [0, 1, 2, 3, 4]
    compared = content["compared_on_seen_cases"]
    assert content["averaged_weights"] == (compared["mean_of_weights"] >= compared["mean_of_logits"])
    for label, name in result.labels.items():
        raised = content["largest_component_only"].get(name)
        assert (label in result.largest) == (raised is not None)
        assert raised is None or raised > content["mean_dice"][name]


@pytest.mark.slow
def test_the_bundle_with_all_networks_is_stock_monais(validated: tuple[Path, CrossValidation], tmp_path: Path) -> None:
    """`monai.bundle run`, the plugin and the mean of the logits agree."""
    folder, _ = validated
    bundle = shutil.copytree(single(folder).root, tmp_path / "together")
    names = [f"fold_{fold}.pt" for fold in range(5)]
    (bundle / "models").mkdir(exist_ok=True)
    for fold, name in enumerate(names):
        shutil.copy(folder / "out" / f"fold_{fold}" / "model.pt", bundle / "models" / name)
    config = read_config(bundle, "inference")
    made = ensemble_config(config, names)
    assert single_config(made) == {**config, "imports": made["imports"]}
    (bundle / "configs" / "inference.json").write_text(json.dumps(made))
    check_names(bundle, "inference")
    images = folder / "data" / "imagesTr"
    place = Place(bundle, bundle)
    place.call(
        *("run", "--config_file", place.configs("inference"), "--dataset_dir", str(images)),
        *("--output_dir", str(tmp_path / "stock")),
    )
    ours = Segmenter(find_bundle(bundle), RunOptions(device="cpu", backend="torch"))
    one_by_one = Segmenter(
        single(folder),
        RunOptions(device="cpu", backend="torch", checkpoints=tuple(str(bundle / "models" / name) for name in names)),
    )
    for scan in sorted(images.iterdir())[:3]:
        labels = ours(scan).labels
        np.testing.assert_array_equal(labels, one_by_one(scan).labels)
        stock = voxels(nib.load(tmp_path / "stock" / scan.name.replace(".nii.gz", "_seg.nii.gz")))
        np.testing.assert_array_equal(labels, stock)


def test_a_bundle_that_is_cross_validated_segments(validated: tuple[Path, CrossValidation], tmp_path: Path) -> None:
    folder, _ = validated
    scan = next((folder / "data" / "imagesTr").iterdir())
    done = tomoseg("segment", scan, "-o", tmp_path / "seg.nii.gz", "-b", folder / "bundle")
    assert done.returncode == 0, done.stderr


def test_it_goes_on_where_it_was_stopped_and_overwrites_nothing(validated: tuple[Path, CrossValidation]) -> None:
    folder, result = validated
    bundle, data = find_bundle(folder / "bundle"), check_data(folder / "data")
    with pytest.raises(UsageError, match="contains an earlier training"):
        cross_validate(bundle, data, OPTIONS, folder / "out", hidden=True)
    again = cross_validate(bundle, data, TrainingOptions(epochs=2, device="cpu", resume=True), folder / "out", True)
    assert again.dice == result.dice
    assert not again.installed


def test_what_an_earlier_run_chose_counts_for_nothing(validated: tuple[Path, CrossValidation], tmp_path: Path) -> None:
    """Its step would be in what the networks give, and so seem to be of no use."""
    folder, result = validated
    copy = shutil.copytree(folder / "bundle", tmp_path / "bundle")
    path = copy / "configs" / "inference.json"
    config = keep_components(single_config(json.loads(path.read_text())), list(result.labels))
    path.write_text(json.dumps(config))
    out = shutil.copytree(folder / "out", tmp_path / "out")
    options = replace(OPTIONS, resume=True)
    again = cross_validate(Bundle("bundle", copy), check_data(folder / "data"), options, out, hidden=True)
    assert (again.dice, again.largest) == (result.dice, result.largest)
    assert json.loads(path.read_text()) == config, "the bundle's own are kept without --overwrite"


@pytest.mark.slow
def test_folds_that_begin_with_weights_go_on_with_these_only(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    bundle = tiny_bundle(data, tmp_path / "bundle")
    first = replace(OPTIONS, epochs=1, fold="none")
    weights = train(find_bundle(bundle), check_data(data), first, tmp_path / "first", hidden=True).weights
    command = ("train", bundle, "--data", data, "--device", "cpu", "--epochs", "1", "-o", tmp_path / "out")
    done = tomoseg(*command, "--fold", "0", "--init", weights)  # as if killed after it
    assert done.returncode == 0, done.stderr
    done = tomoseg(*command, "--fold", "all", "--resume")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "the file of --init has changed since" in done.stderr
    done = tomoseg(*command, "--fold", "all", "--resume", "--init", weights)
    assert done.returncode == 0, done.stderr
    assert load_state(tmp_path / "out" / "fold_4" / "state.pt").signature["init"] == sha256(weights)


@pytest.mark.slow
def test_torchrun_trains_one_fold_at_a_time(validated: tuple[Path, CrossValidation], tmp_path: Path) -> None:
    folder, _ = validated
    command = ("train", folder / "bundle", "--data", folder / "data", "-o", tmp_path, "--fold", "all")
    done = tomoseg(*command, WORLD_SIZE="2", RANK="0")
    assert done.returncode == 2
    assert "with torchrun train one fold after the other" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_bundle_that_finds_components_says_what_it_needs(validated: tuple[Path, CrossValidation]) -> None:
    folder, result = validated
    needed = json.loads((folder / "bundle" / "configs" / "metadata.json").read_text())["required_packages_version"]
    assert ("scikit-image" in needed) == bool(result.largest)


def test_the_card_has_what_was_measured(validated: tuple[Path, CrossValidation], tmp_path: Path) -> None:
    folder, result = validated
    card = folder / "bundle" / "docs" / "README.md"
    text = card.read_text()
    assert "Not measured yet" not in text
    assert "## References" in text
    (row,) = (line for line in text.splitlines() if line.startswith("| Front | 6 |"))
    assert f"{result.dice[0]:.4f} (" in row
    summary = json.loads((result.folder / "summary.json").read_text())
    assert row.count("|") == 4 + len(summary["folds"])
    assert f"{summary['folds'][3]['mean_dice']['Front']:.4f}" in row
    # a second run replaces it, but not a user's own text
    scores: dict[int | str | None, list[list[float]]] = {0: [[0.5, math.nan], [0.7, 0.9]]}
    copy = Path(shutil.copy(card, tmp_path))
    write_accuracy(copy, ["front", "back"], scores, ["back"], averaged=True)
    again = copy.read_text()
    assert (
        "| front | 2 | 0.6000 (0.5000 to 0.7000) | 0.6000 |\n| back | 1 | 0.9000 (0.9000 to 0.9000) | 0.9000 |" in again
    )
    assert "raised their mean: back." in again
    assert again.count("## Accuracy") == again.count("## References") == 1
    copy.write_text("## Accuracy\n\nOur own.\n")
    write_accuracy(copy, ["front", "back"], scores, [], averaged=True)
    assert copy.read_text() == "## Accuracy\n\nOur own.\n"
    write_accuracy(tmp_path / "none.md", ["front", "back"], scores, [], averaged=True)
    assert not (tmp_path / "none.md").exists()


def test_evaluation_cuts_down_what_inference_does(validated: tuple[Path, CrossValidation]) -> None:
    folder, result = validated
    inference, evaluate = (read_config(folder / "bundle", name) for name in ("inference", "evaluate"))
    kept = [
        [step for step in config["postprocessing"]["transforms"] if step["_target_"] == KEEP_LARGEST]
        for config in (inference, evaluate)
    ]
    assert kept[0] == (
        [{"_target_": KEEP_LARGEST, "keys": "pred", "applied_labels": [*result.largest]}] if result.largest else []
    )
    assert kept[1] == (kept[0] if result.averaged else [])


def test_the_mean_of_weights_is_their_mean(tmp_path: Path) -> None:
    for index, value in enumerate((1.0, 2.0, 6.0)):
        torch.save({"w": torch.full((3,), value)}, tmp_path / f"{index}.pt")
    average_weights([tmp_path / f"{index}.pt" for index in range(3)], tmp_path / "mean.pt")
    assert load(tmp_path / "mean.pt")["w"].tolist() == [3.0] * 3


@settings(max_examples=examples(50), deadline=None)
@given(one=arrays(bool, (4, 3, 5)), other=arrays(bool, (4, 3, 5)))
def test_dice_is_monais(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> None:
    from monai.metrics import compute_dice

    mine = dice(one, other)
    theirs = float(compute_dice(torch.tensor(one)[None, None].float(), torch.tensor(other)[None, None].float()))
    assert (math.isnan(mine) and math.isnan(theirs)) or mine == pytest.approx(theirs, abs=1e-6)


def test_the_largest_component_is_kept_as_monai_does() -> None:
    monai = pytest.importorskip("skimage", reason="MONAI needs scikit-image for it") and __import__("monai")
    mask = np.random.default_rng(0).random((12, 12, 12)) > 0.85
    theirs = monai.transforms.KeepLargestConnectedComponent()(torch.tensor(mask)[None].float())[0].numpy()
    np.testing.assert_array_equal(largest_component(mask), theirs > 0)


def test_means_leave_out_what_is_not_known() -> None:
    means = mean_of_labels([[0.5, math.nan], [1.0, math.nan]])
    assert means[0] == 0.75
    assert math.isnan(means[1])
