"""A bundle trained further by its own train config, without anything in it being changed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine

from support.trainings import tiny_bundle, write_dataset
from tomoseg import Segmenter, find_bundle
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.core.errors import BundleError, UsageError
from tomoseg.core.files import sha256
from tomoseg.data.read import read_volume
from tomoseg.training.fine_tuning import FineTuningOptions, Pair, Progress, fine_tune
from tomoseg.training.session import TrainingSession


@pytest.fixture
def bundle(bundle_copy: Path) -> Bundle:
    """A bundle with a small network, in a folder whose name has characters that configs interpret."""
    for name in ("train", "inference"):
        path = bundle_copy / "configs" / f"{name}.json"
        config = json.loads(path.read_text())
        config["network_def"]["filters"] = [4, 8, 8, 8]
        path.write_text(json.dumps(config))
    return Bundle(bundle_copy.name, bundle_copy)


@pytest.fixture(scope="module")
def cases(real_scan: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Pair]:
    folder = tmp_path_factory.mktemp("a #case @of $ %")
    Segmenter.from_bundle("hippocampus", device="cpu")(real_scan).save(folder / "label.nii.gz")
    (folder / "image.nii.gz").symlink_to(real_scan)
    return [(folder / "image.nii.gz", folder / "label.nii.gz")] * 2


def test_weights_come_out_and_the_bundle_stays(bundle: Bundle, cases: list[Pair], tmp_path: Path) -> None:
    before = {path: sha256(path) for path in bundle.root.rglob("*") if path.is_file()}
    reported: list[Progress] = []
    state = fine_tune(bundle, cases, None, FineTuningOptions(2, 1.0, "cpu"), tmp_path, reported.append)
    assert [(one.epoch, one.epochs) for one in reported] == [(1, 2), (2, 2)]
    assert {path: sha256(path) for path in bundle.root.rglob("*") if path.is_file()} == before
    weights = tmp_path / "weights.pt"
    torch.save(state, weights)
    segmenter = Segmenter(bundle, options(weights))
    assert segmenter(cases[0][0]).labels.shape == read_volume(cases[0][0]).grid.shape

    # from there, with a rate of nearly nothing, the same weights come back
    (tmp_path / "again").mkdir()
    again = fine_tune(bundle, cases, weights, FineTuningOptions(1, 1e-9, "cpu"), tmp_path / "again")
    assert state.keys() == again.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-6)


def test_an_epoch_is_each_case_once(cases: list[Pair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch of `tomoseg train` is a hundred steps, which would be hours beside a reader who waits."""
    planned = find_bundle(tiny_bundle(write_dataset(tmp_path / "data"), tmp_path / "planned", steps=100))
    lengths: list[int] = []
    step = TrainingSession._step

    def noted(session: TrainingSession, engine: Engine) -> None:
        lengths.append(engine.state.epoch_length)
        step(session, engine)

    monkeypatch.setattr(TrainingSession, "_step", noted)
    fine_tune(planned, [*cases, cases[0]], None, FineTuningOptions(1, 1.0, "cpu"), tmp_path)
    assert lengths == [2, 2], "three cases, a batch of two"


def options(weights: Path) -> RunOptions:
    return RunOptions(device="cpu", backend="torch", checkpoints=(str(weights),))


def test_what_cannot_be_trained_is_reported(bundle: Bundle, cases: list[Pair], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="max_epochs: expected at least 1"):
        FineTuningOptions(0, 1.0, "cpu")
    with pytest.raises(UsageError, match="learning_rate_scale"):
        FineTuningOptions(1, 0.0, "cpu")
    config = bundle.root / "configs" / "train.json"
    content = json.loads(config.read_text())
    content["level_loss"]["_target_"] = "NoSuchLoss"
    config.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="training failed"):
        fine_tune(bundle, cases, None, FineTuningOptions(1, 1.0, "cpu"), tmp_path / "one")
    config.write_text("{")
    with pytest.raises(BundleError, match=r"train\.json: cannot be read"):
        fine_tune(bundle, cases, None, FineTuningOptions(1, 1.0, "cpu"), tmp_path / "two")
    config.unlink()
    with pytest.raises(BundleError, match=r"expected configs/train\.json, got none"):
        fine_tune(bundle, cases, None, FineTuningOptions(1, 1.0, "cpu"), tmp_path / "three")
