"""The named cases are held out, with all names of files; impossible splits are reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.bundles import parse_config
from support.trainings import check_data, tiny_bundle, tomoseg, write_dataset
from tomoseg import find_bundle
from tomoseg.core.errors import DatasetError
from tomoseg.training.options import TrainingOptions
from tomoseg.training.training import train


def write(folder: Path, layout: str, stem: str = "1.2.840.{}") -> tuple[Path, list[str]]:
    """Write a dataset of six cases; return it and their names: UIDs, which are alike up to their first dot."""
    dataset = write_dataset(folder / "data", layout=layout)
    names = []
    for case in range(6):
        names.append(stem.format(case))
        for path in dataset.glob(f"*/case_{case:02}*"):
            path.rename(path.with_name(path.name.replace(f"case_{case:02}", names[-1])))
    if layout == "msd":
        content = (dataset / "dataset.json").read_text()
        for case, name in enumerate(names):
            content = content.replace(f"case_{case:02}", name)
        (dataset / "dataset.json").write_text(content)
    return dataset, names


def name_folds(dataset: Path, names: list[str]) -> None:
    folds: list[dict[str, Any]] = [{"train": names[2:], "val": names[:2]}, {"train": names[:2], "val": names[2:]}]
    (dataset / "splits.json").write_text(json.dumps(folds))


@pytest.mark.parametrize("layout", ["msd", "nnunet", "plain"])
@pytest.mark.parametrize("named", [True, False])
def test_cases_held_out_are_those_named_and_no_others(tmp_path: Path, layout: str, named: bool) -> None:
    dataset, names = write(tmp_path, layout)
    bundle = tiny_bundle(dataset, tmp_path / "bundle")
    if named:
        name_folds(dataset, names)
    held_out: list[str] = []
    for fold in range(2 if named else 5):
        train_config = parse_config(bundle, "train", dataset_dir=str(dataset), fold=fold, bundle_root=str(bundle))
        evaluate = parse_config(bundle, "evaluate", dataset_dir=str(dataset), fold=fold, bundle_root=str(bundle))
        cases = [train_config.get_parsed_content(key) for key in ("train_cases", "val_cases")]
        trained, kept = ({Path(case["label"]).name for case in part} for part in cases)
        assert not trained & kept
        assert len(trained | kept) == 6
        assert {Path(case["label"]).name for case in evaluate.get_parsed_content("datalist")} == kept
        if named:
            wanted = names[:2] if fold == 0 else names[2:]
            assert sorted(name.split("_seg")[0].removesuffix(".nii.gz") for name in kept) == wanted
        held_out += kept
    assert len(held_out) == len(set(held_out)) == 6


def test_folds_that_name_no_case_train_nothing(tmp_path: Path) -> None:
    """Otherwise the cases that were to be held out would be trained on."""
    dataset, names = write(tmp_path, "nnunet", "patient_{}")
    bundle = tiny_bundle(dataset, tmp_path / "bundle")
    name_folds(dataset, [f"{name}_0000" for name in names])
    done = tomoseg("train", bundle, "--data", dataset, "--epochs", "1", "--device", "cpu", "-o", tmp_path / "out")
    assert done.returncode == 1
    assert "the folds name 'patient_0_0000' (6 such), and no case is called so" in done.stderr
    assert "correct splits.json" in done.stderr
    assert not list(tmp_path.rglob("model.pt"))
    (dataset / "splits.json").write_text(json.dumps([{"train": [], "val": names}] * 2))
    options = TrainingOptions(epochs=1, fold=0, device="cpu")
    with pytest.raises(DatasetError, match="no case is left to train on with --fold 0"):
        train(find_bundle(bundle), check_data(dataset), options, tmp_path / "out", hidden=True)


def test_cases_of_one_name_are_reported(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "data")
    bundle = tiny_bundle(dataset, tmp_path / "bundle")
    (dataset / "labels2").mkdir()
    (dataset / "labelsTr" / "case_00.nii.gz").rename(dataset / "labels2" / "case_01.nii.gz")
    content = (dataset / "dataset.json").read_text().replace("labelsTr/case_00", "labels2/case_01")
    (dataset / "dataset.json").write_text(content)
    options = TrainingOptions(epochs=1, fold=0, device="cpu")
    with pytest.raises(DatasetError, match="several cases are called 'case_01'"):
        train(find_bundle(bundle), check_data(dataset), options, tmp_path / "out", hidden=True)
