"""A training learns each label under its own name, with any number and any name in a dataset."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from support.trainings import check_data, same, tiny_bundle, tomoseg, write_dataset
from tomoseg.bundle.planned import PlannedBundle
from tomoseg.core.errors import DatasetError, TomosegError, UsageError
from tomoseg.core.notes import collect_notes
from tomoseg.training.labels import match_labels

PLANNED = {"Front": 1, "Back part": 2}
SWAPPED = {1: 2, 2: 1}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    return tiny_bundle(write_dataset(folder / "data", names=PLANNED), folder / "bundle", steps=1)


@pytest.mark.parametrize(
    ("names", "layout", "asked", "values"),
    [
        (PLANNED, "msd", None, {}),
        ({"front": 1, "back_part": 2}, "nnunet", None, {}),
        ({"Front": 2, "Back part": 1}, "msd", None, SWAPPED),
        ({"BACK PART": 5, "front": 7}, "nnunet", None, {5: 2, 7: 1}),
        ({"Front": 1, "Side": 2}, "nnunet", "2=back part,1=front", {}),
        ({"A": 1, "B": 2}, "msd", "1=Back part,2=Front", SWAPPED),
        ({"Front": 1, "Back part": 2, "More": 3}, "msd", "1=Front,2=Back part", {3: 0}),
        ({"Front": 1, "Back part": 2}, "plain", "1=Back part,2=Front", SWAPPED),
    ],
)
def test_labels_are_matched_by_name_or_as_the_user_says(
    planned: Path, names: dict[str, int], layout: str, asked: str | None, values: dict[int, int], tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data", 3, names=dict(list(names.items())[:2]), layout=layout)
    if len(names) > 2:
        content = json.loads((data / "dataset.json").read_text())
        content["labels"]["3"] = "More"
        (data / "dataset.json").write_text(json.dumps(content))
        image = nib.load(data / "labelsTr" / "case_00.nii.gz")
        array = np.asarray(image.dataobj).copy()
        array[:2] = 3
        nib.save(nib.Nifti1Image(array, image.affine), data / "labelsTr" / "case_00.nii.gz")
    with collect_notes() as notes:
        found = match_labels(check_data(data), PlannedBundle.read(planned), asked)
    assert dict(found.renumbered.values) == values
    assert bool(notes) == bool(values)


@pytest.mark.parametrize(
    ("names", "layout", "asked", "told"),
    [
        ({"Front": 1, "Side": 2}, "nnunet", None, "got 1=Front, 2=Side. Give them these names, which `tomoseg train"),
        ({"Front": 1, "Back part": 3}, "plain", None, "got 1=label_1, 3=label_3"),
        ({"Front": 1, "Side": 2}, "msd", "1=Front", "planned for (1=Front, 2=Back part)"),
        ({"Front": 1, "Side": 2}, "msd", "1=Front,2=Side", "planned for (1=Front, 2=Back part)"),
        ({"Front": 1, "Side": 2}, "msd", "1=Front,3=Back part", "planned for (1=Front, 2=Back part)"),
        ({"Front": 1, "Side": 2}, "msd", "1=Front,2=Front", "map labels: expected 1=NAME,2=NAME"),
        ({"Front": 1, "Side": 2}, "msd", "Front", "map labels: expected 1=NAME,2=NAME"),
        ({"Front": 1, "Side": 2}, "msd", "", "map labels: expected 1=NAME,2=NAME"),
    ],
)
def test_what_cannot_be_matched_is_refused_with_both_tables(
    planned: Path, names: dict[str, int], layout: str, asked: str | None, told: str, tmp_path: Path
) -> None:
    data = check_data(write_dataset(tmp_path / "data", 3, names=names, layout=layout))
    with pytest.raises(TomosegError) as caught:
        match_labels(data, PlannedBundle.read(planned), asked)
    assert told in str(caught.value)


@pytest.mark.parametrize("kind", [{"partial": True}, {"ignore": True}])
def test_label_maps_that_are_drawn_in_part_need_a_bundle_that_was_planned_for_them(
    planned: Path, kind: dict[str, bool], tmp_path: Path
) -> None:
    """Otherwise unknown voxels would be learnt as background."""
    data = write_dataset(tmp_path / "data", **kind)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="expected completely drawn label maps"):
        match_labels(check_data(data), PlannedBundle.read(planned))
    own = tiny_bundle(data, tmp_path / "bundle")
    record = PlannedBundle.read(own)
    assert match_labels(check_data(data), record).renumbered.values == {}
    if "ignore" in kind:
        assert record is not None
        found = match_labels(check_data(data), replace(record, ignored=9))
        assert found.renumbered.values == {3: 9}


def test_a_bundle_without_a_record_takes_values_as_they_are(tmp_path: Path) -> None:
    data = check_data(write_dataset(tmp_path / "data", 3))
    assert match_labels(data, None) is data
    with pytest.raises(UsageError, match="Leave out --map-labels"):
        match_labels(data, None, "1=Front,2=Back part")


@pytest.mark.parametrize("partial", [False, True])
def test_other_numbers_and_names_give_the_same_weights(partial: bool, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 5, names=PLANNED, partial=partial)
    other = shutil.copytree(data, tmp_path / "other")
    content = (other / "dataset.json").read_text()
    content = content.replace('"1": "Front", "2": "Back part"', '"7": "Fore", "1": "Aft"')
    (other / "dataset.json").write_text(content.replace('"Front"', '"Fore"').replace('"Back part"', '"Aft"'))
    for path in (other / "labelsTr").iterdir():
        image = nib.load(path)
        array = np.asarray(image.dataobj)
        nib.save(nib.Nifti1Image(np.choose(array, [0, 7, 1]).astype(np.uint8), image.affine), path)
    bundle = tiny_bundle(data, tmp_path / "bundle", steps=2)
    common = ("--epochs", "2", "--device", "cpu", "--fold", "0", "--threads", "1")
    done = tomoseg("train", bundle, "--data", data, "-o", tmp_path / "out", *common)
    assert done.returncode == 0, done.stderr
    done = tomoseg("train", bundle, "--data", other, "-o", tmp_path / "refused", *common)
    assert done.returncode == 1
    assert "planned for (1=Front, 2=Back part), got 1=Aft, 7=Fore" in done.stderr
    assert not (tmp_path / "refused").exists()
    mapped = ("train", bundle, "--data", other, "-o", tmp_path / "mapped", "--map-labels", "7=front,1=back_part")
    done = tomoseg(*mapped, *common)
    assert done.returncode == 0, done.stderr
    assert "other values than those that the bundle was planned for: 1 (Aft) as 2, 7 (Fore) as 1" in done.stderr
    assert same(tmp_path / "out" / "fold_0" / "model.pt", tmp_path / "mapped" / "fold_0" / "model.pt")
    assert (tmp_path / "out" / "fold_0" / "history.csv").read_text().count("\n") == 3
