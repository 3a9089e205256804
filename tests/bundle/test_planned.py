"""What a planned bundle records of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.bundles import read_config
from support.trainings import tiny_bundle, write_dataset
from tomoseg import find_bundle
from tomoseg.bundle.card import EMPTY_ACCURACY, MEASURED, replace_accuracy
from tomoseg.bundle.configs import find_config
from tomoseg.bundle.planned import PLAN, PlannedBundle, TrainEntry


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planned")
    return tiny_bundle(write_dataset(folder / "data"), folder / "bundle")


def test_the_record_is_read_as_it_was_written(bundle: Path) -> None:
    planned = PlannedBundle.read(bundle)
    assert planned is not None
    written = json.loads((bundle / PLAN).read_text())
    assert json.loads(planned.as_text()) == {key: written[key] for key in json.loads(planned.as_text())}
    assert planned.case_shape is not None
    assert find_bundle(bundle).dataset_values == dict(enumerate(map(int, planned.dataset_labels), start=1))


@pytest.mark.parametrize("content", [None, "{", "[]", "3", '{"choices": {}}', '{"dataset_labels": {"x": {}}}'])
def test_a_bundle_that_was_not_planned_has_the_values_of_its_dataset(bundle_copy: Path, content: str | None) -> None:
    if content is None:
        (bundle_copy / PLAN).unlink()
    else:
        (bundle_copy / PLAN).write_text(content)
    planned = PlannedBundle.read(bundle_copy)
    assert planned is None or planned.case_shape is None
    assert find_bundle(bundle_copy).dataset_values == {1: 1, 2: 2}


def test_a_planned_training_has_the_entries_that_a_training_uses(bundle: Path) -> None:
    entries = {**read_config(bundle, "train"), **read_config(bundle, "semi_supervised")}
    missing = {entry for entry in TrainEntry if entry not in entries}
    assert missing <= {TrainEntry.ANNOTATED_NAMES}  # of datasets that are annotated in part


@pytest.mark.parametrize(("suffix", "found"), [("json", True), ("yaml", True), ("yml", True), ("txt", False)])
def test_configs_are_found_by_name(tmp_path: Path, suffix: str, found: bool) -> None:
    path = tmp_path / "configs" / f"train.{suffix}"
    path.parent.mkdir()
    path.touch()
    assert find_config(tmp_path, "train") == (path if found else None)
    assert find_config(tmp_path, "inference") is None


@pytest.mark.parametrize("after", ["", "\n## References\n\n1. One.\n"])
def test_results_are_replaced_but_not_those_of_the_author(after: str) -> None:
    first = replace_accuracy(f"# A\n\n{EMPTY_ACCURACY}{after}", f"{MEASURED}: one.")
    assert first is not None
    second = replace_accuracy(first, f"{MEASURED}: two.")
    assert second is not None
    assert second == first.replace("one.", "two.")
    assert second.endswith(after.lstrip())
    assert replace_accuracy("## Accuracy\n\nOur own.\n", MEASURED) is None
    assert replace_accuracy("# A\n", MEASURED) is None
