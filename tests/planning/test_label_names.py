"""Names that a user gives the labels of a dataset that does not name them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from support.trainings import write_dataset
from tomoseg import PlanningOptions, find_bundle, plan
from tomoseg.bundle.planned import PlannedBundle
from tomoseg.core.errors import TomosegError
from tomoseg.data.datasets import read_dataset
from tomoseg.data.inspection.training_checks import require_trainable
from tomoseg.training.labels import match_labels

OPTIONS = PlanningOptions(4 * 10**9, "cpu", "small", label_names="1=anterior,2=posterior")


def test_a_dataset_of_two_folders_is_planned_with_names_and_trained_without_them(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 3, layout="plain")
    plan(data, tmp_path / "bundle", OPTIONS)
    assert find_bundle(tmp_path / "bundle").labels == {1: "anterior", 2: "posterior"}
    found = match_labels(require_trainable(read_dataset(data)), PlannedBundle.read(tmp_path / "bundle"))
    assert dict(found.renumbered.values) == {}


@pytest.mark.parametrize(
    ("layout", "names", "told"),
    [
        ("msd", "1=a,2=b", "dataset.json has them. Leave out --label-names"),
        ("plain", "1=a", "holds 2, which --label-names does not name"),
        ("plain", "1=a,2=b,3=c", "no case has the label c (3)"),
        ("plain", "anterior", "label names: expected 1=NAME,2=NAME or a JSON file"),
    ],
)
def test_names_that_do_not_fit_are_refused(layout: str, names: str, told: str, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", 3, layout=layout)
    with pytest.raises(TomosegError) as caught:
        plan(data, tmp_path / "bundle", replace(OPTIONS, label_names=names))
    assert told in str(caught.value)
    assert not (tmp_path / "bundle").exists()
