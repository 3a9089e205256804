"""The named cases are trained on or held out, with all names of files; impossible splits are reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
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


def train_once(bundle: Path, dataset: Path, out: Path, *options: str) -> Any:
    """Train for one epoch from the command line."""
    return tomoseg("train", bundle, "--data", dataset, "--epochs", "1", "--device", "cpu", "-o", out, *options)


def name_folds(dataset: Path, names: list[str], file: str = "splits.json") -> None:
    folds: list[dict[str, Any]] = [{"train": names[2:], "val": names[:2]}, {"train": names[:2], "val": names[2:]}]
    (dataset / file).write_text(json.dumps(folds))


@pytest.mark.parametrize("layout", ["msd", "nnunet", "plain"])
@pytest.mark.parametrize("named", ["splits.json", "splits_final.json", ""])
def test_cases_held_out_are_those_named_and_no_others(tmp_path: Path, layout: str, named: str) -> None:
    dataset, names = write(tmp_path, layout)
    bundle = tiny_bundle(dataset, tmp_path / "bundle")
    if named:
        name_folds(dataset, names, named)
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
    done = train_once(bundle, dataset, tmp_path / "out")
    assert done.returncode == 1
    assert "the folds name 'patient_0_0000' (6 such), and no case is called so" in done.stderr
    assert "correct splits.json" in done.stderr
    assert not list(tmp_path.rglob("model.pt"))


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


def test_cases_in_neither_list_are_not_trained_on(tmp_path: Path) -> None:
    dataset, names = write(tmp_path, "msd", "patient_{}")
    bundle = tiny_bundle(dataset, tmp_path / "bundle", steps=1)
    (dataset / "splits_final.json").write_text(json.dumps([{"train": names[:3], "val": names[3:5], "test": 5}]))
    config = parse_config(bundle, "train", dataset_dir=str(dataset), fold=0, bundle_root=str(bundle))
    assert [Path(case["label"]).name for case in config.get_parsed_content("train_cases")] == [
        f"{name}.nii.gz" for name in names[:3]
    ]
    done = train_once(bundle, dataset, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "warning: fold 0 has in neither list, and does not use: patient_5\n" in done.stderr


FOLD = {"train": ["patient_0", "patient_1"], "val": ["patient_2"]}
MALFORMED: dict[str, tuple[Any, str]] = {
    "no JSON": ("[{", "splits.json: cannot be read as JSON"),
    "binary": (b"\x80\x04]", "splits.json: cannot be read as JSON"),
    "nested": ("[" * 100_000, "splits.json: cannot be read as JSON"),
    "an object": (FOLD, "splits.json: expected a list of folds"),
    "no fold": ([], "splits.json: expected a list of folds"),
    "a list of names": ([["patient_0"]], "splits.json: fold 0: expected"),
    "no val": ([FOLD, {"train": ["patient_0"]}], "splits.json: fold 1: expected"),
    "nothing to train on": ([{"train": [], "val": ["patient_0"]}], "splits.json: fold 0: expected"),
    "nothing held out": ([{"train": ["patient_0"], "val": []}], "splits.json: fold 0: expected"),
    "numbers": ([{"train": [0, 1], "val": [2]}], "splits.json: fold 0: expected"),
    "one name": ([{"train": "patient_0", "val": "patient_1"}], "splits.json: fold 0: expected"),
    "null": ([{"train": None, "val": None}], "splits.json: fold 0: expected"),
    "in both": ([{"train": ["a", "b"], "val": ["b"]}], "splits.json: fold 0: b in train and in val"),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("splits")
    tiny_bundle(write(folder, "msd", "patient_{}")[0], folder / "bundle", steps=1)
    return folder


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_file_is_one_line_of_every_command(case: str, sound: Path, tmp_path: Path) -> None:
    content, told = MALFORMED[case]
    dataset = shutil.copytree(sound / "data", tmp_path / "data")
    raw = content if isinstance(content, str | bytes) else json.dumps(content)
    (dataset / "splits.json").write_bytes(raw if isinstance(raw, bytes) else raw.encode())
    train_command = ("train", sound / "bundle", "--data", dataset, "-o", tmp_path / "out", "--epochs", "1")
    for command in (("check", dataset), ("plan", dataset, "-o", tmp_path / "plan"), train_command):
        done = tomoseg(*command)
        lines = [line for line in (done.stdout + done.stderr).splitlines() if told in line]
        assert (done.returncode, len(lines)) == (1, 1), done.stderr
        assert "Traceback" not in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"data"}


def test_a_byte_order_mark_is_no_error_and_two_files_are_one(sound: Path, tmp_path: Path) -> None:
    dataset = shutil.copytree(sound / "data", tmp_path / "data")
    (dataset / "splits.json").write_text(json.dumps([FOLD]), "utf-8-sig")
    options = TrainingOptions(epochs=1, fold=0, device="cpu")
    bundle = find_bundle(sound / "bundle")
    (pair,) = train(bundle, check_data(dataset), options, tmp_path / "out", hidden=True).held_out
    assert pair.name == "patient_2"
    (dataset / "splits_final.json").write_text(json.dumps([FOLD]))
    with pytest.raises(DatasetError, match=r"splits_final\.json lists folds, too\. Keep one of them"):
        check_data(dataset)


def erase(path: Path, label: int) -> None:
    image = nib.load(path)
    array = np.asarray(image.dataobj).copy()
    array[array == label] = 0
    nib.save(nib.Nifti1Image(array, image.affine), path)


def test_a_label_of_held_out_cases_alone_is_an_error_and_a_warning_where_other_folds_have_it(
    sound: Path, tmp_path: Path
) -> None:
    dataset = shutil.copytree(sound / "data", tmp_path / "data")
    for path in (dataset / "labelsTr").glob("patient_[!0]*"):
        erase(path, 2)
    names = [f"patient_{case}" for case in range(6)]
    name_folds(dataset, names)
    missing = "no case that fold 0 trains on has the label Back part (2)"
    done = train_once(sound / "bundle", dataset, tmp_path / "out", "--fold", "0")
    assert done.returncode == 1
    assert f"tomoseg: error: {dataset}: {missing}" in done.stderr
    assert not list(tmp_path.rglob("model.pt"))
    assert train_once(sound / "bundle", dataset, tmp_path / "out", "--fold", "1").returncode == 0
    done = train_once(sound / "bundle", dataset, tmp_path / "out", "--fold", "all", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert f"tomoseg: warning: {dataset}: {missing}" in done.stderr


def test_copies_among_training_and_held_out_cases_are_warned_of(sound: Path, tmp_path: Path) -> None:
    dataset = shutil.copytree(sound / "data", tmp_path / "data")
    image = nib.load(dataset / "imagesTr" / "patient_0.nii.gz")
    copy = nib.Nifti1Image(np.asarray(image.dataobj).astype(np.float64), image.affine)  # other bytes
    nib.save(copy, dataset / "imagesTr" / "patient_4.nii.gz")
    name_folds(dataset, [f"patient_{case}" for case in range(6)])
    one, other = (dataset / "imagesTr" / f"patient_{case}.nii.gz" for case in (0, 4))
    done = tomoseg("plan", dataset, "-o", tmp_path / "plan", "--preset", "small", "--device", "cpu")
    assert f"tomoseg: warning: {other}: has the same voxels as {one}" in done.stderr
    done = train_once(sound / "bundle", dataset, tmp_path / "out", "--fold", "0")
    assert f"tomoseg: warning: {one}: has the same voxels as {other}" in done.stderr
    done = train_once(sound / "bundle", dataset, tmp_path / "out", "--fold", "none")
    assert "same voxels" not in done.stderr
