"""A training that was interrupted gives the weights of one that was not; saved files are always whole."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.engines import SupervisedEvaluator

from support.bundles import ENVIRONMENT
from support.disk import full_disk
from support.trainings import check_data, load, same, tiny_bundle, tomoseg, write_dataset
from support.trust import trust_named
from support.waiting import wait_until
from tomoseg import StreamingEvaluator, find_bundle
from tomoseg.core.errors import BundleError, OutputError, TrainingError, UsageError
from tomoseg.inference.checkpoints import save_weights
from tomoseg.training.options import TrainingOptions
from tomoseg.training.state import TrainingState, load_state
from tomoseg.training.training import install, train
from tomoseg.training.workflow import TrainingWorkflow

EPOCHS = 4


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset that is partly annotated, and a bundle for it."""
    folder = tmp_path_factory.mktemp("training")
    tiny_bundle(write_dataset(folder / "data", partial=True), folder / "bundle")
    return folder


def run(place: Path, folder: Path, **options: object) -> Path:
    """Train in this process; return the folder."""
    chosen = TrainingOptions(**({"epochs": EPOCHS, "fold": 0, "device": "cpu"} | options))  # type: ignore[arg-type]
    train(find_bundle(place / "bundle"), check_data(place / "data"), chosen, folder, hidden=True)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(place, tmp_path_factory.mktemp("uninterrupted"))


def command(place: Path, folder: Path, *more: str) -> list[str]:
    paths = [str(place / "bundle"), "--data", str(place / "data"), "-o", str(folder)]
    options = ["--fold", "0", "--epochs", str(EPOCHS), "--device", "cpu"]
    trust_named((place / "bundle",), None)
    return [sys.executable, "-m", "tomoseg", "train", *paths, *options, *more]


def test_it_leaves_weights_a_table_and_a_curve(uninterrupted: Path) -> None:
    names = {path.name for path in uninterrupted.iterdir()}
    assert {"model.pt", "model_best.pt", "state.pt", "history.csv", "curve.png"} <= names
    with (uninterrupted / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert [bool(row["val_mean_dice"]) for row in rows] == [False, True, False, True]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert float(rows[-1]["learning_rate"]) < float(rows[0]["learning_rate"])
    assert (uninterrupted / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_seed_gives_the_same_weights_and_another_one_others(
    place: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    assert same(run(place, tmp_path / "again") / "model.pt", uninterrupted / "model.pt")
    assert not same(run(place, tmp_path / "other", seed=1) / "model.pt", uninterrupted / "model.pt")


def test_the_validation_is_streamed_and_has_monais_numbers(place: Path, tmp_path: Path) -> None:
    options = TrainingOptions(epochs=EPOCHS, fold=0, device="cpu")
    found = {}
    for kind in (StreamingEvaluator, SupervisedEvaluator):
        workflow = TrainingWorkflow(find_bundle(place / "bundle"), place / "data", options, cases=4)
        if kind is SupervisedEvaluator:
            config = workflow.parser["validate::evaluator"]
            assert (config.pop("backend"), config["_target_"]) == ("torch", "tomoseg.StreamingEvaluator")
            config["_target_"] = "SupervisedEvaluator"
        workflow.parser["bundle_root"] = str(tmp_path)
        workflow.build()
        evaluator = workflow.evaluator
        assert type(evaluator) is kind
        evaluator.run()
        assert getattr(evaluator, "_logged", set()) == set()
        found[kind] = dict(evaluator.state.metrics)
        shared = logging.getLogger(f"ignite.engine.engine.{kind.__name__}")
        assert shared.isEnabledFor(logging.WARNING), "other engines of the process still say what they have to"
    assert found[StreamingEvaluator] == found[SupervisedEvaluator]
    assert found[StreamingEvaluator]


def test_a_label_map_that_was_edited_is_noticed(place: Path, tmp_path: Path) -> None:
    data = shutil.copytree(place / "data", tmp_path / "data")
    for path in (data / "labelsTr").iterdir():  # uncompressed, they are of one size with any content
        nib.save(nib.load(path), path.with_suffix(""))
        path.unlink()
    content = (data / "dataset.json").read_text()
    (data / "dataset.json").write_text(re.sub(r"(labelsTr/case_\d+\.nii)\.gz", r"\1", content))
    options = TrainingOptions(epochs=1, fold=0, device="cpu")
    bundle = find_bundle(place / "bundle")
    train(bundle, check_data(data), options, tmp_path / "out", hidden=True)
    path = next((data / "labelsTr").iterdir())
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.array(image.dataobj)[::-1].copy(), image.affine), path)
    with pytest.raises(UsageError, match=r"the dataset.* has changed since"):
        train(bundle, check_data(data), replace(options, resume=True), tmp_path / "out", hidden=True)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_stopped_after_any_epoch_it_goes_on_as_if_it_had_not_been(
    place: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every epoch, and with worker processes that augment, too."""
    path = place / "bundle" / "configs" / "train.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"num_workers": workers}))
    try:
        whole = run(place, tmp_path / "whole", epochs=3)
        for last in (1, 2):
            stopped = _stop_after(place, tmp_path / f"stopped_{last}", last, monkeypatch)
            state, weights = load_state(stopped / "state.pt"), torch.load(stopped / "model.pt", weights_only=True)
            assert state.epoch == last
            assert all(torch.equal(state.objects["ema"][f"module.{name}"], kept) for name, kept in weights.items())
            half_written = stopped / ".0123456789abcdef.state.pt"  # by a process that was killed
            half_written.touch()
            run(place, stopped, epochs=3, resume=True)
            assert not half_written.exists()
            for name in ("model.pt", "model_best.pt"):
                assert same(stopped / name, whole / name)
            assert (stopped / "history.csv").read_text().count("\n") == 4
    finally:
        path.write_text(before)


def _stop_after(place: Path, folder: Path, epoch: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    from tomoseg.training import session

    original = session.TrainingSession._begin_epoch

    def stop(self: session.TrainingSession, engine: object) -> None:
        if engine.state.epoch == epoch + 1:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        original(self, engine)

    with monkeypatch.context() as patched:
        patched.setattr(session, "SAVE_EVERY_S", 0.0)
        patched.setattr(session.TrainingSession, "_begin_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            run(place, folder, epochs=3)
    return folder


def _kill(place: Path, folder: Path, when: float) -> bool:
    """Start or resume a training, and kill it so many seconds after its begin; return whether it still ran."""
    process = subprocess.Popen(
        command(place, folder, "--resume", "-q"), env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    state = folder / "fold_0" / "state.pt"
    wait_until(lambda: state.exists() or process.poll() is not None, "the training's state")
    time.sleep(when)
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    output = process.communicate()[0].decode()
    assert running or process.returncode == 0, output
    return running


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_to_the_same_weights(place: Path, uninterrupted: Path, tmp_path: Path) -> None:
    moments = [_kill(place, tmp_path, when) for when in (0.3, 4.0)]
    assert any(moments)
    done = subprocess.run(command(place, tmp_path, "--resume"), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("model.pt", "model_best.pt"):
        assert same(tmp_path / "fold_0" / name, uninterrupted / name)
    assert not [path for path in (tmp_path / "fold_0").iterdir() if path.name.startswith(".")]


@pytest.mark.exhaustive
def test_killed_again_and_again(place: Path, uninterrupted: Path, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        _kill(place, tmp_path, float(torch.rand(1, generator=generator) * 8))
    done = subprocess.run(command(place, tmp_path, "--resume"), env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert same(tmp_path / "fold_0" / "model.pt", uninterrupted / "model.pt")


def test_a_finished_training_is_not_repeated(place: Path, uninterrupted: Path) -> None:
    before = (uninterrupted / "model.pt").stat().st_mtime_ns
    run(place, uninterrupted, resume=True)
    assert (uninterrupted / "model.pt").stat().st_mtime_ns == before


def test_nothing_trained_is_overwritten_or_mixed(place: Path, uninterrupted: Path) -> None:
    with pytest.raises(
        UsageError, match=r"contains an earlier training\. Continue it with --resume, or replace it with --overwrite"
    ):
        run(place, uninterrupted)
    with pytest.raises(UsageError, match="epochs has changed since: 4 before, 9 now"):
        run(place, uninterrupted, resume=True, epochs=9)
    with pytest.raises(UsageError, match="seed has changed since"):
        run(place, uninterrupted, resume=True, seed=5)


def test_a_damaged_state_is_reported(place: Path, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(b"nonsense")
    with pytest.raises(TrainingError, match=r"state\.pt: cannot be read, so the training cannot continue"):
        run(place, tmp_path, resume=True)


def test_a_full_disk_leaves_the_last_state_whole(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    TrainingState({"seed": 0}, epoch=3, objects={"network": {"w": torch.ones(100)}}).save(path)
    with full_disk(20_000), pytest.raises(OutputError, match=r"state\.pt: cannot be written"):
        TrainingState({"seed": 0}, epoch=4, objects={"network": {"w": torch.ones(100_000)}}).save(path)
    assert load_state(path).epoch == 3
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]
    with full_disk(20_000), pytest.raises(OutputError, match=r"model\.pt: cannot be written"):
        save_weights(tmp_path / "model.pt", {"w": torch.ones(100_000)})


def test_a_weight_that_has_several_names_is_written_once(tmp_path: Path) -> None:
    weight = torch.rand(8, 8, 3, 3, 3).to(memory_format=torch.channels_last_3d)
    save_weights(tmp_path / "model.pt", {"one": weight, "other": weight.detach(), "third": weight + 1})
    assert 2 * weight.nbytes < (tmp_path / "model.pt").stat().st_size < 2.5 * weight.nbytes
    read = torch.load(tmp_path / "model.pt", weights_only=True)
    assert torch.equal(read["one"], weight)
    assert torch.equal(read["other"], weight)
    assert torch.equal(read["third"], weight + 1)


def test_a_disk_that_is_full_for_a_while_costs_nothing(
    place: Path,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from tomoseg.training import session

    monkeypatch.setattr(session, "SAVE_EVERY_S", 0.0)
    original = session.TrainingSession._write

    def write(self: session.TrainingSession, is_last: bool) -> None:
        if self.state.epoch in (2, 3):
            with full_disk(1000):
                original(self, is_last)
        original(self, is_last)

    monkeypatch.setattr(session.TrainingSession, "_write", write)
    options = TrainingOptions(epochs=EPOCHS, fold=0, device="cpu")
    train(find_bundle(place / "bundle"), check_data(place / "data"), options, tmp_path)
    assert capsys.readouterr().err.count("the training continues. Make room") == 2
    assert same(tmp_path / "model.pt", uninterrupted / "model.pt")


def test_a_loss_that_is_not_a_number_stops_it_and_keeps_what_was_trained(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = _stop_after(place, tmp_path / "nan", 1, monkeypatch)
    from tomoseg.training import session

    def step(self: session.TrainingSession, engine: object) -> None:
        self._loss = torch.tensor(float("nan"))

    monkeypatch.setattr(session.TrainingSession, "_step", step)
    with pytest.raises(TrainingError, match="the loss is nan in epoch 2; the last saved state is kept"):
        run(place, stopped, epochs=3, resume=True)
    assert load_state(stopped / "state.pt").epoch == 1


def test_init_takes_what_fits_and_reports_the_rest_by_name(place: Path, uninterrupted: Path, tmp_path: Path) -> None:
    weights = load(uninterrupted / "model.pt")
    name = next(name for name in weights if "output_block" in name and name.endswith("weight"))
    weights[name] = torch.zeros(7, *weights[name].shape[1:])
    weights["stranger"] = torch.zeros(1)
    torch.save(weights, tmp_path / "other.pt")
    done = tomoseg(
        *("train", place / "bundle", "--data", place / "data", "-o", tmp_path / "out", "--epochs", "1"),
        *("--init", tmp_path / "other.pt"),
    )
    assert done.returncode == 0, done.stderr
    assert f"{name}: of shape" in done.stderr
    assert "stranger: in the checkpoint only" in done.stderr
    assert "heads" in done.stderr  # of deep supervision, which no inference weights have


@pytest.mark.parametrize(
    ("options", "reported"),
    [
        ({"fold": 9}, "fold: expected 0 to 4, got 9"),
        ({"fold": "x"}, "fold: expected a number, all, none or validation, got 'x'"),
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"seed": -1}, "seed: expected a number from 0"),
        ({"device": "tpu"}, "device: expected auto, cpu, cuda, cuda:N or mps, got 'tpu'"),
        ({"init": "nowhere.pt"}, "nowhere.pt: no such checkpoint"),
        ({"resume": True, "overwrite": True}, "--resume and --overwrite: choose one"),
    ],
)
def test_wrong_options_are_reported(place: Path, tmp_path: Path, options: dict[str, object], reported: str) -> None:
    with pytest.raises((UsageError, BundleError), match=re.escape(reported)):
        run(place, tmp_path, **options)
    assert not (tmp_path / "model.pt").exists()


def test_a_wrong_option_is_one_line_of_the_command(place: Path, tmp_path: Path) -> None:
    done = tomoseg("train", place / "bundle", "--data", place / "data", "-o", tmp_path / "out", "--fold", "x")
    assert done.returncode == 2
    assert done.stderr == "tomoseg: error: fold: expected a number, all, none or validation, got 'x'\n"
    assert not (tmp_path / "out").exists()


def test_a_config_that_cannot_be_built_is_reported_in_one_line(place: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle(place / "data", tmp_path / "bundle")
    path = bundle / "configs" / "train.json"
    config = json.loads(path.read_text())
    config["optimizer"]["_target_"] = "torch.optim.Nothing"
    path.write_text(json.dumps(config))
    with pytest.raises(BundleError, match=r"train\.json: cannot be built: "):
        train(find_bundle(bundle), check_data(place / "data"), TrainingOptions(fold=0), tmp_path / "out", hidden=True)
    (bundle / "configs" / "train.json").unlink()
    with pytest.raises(BundleError, match=r"expected configs/train\.json, got none"):
        train(find_bundle(bundle), check_data(place / "data"), TrainingOptions(fold=0), tmp_path / "out", hidden=True)


def test_weights_go_into_the_bundle_and_replace_none(place: Path, tmp_path: Path) -> None:
    bundle = tiny_bundle(place / "data", tmp_path / "ours").rename(tmp_path / "a #copy @of % the bundle")
    done = tomoseg("train", bundle, "--data", place / "data", "--epochs", "1")  # characters that MONAI interprets
    assert done.returncode == 0, done.stderr
    assert "next: tomoseg segment" in done.stdout
    model, trained = bundle / "models" / "model.pt", bundle / "train" / "fold_0" / "model.pt"
    assert same(model, trained)
    scan = next((place / "data" / "imagesTr").iterdir())
    segmented = tomoseg("segment", scan, "-o", tmp_path / "seg.nii.gz", "-b", bundle)
    assert segmented.returncode == 0, segmented.stderr
    model.write_bytes(b"others")
    assert not install(trained, find_bundle(bundle), overwrite=False)
    assert model.read_bytes() == b"others"
    assert install(trained, find_bundle(bundle), overwrite=True)
    assert model.read_bytes() == trained.read_bytes()


@pytest.mark.slow
def test_two_processes_train_one_network(place: Path, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2"]
    arguments = command(place, tmp_path)[1:]
    done = subprocess.run([*launcher, *arguments], env=ENVIRONMENT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("4 epochs") == 1
    state = load_state(tmp_path / "fold_0" / "state.pt")
    assert state.epoch == EPOCHS
    assert state.signature["processes"] == 2


def test_the_command_line_trains_as_python_does(place: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """With a bar that is not drawn."""
    done = tomoseg(*command(place, tmp_path)[3:])
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("fold 0: epoch") == EPOCHS
    assert same(tmp_path / "fold_0" / "model.pt", uninterrupted / "model.pt")


@pytest.mark.slow
def test_ctrl_c_reports_how_to_go_on(place: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(place, tmp_path),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what a shell starts with & ignores it
    )
    state = tmp_path / "fold_0" / "state.pt"
    wait_until(lambda: state.exists() or process.poll() is not None, "the training's state")
    os.kill(process.pid, signal.SIGINT)
    _, reported = process.communicate(timeout=300)
    assert process.returncode == 130, reported
    assert "Continue with --resume" in reported.splitlines()[-1]
