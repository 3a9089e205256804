"""Scans without label map: which are used, that both networks see the same place, and that chance is stored, too."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from support.bundles import Place
from support.trainings import check_data, phantom, same, tiny_bundle, tomoseg, write_dataset
from tomoseg import find_bundle
from tomoseg.core.errors import BundleError, UsageError
from tomoseg.training import session
from tomoseg.training.options import TrainingOptions
from tomoseg.training.state import load_state
from tomoseg.training.training import train
from tomoseg.training.unlabelled import check_unlabelled

EPOCHS = 3
CASES, OTHERS = 6, 5


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset that is partly annotated, a bundle for it, and a folder of other scans with names that MONAI parses."""
    folder = tmp_path_factory.mktemp("unlabelled")
    tiny_bundle(write_dataset(folder / "data", CASES, partial=True), folder / "bundle")
    for case in range(OTHERS):
        save(phantom(100 + case)[0], folder / "others" / f"site {case % 2}" / f"it's #{case} @home.nii.gz")
    return folder


def save(array: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    return path


def run(place: Path, folder: Path, **options: Any) -> Path:
    """Train in this process; return the folder."""
    dataset = check_data(place / "data")
    scans = check_unlabelled(place / "others", dataset).scans
    chosen: dict[str, Any] = {"epochs": EPOCHS, "fold": 0, "device": "cpu", "unlabelled": scans} | options
    train(find_bundle(place / "bundle"), dataset, TrainingOptions(**chosen), folder, hidden=True)
    return folder


def parse(place: Path, *names: str, **options: Any) -> ConfigParser:
    files = [str(place / "bundle" / "configs" / f"{name}.json") for name in names]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    defaults = {"dataset_dir": str(place / "data"), "unlabelled_dir": str(place / "plain"), "num_workers": 0}
    parser.update(defaults | options)
    return parser


@pytest.fixture(scope="module")
def plain(place: Path) -> Path:
    """The other scans under names that a config can hold unchanged."""
    for number, path in enumerate(sorted((place / "others").rglob("*.nii.gz"))):
        (place / "plain").mkdir(exist_ok=True)
        shutil.copy(path, place / "plain" / f"{number}.nii.gz")
    return place


def test_scans_that_cannot_be_used_are_reported_and_left_out(place: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(place / "others", tmp_path / "scans")
    image = phantom(7)[0]
    image[0, 0, 0] = np.nan
    save(image, folder / "nan.nii.gz")
    save(np.zeros((8, 8, 8), np.float32), folder / "empty.nii.gz")
    cut = save(phantom(8)[0], folder / "cut.nii.gz")
    cut.write_bytes(cut.read_bytes()[:2000])
    shutil.copy(next((place / "data" / "imagesTr").iterdir()), folder / "a copy of a case.nii.gz")
    found = check_unlabelled(folder, check_data(place / "data"))
    assert len(found.scans) == OTHERS
    assert found.own == 1
    reported = "\n".join(found.left_out)
    assert len(found.left_out) == 3
    assert re.search(r"nan\.nii\.gz: NaN or infinity in 1 of", reported)
    assert "empty.nii.gz: every voxel has the same value" in reported
    assert re.search(r"cut\.nii\.gz: \S", reported)


def test_what_is_held_out_cannot_come_back(place: Path) -> None:
    dataset = check_data(place / "data")
    with pytest.raises(UsageError, match=f"got {CASES}, none usable: .*is one of the dataset's own scans"):
        check_unlabelled(place / "data" / "imagesTr", dataset)
    found = check_unlabelled(place, dataset)  # the whole place, with scans and label maps of the dataset in it
    assert found.own == CASES
    assert not any(path.is_relative_to(place / "data") for path in found.scans)


@pytest.mark.parametrize(("name", "reported"), [("nowhere", "got nothing"), ("bundle", "expected NIfTI, NRRD or Meta")])
def test_a_folder_without_scans_is_reported(place: Path, name: str, reported: str) -> None:
    with pytest.raises(UsageError, match=reported):
        check_unlabelled(place / name, check_data(place / "data"))


def test_teacher_and_student_see_the_same_place(plain: Path) -> None:
    """Without what changes the values, they see the same; with it, the student's values alone are others."""
    parser = parse(plain, "train", "semi_supervised")
    steps = parser["unlabelled"]["preprocessing"]["transforms"]
    valued = [step for step in steps if step.get("keys") == "student"]
    assert {"RandGaussianNoised", "RandAdjustContrastd", "RandSimulateLowResolutiond"} <= {
        step["_target_"] for step in valued
    }
    dataset = parser.get_parsed_content("unlabelled::dataset")
    dataset.transform.set_random_state(0)
    seen = [dataset[number % OTHERS] for number in range(30)]
    assert sum(not torch.equal(item["image"], item["student"]) for item in seen) > 15
    assert len({float(item["image"].sum()) for item in seen}) > 20, "it is turned and moved each time"

    for step in valued:
        step["prob"] = 0.0
    still = parse(plain, "train", "semi_supervised", **{"unlabelled::preprocessing::transforms": steps})
    dataset = still.get_parsed_content("unlabelled::dataset")
    dataset.transform.set_random_state(0)
    for number, before in enumerate(seen):
        item = dataset[number % OTHERS]
        assert torch.equal(item["image"], item["student"])
        assert item["image"].shape == before["image"].shape


def test_the_student_is_pulled_towards_the_teacher_alone(plain: Path) -> None:
    """The second half of a batch is compared with the labels of the average, which no gradient reaches."""
    parser = parse(plain, "train", "semi_supervised", amp=False)
    prepare = parser.get_parsed_content("train::trainer::prepare_batch")
    both = parser.get_parsed_content("train::trainer::train_data_loader")
    batch = next(iter(both))
    images, (label, guesses) = prepare(batch, torch.device("cpu"), False)
    size = parser.get_parsed_content("batch_size")
    assert len(images) == 2 * len(label) == 2 * size
    assert len(both) == parser.get_parsed_content("steps")
    teacher = parser.get_parsed_content("ema")
    with torch.no_grad():
        assert torch.equal(guesses, teacher(batch[1]["image"]).argmax(1, keepdim=True))
    assert torch.equal(label, batch[0]["label"])
    assert torch.equal(images[size:], batch[1]["student"])
    network, loss = (parser.get_parsed_content(name) for name in ("network", "train::trainer::loss_function"))
    pred = network.train()(images)
    supervised = parser.get_parsed_content("loss")(pred[:size], label)
    weight = parser.get_parsed_content("unlabelled::weight")()
    apart = parser.get_parsed_content("loss")(pred[size:], guesses)
    torch.testing.assert_close(loss(pred, (label, guesses)), supervised + weight * apart)
    loss(pred, (label, guesses)).backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    assert any(weight.grad is not None and weight.grad.abs().max() > 0 for weight in network.parameters())


def test_the_teacher_comes_to_count_slowly(plain: Path) -> None:
    parser = parse(plain, "train", "semi_supervised", ramp_up=100, unlabelled_weight=0.5)
    weight, average = (parser.get_parsed_content(name) for name in ("unlabelled::weight", "ema"))
    found = []
    for steps in (0, 50, 100, 300):
        average.n_averaged.fill_(steps)
        found.append(float(weight()))
    assert found == pytest.approx([0.5 * math.exp(-5), 0.5 * math.exp(-1.25), 0.5, 0.5])


def test_with_a_weight_of_0_it_is_the_training_of_the_labelled_cases(place: Path, tmp_path: Path) -> None:
    """The same cases in the same order, cut and changed alike: the other loader takes no chance from theirs."""
    copy = shutil.copytree(place, tmp_path / "place")
    change(copy, "semi_supervised", unlabelled_weight=0.0)
    change(copy, "train", amp=False)
    with_scans, alone = run(copy, tmp_path / "with"), run(copy, tmp_path / "alone", unlabelled=())
    losses = [[row["loss"] for row in load_state(folder / "state.pt").history] for folder in (with_scans, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def change(place: Path, name: str, **entries: Any) -> None:
    path = place / "bundle" / "configs" / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.slow
def test_the_scans_matter(place: Path, tmp_path: Path) -> None:
    one, other = run(place, tmp_path / "one"), run(place, tmp_path / "other", unlabelled=())
    assert same(one / "model.pt", run(place, tmp_path / "again") / "model.pt")
    assert not same(one / "model.pt", other / "model.pt")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_stopped_after_any_epoch_it_goes_on_as_if_it_had_not_been(
    place: Path, tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(place, tmp_path / "place")
    change(copy, "train", num_workers=workers)
    whole = run(copy, tmp_path / "whole")
    original = session.TrainingSession._begin_epoch
    for last in (1, 2):

        def stop(self: session.TrainingSession, engine: Any, last: int = last) -> None:
            if engine.state.epoch == last + 1:
                raise KeyboardInterrupt
            original(self, engine)

        stopped = tmp_path / f"stopped_{last}"
        with monkeypatch.context() as patched:
            patched.setattr(session, "SAVE_EVERY_S", 0.0)
            patched.setattr(session.TrainingSession, "_begin_epoch", stop)
            with pytest.raises(KeyboardInterrupt):
                run(copy, stopped)
        assert load_state(stopped / "state.pt").epoch == last
        run(copy, stopped, resume=True)
        for name in ("model.pt", "model_best.pt"):
            assert same(stopped / name, whole / name)


def test_a_training_goes_on_with_the_scans_it_began_with(place: Path, tmp_path: Path) -> None:
    folder = run(place, tmp_path / "out")
    with pytest.raises(UsageError, match=r"the folder of --unlabelled has changed since\. Start again"):
        run(place, folder, resume=True, unlabelled=())
    scans = check_unlabelled(place / "others", check_data(place / "data")).scans
    with pytest.raises(UsageError, match=r"the folder of --unlabelled has changed since\. Start again"):
        run(place, folder, resume=True, unlabelled=scans[1:])


def test_a_bundle_without_the_config_is_reported(place: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(place, tmp_path / "place")
    (copy / "bundle" / "configs" / "semi_supervised.json").unlink()
    with pytest.raises(BundleError, match=r"expected configs/semi_supervised\.json, got none.*Plan it again"):
        run(copy, tmp_path / "out")


def test_the_command_reports_what_it_leaves_out(place: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(place / "others", tmp_path / "scans")
    (folder / "broken.nii.gz").write_bytes(b"nonsense")
    arguments = ("train", place / "bundle", "--data", place / "data", "-o", tmp_path / "out", "--epochs", "1")
    done = tomoseg(*arguments, "--unlabelled", folder, "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert re.search(r"tomoseg: warning: .*broken\.nii\.gz: .*; left out\n", done.stderr)
    assert f"tomoseg: note: {folder}: {OTHERS} unlabelled scans\n" in done.stderr
    refused = tomoseg(*arguments, "--unlabelled", tmp_path / "nowhere")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_stock_monai_trains_with_both_configs(plain: Path, tmp_path: Path) -> None:
    place = Place(plain / "bundle", plain)
    places = ("--dataset_dir", str(plain / "data"), "--unlabelled_dir", str(plain / "plain"))
    configs = ("--config_file", place.configs("train", "semi_supervised"))
    place.call("run", *configs, *places, "--epochs", "2", "--ckpt_dir", str(tmp_path))
    assert (tmp_path / "model.pt").is_file()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="gloo")
def test_two_processes_share_the_scans(plain: Path, tmp_path: Path) -> None:
    place = Place(plain / "bundle", plain)
    places = ("--dataset_dir", str(plain / "data"), "--unlabelled_dir", str(plain / "plain"))
    configs = ("--config_file", place.configs("train", "semi_supervised", "multi_gpu_train"))
    printed = place.run(
        "run", *configs, *places, "--epochs", "2", "--ckpt_dir", str(tmp_path), scratch=tmp_path, processes=2
    )
    assert printed.count("Epoch[2] Metrics") == 1, "only the first process reports"
    assert (tmp_path / "model.pt").is_file()
