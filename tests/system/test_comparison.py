"""What the experiments with few labels and with partial annotation compare: the same cases, and honest intervals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from support.bundles import CHECKOUT

sys.path.insert(0, str(CHECKOUT / "scripts" / "benchmark"))

from comparison import interval, read_cases, tabulate, write_dataset
from fully_annotated import write_fully_annotated
from ignore_label import write_sparse
from paired import tabulate_pairs
from partial_annotation import write_partial
from support.trainings import write_dataset as write_phantoms
from tomoseg.data.datasets import read_dataset
from tomoseg.data.labels import find_ignored

NAMES = {1: "Anterior", 2: "Posterior"}


def test_no_case_is_both_learnt_and_scored(hippocampus_data: Path, tmp_path: Path) -> None:
    training, held_out = read_cases(hippocampus_data)
    assert (len(training), len(held_out)) == (166, 42)
    made = read_dataset(write_dataset(tmp_path, hippocampus_data, training[:5], held_out[:3]))
    parts = {part: {pair.image.name for pair in made.pairs if pair.part == part} for part in ("training", "validation")}
    assert [len(names) for names in parts.values()] == [5, 3]
    assert not parts["training"] & parts["validation"]


def test_a_label_that_was_not_drawn_is_in_no_file(hippocampus_data: Path, tmp_path: Path) -> None:
    training, held_out = read_cases(hippocampus_data)
    made = read_dataset(write_partial(tmp_path, hippocampus_data, training[:4], held_out[:1], NAMES))
    for pair in made.pairs:
        found = set(np.unique(np.asarray(nib.load(pair.label).dataobj))) - {0}
        assert {NAMES[int(value)] for value in found} == set(pair.annotated or NAMES.values())
    assert [pair.annotated for pair in made.pairs if pair.part == "training"] == [("Anterior",), ("Posterior",)] * 2


def test_what_was_not_drawn_is_ignored_or_background(hippocampus_data: Path, tmp_path: Path) -> None:
    training, held_out = read_cases(hippocampus_data)
    labels = {"0": "background", "1": "Anterior", "2": "Posterior"}
    for reported in (True, False):
        folder = tmp_path / str(reported)
        made = read_dataset(write_sparse(folder, hippocampus_data, training[:2], held_out[:1], labels, 4, reported))
        for pair in made.pairs:
            array = np.asarray(nib.load(pair.label).dataobj)
            whole = np.asarray(nib.load(hippocampus_data / "labelsTr" / pair.label.name).dataobj)
            drawn = np.array([np.array_equal(array[:, index], whole[:, index]) for index in range(array.shape[1])])
            if pair.part == "validation":
                assert drawn.all()
            elif reported:
                assert drawn.mean() == pytest.approx(0.25, abs=0.05)
                assert (array[:, ~drawn] == 3).all()
            else:
                assert not array[:, ~drawn].any()
                assert array.any()
        assert find_ignored(made.label_names) == (3 if reported else None)


def test_only_cases_with_all_labels_are_kept(tmp_path: Path) -> None:
    source = write_phantoms(tmp_path / "all", partial=True, validation=2)
    kept = write_fully_annotated(tmp_path / "full", source)
    made = read_dataset(tmp_path / "full")
    assert len(kept) == 3
    assert {len(pair.annotated or ()) for pair in made.pairs if pair.part == "training"} == {2}
    assert [pair.image.name for pair in made.pairs if pair.part == "validation"] == [
        pair.image.name for pair in read_dataset(source).pairs if pair.part == "validation"
    ]


def test_the_interval_of_a_difference_is_paired() -> None:
    random = np.random.default_rng(0)
    hard = random.uniform(0.5, 0.9, (1, 40))  # some cases are hard for both ways
    one = np.repeat(hard, 3, axis=0) + random.normal(0, 0.002, (3, 40))
    other = one + 0.01
    mean, low, high = interval(other - one)
    assert low == pytest.approx(mean) == pytest.approx(high) == pytest.approx(0.01)
    _, low, high = interval(one)
    assert high - low > 0.03


def test_a_table_compares_with_the_first() -> None:
    dice = np.full((2, 5, 2), 0.8)
    lines = tabulate({"one": dice, "two": dice + 0.05}, ["a", "b"])
    assert lines[0] == "| | mean | a | b | minus one |"
    assert lines[3].endswith("| +0.0500 (+0.0500 to +0.0500) |")


def test_two_evaluations_are_compared_where_both_have_a_score() -> None:
    first = {"cord": {"a": 0.5, "b": 0.7, "c": 0.1}, "stem": {"a": 0.9, "b": 0.5}}
    other = {"cord": {"a": 0.6, "b": 0.8}, "stem": {"a": 0.8, "b": 0.4, "d": 0.9}}
    lines = tabulate_pairs(first, other)
    assert lines[2] == "| cord | 2 | 0.6000 | 0.7000 | +0.1000 (+0.1000 to +0.1000) |"
    assert lines[3] == "| stem | 2 | 0.7000 | 0.6000 | -0.1000 (-0.1000 to -0.1000) |"
    assert lines[4].endswith("| 0.6500 | 0.6500 | +0.0000 (+0.0000 to +0.0000) |")


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("few_labels", ["--labelled", "4"]),
        ("partial_annotation", ["--cases", "6"]),
        ("ignore_label", ["--cases", "6", "--every", "3"]),
    ],
)
def test_the_experiments_run(script: str, options: list[str], hippocampus_data: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(CHECKOUT / "scripts" / "benchmark" / f"{script}.py"), str(hippocampus_data)]
    quick = ["--quick", "--seeds", "1", "--epochs", "1", "--threads", "1", "--folder", str(tmp_path)]
    tables, states = [], []
    for _ in range(2):  # the second one goes on where the first one ended, and has nothing left to train
        done = subprocess.run([*command, *quick, *options], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("| ") > 10
        tables.append([line for line in done.stdout.splitlines() if line.startswith("|")])
        states.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("state.pt")})
    assert tables[0] == tables[1]
    assert states[0] == states[1] != {}
    longer = [*command, *quick, *options, "--epochs", "2"]
    done = subprocess.run(longer, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "epochs" in done.stderr
