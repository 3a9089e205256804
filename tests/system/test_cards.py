"""Model cards have the same sections, and the script that measured a table wrote it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.evaluations import make_evaluation, read_csv
from support.trainings import tiny_bundle, tomoseg, write_dataset
from tomoseg.bundle.card import EMPTY_ACCURACY
from tomoseg.evaluation.run import save_evaluation

SECTIONS = ["Use", "Data", "Training", "Accuracy", "Failures", "Licence", "References"]
SHIPPED = ("head_neck_ct_segmentation", "hippocampus_mr_segmentation")
INTERVAL = re.compile(r"\| \d\.\d{3,4} \(\d\.\d{3,4} to \d\.\d{3,4}\) \|")
BEGIN, END = "<!-- accuracy: written by scripts/benchmark/accuracy_table.py -->\n", "<!-- end of accuracy -->\n"


def sections(card: str) -> dict[str, str]:
    """Return the text of each section by its heading."""
    parts = re.split(r"(?m)^## (.+)$", card)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def write_table(checkout: Path, evaluation: Path, card: Path) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        str(checkout / "scripts" / "benchmark" / "accuracy_table.py"),
        str(evaluation),
        str(card),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_card_has_all_sections(checkout: Path, name: str) -> None:
    bundle = checkout / "monai_bundle" / name
    found = sections((bundle / "docs" / "README.md").read_text())
    assert list(found) == SECTIONS
    assert all(len(text.split()) > 10 for text in found.values())
    assert len(INTERVAL.findall(found["Accuracy"])) >= 5
    labels = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]["outputs"]["pred"]
    for label in list(labels["channel_def"].values())[1:]:
        assert re.search(rf"\b{label.replace('_', ' ')}\b", found["Accuracy"]), label


def test_a_planned_card_has_the_same(tmp_path: Path) -> None:
    write_dataset(tmp_path / "dataset")
    tiny_bundle(tmp_path / "dataset", tmp_path / "bundle")
    card = (tmp_path / "bundle" / "docs" / "README.md").read_text()
    assert list(sections(card)) == SECTIONS
    assert EMPTY_ACCURACY in card
    assert (tmp_path / "bundle" / "LICENSE").is_file()
    assert (tmp_path / "bundle" / "docs" / "data_license.txt").is_file()


def test_the_table_has_the_numbers_of_the_evaluation(checkout: Path, tmp_path: Path) -> None:
    save_evaluation(make_evaluation(tmp_path), tmp_path / "evaluation", worst=0)
    card = tmp_path / "card.md"
    card.write_text(f"before\n{BEGIN}\nold\n{END}after\n")
    done = write_table(checkout, tmp_path / "evaluation", card)
    assert done.returncode == 0, done.stderr
    text = card.read_text()
    assert text.startswith(f"before\n{BEGIN}")
    assert text.endswith(f"{END}after\n")
    assert "old" not in text
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert [row[0] for row in rows[1:]] == ["liver", "spleen", "all labels"]
    for row in read_csv(tmp_path / "evaluation" / "summary.csv"):
        if row["metric"] in ("dice", "nsd"):
            (shown,) = (one for one in rows if one[0] == row["name"])
            mean, low, high = (f"{float(row[key]):.3f}" for key in ("mean", "low", "high"))
            assert shown[2 if row["metric"] == "dice" else 6] == f"{mean} ({low} to {high})"
        if (row["name"], row["metric"]) == ("liver", "hd95_mm"):
            assert row["infinite"] == "2"
            assert rows[1][4].endswith("), 2 infinite")
    assert write_table(checkout, tmp_path / "evaluation", card).returncode == 0
    assert card.read_text() == text


def test_a_card_without_a_place_stays_as_it_is(checkout: Path, tmp_path: Path) -> None:
    save_evaluation(make_evaluation(tmp_path), tmp_path / "evaluation", worst=0)
    card = tmp_path / "card.md"
    card.write_text("no place")
    done = write_table(checkout, tmp_path / "evaluation", card)
    assert (done.returncode, card.read_text()) == (1, "no place")
    assert done.stderr.startswith(f"error: {card}: has no place for the table. Add the lines `<!-- accuracy")


@pytest.mark.exhaustive
def test_the_commands_of_the_card_give_its_table(checkout: Path, head_neck_data: Path, tmp_path: Path) -> None:
    (tmp_path / "validation").mkdir()
    for case in json.loads((head_neck_data / "dataset.json").read_text())["validation"]:
        shutil.copy(head_neck_data / case["image"], tmp_path / "validation")
    card = checkout / "monai_bundle" / "head_neck_ct_segmentation" / "docs" / "README.md"
    for line in re.findall(r"(?m)^tomoseg ((?:segment validation|evaluate predictions).*)$", card.read_text()):
        done = tomoseg(*line.replace("DATASET", str(head_neck_data)).split(), folder=tmp_path)
        assert done.returncode == 0, done.stderr
    copy = Path(shutil.copy(card, tmp_path))
    assert write_table(checkout, tmp_path / "evaluation", copy).returncode == 0
    assert copy.read_text() == card.read_text()
