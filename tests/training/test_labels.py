"""A training learns each label under its own name, with any number in a dataset."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.trainings import tiny_bundle, tomoseg, write_dataset
from tomoseg.bundle.planned import PlannedBundle
from tomoseg.core.errors import DatasetError
from tomoseg.data.datasets import read_dataset
from tomoseg.data.inspection.training_checks import require_trainable
from tomoseg.training.training import require_same_labels

PLANNED = {"Front": 1, "Back part": 2}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labels")
    return tiny_bundle(write_dataset(folder / "data", names=PLANNED), folder / "bundle")


@pytest.mark.parametrize(
    ("names", "layout", "told"),
    [
        (PLANNED, "msd", ""),
        ({"front": 1, "back_part": 2}, "nnunet", ""),
        ({"Front": 2, "Back part": 1}, "msd", "got 1=Back part, 2=Front"),
        ({"Front": 1, "Side": 2}, "nnunet", "got 1=Front, 2=Side"),
        ({"Front": 1, "Back part": 3}, "msd", "got 1=Front, 3=Back part"),
    ],
)
def test_other_names_or_values_are_refused_with_both_tables(
    planned: Path, names: dict[str, int], layout: str, told: str, tmp_path: Path
) -> None:
    record = PlannedBundle.read(planned)
    assert record is not None
    dataset = require_trainable(read_dataset(write_dataset(tmp_path / "data", 3, names=names, layout=layout)))
    if not told:
        require_same_labels(dataset, record)
        return
    with pytest.raises(DatasetError) as caught:
        require_same_labels(dataset, record)
    assert "planned for (1=Front, 2=Back part)" in str(caught.value)
    assert told in str(caught.value)


def test_the_command_line_refuses_before_it_trains(planned: Path, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 3, names={"Front": 2, "Back part": 1})
    done = tomoseg("train", planned, "--data", data, "-o", tmp_path / "out", "--device", "cpu", folder=tmp_path)
    assert done.returncode != 0
    assert "expected the labels that the bundle was planned for" in done.stderr
    assert not (tmp_path / "out").exists()
