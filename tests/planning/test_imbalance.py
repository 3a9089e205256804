"""Options for rare and small labels: their results, and where windows then lie."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.bundle import ConfigParser

from support.fingerprints import BUDGET, HIPPOCAMPUS
from support.tiers import rest_exhaustive
from support.trainings import check_data, tiny_bundle, tomoseg, write_dataset
from tomoseg import find_bundle
from tomoseg.core.errors import UsageError
from tomoseg.planning.bundle_writer import plan
from tomoseg.planning.configs import make_configs
from tomoseg.planning.fingerprint import LabelPrint
from tomoseg.planning.imbalance import LOSSES, MAX_SAMPLING_RATIO, LossName, choose_ratios
from tomoseg.planning.layout import Layout
from tomoseg.planning.options import PlanningOptions
from tomoseg.planning.rules import TrainingPlan, decide
from tomoseg.training.options import TrainingOptions
from tomoseg.training.training import train

LABELS = (LabelPrint(1, "nerve", 9, 9, 0.5), LabelPrint(2, "eye", 9, 9, 8.0), LabelPrint(3, "brain", 9, 9, 1400.0))


def planned(sampling: str, labels: tuple[LabelPrint, ...] = LABELS, size: int = 200) -> TrainingPlan:
    shape = (size, size, size)
    fingerprint = replace(
        HIPPOCAMPUS,
        labels=labels,
        median_shape=shape,
        largest_shape=shape,
        median_extent_mm=(float(size),) * 3,
        largest_extent_mm=(float(size),) * 3,
    )
    return decide(fingerprint, "MR", replace(BUDGET, sampling=sampling))


@given(volumes=st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=12))
def test_smaller_labels_come_more_often_and_none_takes_all(volumes: list[float]) -> None:
    labels = [LabelPrint(value, f"organ {value}", 9, 9, ml) for value, ml in enumerate(volumes, start=1)]
    ratios = choose_ratios("inverse-volume", labels)
    assert all(1 / MAX_SAMPLING_RATIO <= ratio <= MAX_SAMPLING_RATIO for ratio in ratios)
    for ml, ratio in zip(volumes, ratios, strict=True):
        assert all(ratio >= other for more, other in zip(volumes, ratios, strict=True) if more > ml)


@pytest.mark.parametrize(
    ("sampling", "shares"),
    [
        ("uniform", (1, 1, 1)),
        ("inverse-volume", (10, 1, 0.1)),
        ("nerve=3,brain=0", (3, 1, 0)),
        ("brain = 0.5", (1, 1, 0.5)),
    ],
)
def test_windows_lie_where_was_asked_for(sampling: str, shares: tuple[float, ...]) -> None:
    """By MONAI's own transform, built from the config: what lies in the middle of 400 windows."""
    (crop, *_) = make_configs(planned(sampling), Layout(True), "bundle", "data")["train"]["train"]["random_transforms"]
    assert crop["_target_"] == "RandCropByLabelClassesd"
    changed = {"label_key": "label", "indices_key": None, "spatial_size": [1, 1, 1], "keys": ["label"]}
    transform = ConfigParser({"crop": {**crop, **changed, "num_samples": 400}}).get_parsed_content("crop")
    transform.set_random_state(0)
    label = torch.randint(0, 4, (1, 12, 12, 12), generator=torch.Generator().manual_seed(0))
    found = torch.bincount(torch.stack([window["label"].flatten()[0] for window in transform({"label": label})]).long())
    expected = torch.tensor([2 / 3, *(share / sum(shares) / 3 for share in shares)])
    torch.testing.assert_close(found / 400, expected[: len(found)], atol=0.09, rtol=0)
    assert expected[len(found) :].sum() == 0


def test_scans_that_fit_are_not_cut_and_that_is_reported() -> None:
    plan = decide(HIPPOCAMPUS, "MR", replace(BUDGET, sampling="inverse-volume"))
    assert plan.choices()["sampling"] == "whole scans"
    assert "none is cut and the option has no effect" in plan.reasons["sampling"]


@pytest.mark.parametrize(
    ("arguments", "reported"),
    [
        ({"loss": "dice"}, "loss: expected dice-ce, dice-focal, tversky, got 'dice'"),
        ({"sampling": "rare"}, "sampling: expected uniform, inverse-volume or NAME=RATIO"),
        ({"sampling": "eye=-1"}, "with numbers from 0 on, got eye=-1"),
        ({"sampling": "eye=nan"}, "with numbers from 0 on, got eye=nan"),
        ({"sampling": "=2"}, "with numbers from 0 on, got =2"),
    ],
)
def test_what_cannot_be_is_reported(arguments: dict[str, Any], reported: str) -> None:
    with pytest.raises(UsageError, match=reported):
        PlanningOptions(**arguments)


@pytest.mark.parametrize(
    ("sampling", "reported"),
    [
        ("ear=2", r"sampling: expected names of labels \(nerve, eye, brain\), got ear"),
        ("nerve=0,eye=0,brain=0", "sampling: expected a ratio above 0 for some label"),
    ],
)
def test_ratios_of_no_label_are_reported(sampling: str, reported: str) -> None:
    with pytest.raises(UsageError, match=reported):
        planned(sampling)


def test_the_command_writes_choice_and_reason(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data")
    plan = ("plan", dataset, "-o", tmp_path / "bundle", "--device", "cpu", "--preset", "small")
    done = tomoseg(*plan, "--loss", "tversky", "--sampling", "Front=2")
    assert done.returncode == 0, done.stderr
    choices = json.loads((tmp_path / "bundle" / "configs" / "plan.json").read_text())["choices"]
    assert choices["loss"]["value"] == "Tversky loss and cross-entropy"
    assert "as asked for" in choices["loss"]["reason"]
    assert choices["sampling"]["value"] == "whole scans"
    train_json = json.loads((tmp_path / "bundle" / "configs" / "train.json").read_text())
    assert train_json["tversky"]["_target_"] == "TverskyLoss"
    refused = tomoseg(*plan, "--overwrite", "--loss", "hinge")
    assert refused.returncode == 2
    assert refused.stderr == "tomoseg: error: loss: expected dice-ce, dice-focal, tversky, got 'hinge'\n"


@pytest.mark.slow
@pytest.mark.parametrize("partial", rest_exhaustive([True, False]))
@pytest.mark.parametrize("loss", rest_exhaustive(sorted(set(LOSSES) - {"dice-ce"})))
def test_a_network_learns_with_each_loss(tmp_path: Path, loss: LossName, partial: bool) -> None:
    torch.set_num_threads(1)
    dataset = write_dataset(tmp_path / "data", partial=partial)
    folder = tiny_bundle(dataset, tmp_path / "bundle", steps=10)
    plan(dataset, tmp_path / "other", PlanningOptions(4 * 10**9, "cpu", "small", loss=loss))
    config: dict[str, Any] = json.loads((tmp_path / "other" / "configs" / "train.json").read_text())
    quick = json.loads((folder / "configs" / "train.json").read_text())
    for key in ("network_def", "steps", "num_workers", "val_interval"):
        config[key] = quick[key]
    (folder / "configs" / "train.json").write_text(json.dumps(config | {"learning_rate": 0.01}))
    options = TrainingOptions(fold="none", epochs=16, device="cpu")
    trained = train(find_bundle(folder), check_data(dataset), options, tmp_path / "out", hidden=True)
    assert trained.metrics["val_mean_dice"] > 0.3  # from 0.02 before the first step
