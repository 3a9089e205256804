"""Faults to correct before a training: one line each, and nothing is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from support.trainings import phantom, same, tiny_bundle, tomoseg, write_dataset
from tomoseg.core.errors import DatasetError
from tomoseg.data.datasets import read_dataset
from tomoseg.data.inspection.training_checks import require_trainable, trainable_labels
from tomoseg.data.labels import find_ignored
from tomoseg.data.masks import ROUNDED

Damage = Callable[[Path], None]


def without_partner(root: Path) -> None:
    (root / "labelsTr" / "case_02.nii.gz").unlink()


def other_grid(root: Path) -> None:
    nib.save(nib.Nifti1Image(phantom(2)[1], np.diag([1, 1, 1.5, 1])), root / "labelsTr" / "case_02.nii.gz")


def other_shape(root: Path) -> None:
    nib.save(nib.Nifti1Image(phantom(2)[1][:-1], np.eye(4)), root / "labelsTr" / "case_02.nii.gz")


def undeclared_label(root: Path) -> None:
    label = phantom(2)[1]
    label[0, 0, 0] = 9
    nib.save(nib.Nifti1Image(label, np.eye(4)), root / "labelsTr" / "case_02.nii.gz")


def not_a_number(root: Path) -> None:
    image = phantom(2)[0]
    image[3, 3, 3] = np.nan
    nib.save(nib.Nifti1Image(image, np.eye(4)), root / "imagesTr" / "case_02.nii.gz")


def cut_off(root: Path) -> None:
    path = root / "imagesTr" / "case_02.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])


def only_where_it_was_not_drawn(root: Path) -> None:
    content = json.loads((root / "dataset.json").read_text())
    for case in content["training"]:
        case["annotated"] = ["Front"]
    (root / "dataset.json").write_text(json.dumps(content))


def empty_class(root: Path) -> None:
    content = json.loads((root / "dataset.json").read_text())
    content["labels"]["3"] = "Nowhere"
    (root / "dataset.json").write_text(json.dumps(content))


def one_case(root: Path) -> None:
    content = json.loads((root / "dataset.json").read_text())
    content["training"] = content["training"][:1]
    (root / "dataset.json").write_text(json.dumps(content))


DAMAGES: dict[Damage, str] = {
    without_partner: "case_02.nii.gz: no label map",
    other_grid: "label map and scan lie up to",
    other_shape: "label map of 21×24×18 voxels for a scan of 22×24×18",
    undeclared_label: "the label map holds 9, which dataset.json does not name",
    not_a_number: "NaN or infinity in 1 of",
    cut_off: "case_02.nii.gz: ",
    only_where_it_was_not_drawn: "no case has the label Back part (2)",
    empty_class: "no case has the label Nowhere (3)",
    one_case: "expected at least 2 cases with a label map, got 1",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_one_line_says_what_to_correct(damage: Damage, tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    require_trainable(read_dataset(root))
    damage(root)
    with pytest.raises(DatasetError) as error:
        require_trainable(read_dataset(root))
    assert len(error.value.errors) == 1
    assert DAMAGES[damage] in error.value.errors[0]
    assert error.value.errors[0].startswith(str(root))


def test_each_problem_is_a_line_of_the_command_and_no_bundle_is_written(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data")
    not_a_number(root)
    empty_class(root)
    plan, train = ("plan", root, "-o", tmp_path / "bundle"), ("train", "hippocampus", "--data", root)
    for command in (plan, train):
        done = tomoseg(*command)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 2
        assert all(line.startswith("tomoseg: error: ") for line in done.stderr.splitlines())
        assert done.stdout == ""
    assert not (tmp_path / "bundle").exists()


def scaled(path: Path) -> None:
    """As a program that scales its values writes labels."""
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj).astype(np.float32) * 0.99999, image.affine), path)


def moved(path: Path) -> None:
    """As a program that writes few decimals."""
    image = nib.load(path)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine + np.eye(4, k=3) * 0.03), path)


@pytest.mark.parametrize(("change", "told"), [(scaled, ROUNDED), (moved, "as by rounding in a header")])
def test_harmless_differences_are_noted_by_check_plan_and_train_and_change_nothing(
    change: Damage, told: str, tmp_path: Path
) -> None:
    root = write_dataset(tmp_path / "data", 4)
    bundle = tiny_bundle(root, tmp_path / "bundle", steps=1)
    train = ("train", bundle, "--data", root, "--epochs", "2", "--device", "cpu", "--fold", "0", "-o")
    assert tomoseg(*train, tmp_path / "before").returncode == 0
    for path in (root / "labelsTr").iterdir():
        change(path)
    planned = ("plan", root, "-o", tmp_path / "plan", "--preset", "small", "--device", "cpu")
    for command in (("check", root, "--voxels"), planned, (*train, tmp_path / "after")):
        done = tomoseg(*command)
        assert done.returncode == 0, done.stderr
        assert told in done.stdout + done.stderr
    assert same(*(tmp_path / place / "fold_0" / "model.pt" for place in ("before", "after")))


def test_a_link_out_of_the_dataset_is_noted(tmp_path: Path) -> None:
    label = write_dataset(tmp_path / "data") / "labelsTr" / "case_02.nii.gz"
    label.rename(tmp_path / "elsewhere.nii.gz")
    label.symlink_to(tmp_path / "elsewhere.nii.gz")
    done = tomoseg("plan", "data", "-o", "bundle", "--preset", "small", "--device", "cpu", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    note = f"data/labelsTr/case_02.nii.gz: a link that leads out of the dataset, to {tmp_path / 'elsewhere.nii.gz'}"
    assert f"tomoseg: note: {note}\n" in done.stderr


def test_labels_without_names_get_some(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "data", layout="plain")
    assert require_trainable(read_dataset(root)).label_names == {1: "label_1", 2: "label_2"}


@pytest.mark.parametrize("name", ["ignore", "Ignore", "IGNORE"])
def test_nnunets_ignore_label_is_no_class_however_it_is_written(tmp_path: Path, name: str) -> None:
    root = write_dataset(tmp_path, 2, layout="nnunet", ignore=True)
    path = root / "dataset.json"
    path.write_text(path.read_text().replace('"ignore"', f'"{name}"'))
    dataset = require_trainable(read_dataset(root))
    assert trainable_labels(dataset) == {1: "Front", 2: "Back part"}
    assert find_ignored(dataset.label_names) == 3
