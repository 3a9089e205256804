"""Scans that hold none of the labels are trained on as such, for their share of the windows."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from support.bundles import Place, parse_config
from support.trainings import SHAPE, check_data, check_negatives, same, tiny_bundle, tomoseg, write_dataset
from tomoseg import find_bundle
from tomoseg.core.errors import DatasetError, UsageError
from tomoseg.planning.bundle_writer import plan
from tomoseg.planning.options import PlanningOptions
from tomoseg.training.options import TrainingOptions
from tomoseg.training.training import train

LARGE = (90, 80, 70)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def save(path: Path, array: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(np.asarray(array), np.eye(4)), path)
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A partly annotated dataset, a bundle for it, and two scans without any label beside a label map."""
    folder = tmp_path_factory.mktemp("negatives")
    tiny_bundle(write_dataset(folder / "data", partial=True, modality="CT"), folder / "bundle")
    rng = np.random.default_rng(0)
    save(folder / "without" / "small.nii.gz", rng.normal(0, 100, SHAPE).astype(np.int16))
    save(folder / "without" / "large.nii.gz", rng.normal(0, 100, LARGE).astype(np.float32))
    save(folder / "without" / "large_seg.nii.gz", np.ones(LARGE, np.uint8))
    return folder


def run(place: Path, folder: Path, **options: object) -> Path:
    negatives = place / "without"
    chosen: dict[str, object] = {"epochs": 2, "fold": 0, "device": "cpu", "negatives": str(negatives)}
    bundle = find_bundle(place / "bundle")
    train(
        bundle,
        check_data(place / "data"),
        TrainingOptions(**(chosen | options)),  # type: ignore[arg-type]
        folder,
        hidden=True,
        negatives=check_negatives(negatives, bundle) if options.get("negatives", negatives) else (),
    )
    return folder


def test_the_config_lists_the_scans_that_are_checked(place: Path) -> None:
    options = {"dataset_dir": str(place / "data"), "negatives_dir": str(place / "without")}
    listed = parse_config(place / "bundle", "train", **options).get_parsed_content("negatives")
    checked = check_negatives(place / "without", find_bundle(place / "bundle"))
    assert [case["image"] for case in listed] == [str(path) for path in checked]
    assert [path.name for path in checked] == ["large.nii.gz", "small.nii.gz"]
    without = parse_config(place / "bundle", "train", dataset_dir=str(place / "data"))
    assert without.get_parsed_content("negatives") == []


@pytest.mark.parametrize("cut", [False, True])
def test_their_windows_hold_nothing_and_are_as_many_as_was_said(place: Path, cut: bool, tmp_path: Path) -> None:
    bundle = place / "bundle"
    if cut:  # the scans of the dataset are larger than a window
        data = write_dataset(tmp_path / "data", partial=True, modality="CT")
        for path in [*(data / "imagesTr").iterdir(), *(data / "labelsTr").iterdir()]:
            array = np.asanyarray(nib.load(path).dataobj)
            widths = [(0, size - edge) for size, edge in zip((150, 150, 150), SHAPE, strict=True)]
            save(path, np.pad(array, widths, mode="minimum"))
        bundle = tmp_path / "bundle"
        assert plan(data, bundle, PlanningOptions(4 * 10**9, "cpu", "small")).cut
    options = {"dataset_dir": str(bundle.parent / "data"), "negatives_dir": str(place / "without"), "steps": 400}
    parser = parse_config(bundle, "train", **options)
    dataset, possible = (parser.get_parsed_content(name) for name in ("train::dataset", "possible"))
    cases = len(parser.get_parsed_content("train_cases"))
    drawn = list(parser.get_parsed_content("train::sampler"))
    assert len(drawn) == 800
    assert 60 < sum(index >= cases for index in drawn) < 140, "100 expected, SD 9"
    assert {index for index in drawn if index < cases} == set(range(cases))
    for index in (cases, cases + 1, 0):
        case = dataset[index]
        case = case[0] if isinstance(case, list) else case
        assert set(case) == {"image", "label"}
        assert case["image"].shape == case["label"].shape == (1, *parser.get_parsed_content("patch_size"))
        values = case["label"].unique().long()
        if index >= cases:
            assert not possible[values][:, 1:].any(), "background for certain, though the others are partly annotated"
            assert case["image"].std() > 0


def test_the_same_seed_gives_the_same_weights_and_a_stopped_one_goes_on(place: Path, tmp_path: Path) -> None:
    whole = run(place, tmp_path / "whole")
    assert same(run(place, tmp_path / "again") / "model.pt", whole / "model.pt")
    assert not same(run(place, tmp_path / "without", negatives=None) / "model.pt", whole / "model.pt")
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        from tomoseg.training import session

        begin = session.TrainingSession._begin_epoch

        def stop(self: session.TrainingSession, engine: object) -> None:
            if engine.state.epoch == 2:  # type: ignore[attr-defined]
                raise KeyboardInterrupt
            begin(self, engine)

        patched.setattr(session, "SAVE_EVERY_S", 0.0)
        patched.setattr(session.TrainingSession, "_begin_epoch", stop)
        run(place, tmp_path / "stopped")
    with pytest.raises(UsageError, match="--negatives"):
        run(place, tmp_path / "stopped", resume=True, negatives=None)
    run(place, tmp_path / "stopped", resume=True)
    assert same(tmp_path / "stopped" / "model.pt", whole / "model.pt")


@pytest.mark.slow
def test_stock_monai_trains_with_them(place: Path, tmp_path: Path) -> None:
    stock = Place(place / "bundle", place)
    options = ("--dataset_dir", "data", "--negatives_dir", "without", "--epochs", "1")
    stock.run("run", "--config_file", stock.configs("train"), *options, scratch=tmp_path)
    assert (place / "bundle" / "train" / "model.pt").is_file()


def test_what_is_wrong_with_them_is_reported_in_one_line(place: Path, tmp_path: Path, bundle_copy: Path) -> None:
    bundle = find_bundle(place / "bundle")
    with pytest.raises(UsageError, match="no such folder"):
        check_negatives(tmp_path / "nowhere", bundle)
    save(tmp_path / "x_seg.nii.gz", np.zeros(SHAPE))
    with pytest.raises(UsageError, match="got none"):
        check_negatives(tmp_path, bundle)
    save(tmp_path / "bad.nii.gz", np.full(SHAPE, np.nan, np.float32))
    (tmp_path / "worse.nii.gz").write_bytes(b"no scan")
    with pytest.raises(DatasetError) as raised:
        check_negatives(tmp_path, bundle)
    assert [line.partition(": ")[0] for line in raised.value.errors] == [
        str(tmp_path / name) for name in ("bad.nii.gz", "worse.nii.gz")
    ]
    reported = tomoseg("train", place / "bundle", "--data", place / "data", "--negatives", tmp_path)
    assert reported.returncode == 1
    assert [line.split(":")[0] for line in reported.stderr.splitlines()] == ["tomoseg", "tomoseg"]
    config = bundle_copy / "configs" / "train.json"
    config.write_text(config.read_text().replace("negatives_dir", "others_dir"))
    with pytest.raises(UsageError, match="negatives_dir"):
        train(find_bundle(bundle_copy), check_data(place / "data"), TrainingOptions(negatives="x"), tmp_path / "out")


def test_a_partly_annotated_bundle_is_fine_tuned_without_its_dataset(place: Path, tmp_path: Path) -> None:
    """As in MONAI Label: every label of a submitted map was drawn."""
    from tomoseg.training.fine_tuning import FineTuningOptions, fine_tune

    folders = (place / "data" / name for name in ("imagesTr", "labelsTr"))
    images, labels = (sorted(folder.iterdir()) for folder in folders)
    cases = list(zip(images, labels, strict=True))[:3]
    state = fine_tune(find_bundle(place / "bundle"), cases, None, FineTuningOptions(1, 1.0, "cpu"), tmp_path)
    assert all(bool(weights.isfinite().all()) for weights in state.values())
