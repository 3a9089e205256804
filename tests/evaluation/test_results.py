"""What programs read of an evaluation: JSON and CSV, with nothing lost and nothing that they cannot read."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

from support.evaluations import make_evaluation
from tomoseg import TomosegError
from tomoseg.evaluation.metrics import METRICS
from tomoseg.evaluation.results import CASE_COLUMNS, SUMMARY_COLUMNS, Evaluation
from tomoseg.evaluation.run import save_evaluation


def refuse(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(), parse_constant=refuse)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Path]:
    evaluation = make_evaluation(tmp_path_factory.mktemp("cases"))
    folder = tmp_path_factory.mktemp("results") / "new"
    save_evaluation(evaluation, folder, worst=2)
    return evaluation, folder


def test_there_are_four_files_and_no_rest(saved: tuple[Evaluation, Path]) -> None:
    names = sorted(path.name for path in saved[1].iterdir())
    assert names == ["evaluation.html", "evaluation.json", "metrics.csv", "summary.csv"]


def test_json_and_csv_say_the_same(saved: tuple[Evaluation, Path]) -> None:
    evaluation, folder = saved
    content, rows = read_json(folder / "evaluation.json"), read_csv(folder / "metrics.csv")
    assert list(rows[0]) == list(CASE_COLUMNS)
    listed = [(case, one) for case in content["cases"] for one in case["labels"]]
    assert len(rows) == len(listed) == sum(len(case.labels) for case in evaluation.done) > 10
    for row, (case, one) in zip(rows, listed, strict=True):
        assert (row["case"], row["name"], int(row["label"])) == (case["name"], one["name"], one["label"])
        for metric in METRICS:
            value = one[metric.key]
            if value is None:
                assert row[metric.key] == ""
            else:
                assert float(row[metric.key]) == pytest.approx(float(value), rel=1e-8)
    counts = content["counts"]
    assert (counts["done"], counts["failed"]) == (len(evaluation.done), len(evaluation.failed))
    (failed,) = [case for case in content["cases"] if case["status"] == "failed"]
    assert failed["reason"]
    assert failed["labels"] == []


def test_infinite_and_undefined_numbers_can_be_read(saved: tuple[Evaluation, Path]) -> None:
    rows = {(row["case"], row["name"]): row for row in read_csv(saved[1] / "metrics.csv")}
    missed = rows["missed", "liver"]
    assert (missed["hd95_mm"], missed["precision"], missed["dice"]) == ("inf", "", "0")
    content = read_json(saved[1] / "evaluation.json")
    (one,) = [one for case in content["cases"] if case["name"] == "missed" for one in case["labels"][:1]]
    assert (one["hd95_mm"], one["precision"], one["dice"]) == ("inf", None, 0)


def test_the_summary_is_that_of_the_rows(saved: tuple[Evaluation, Path]) -> None:
    """Means can be computed again from metrics.csv."""
    rows, summary = read_csv(saved[1] / "metrics.csv"), read_csv(saved[1] / "summary.csv")
    assert list(summary[0]) == list(SUMMARY_COLUMNS)
    assert {row["name"] for row in summary} == {"liver", "spleen", "all labels"}
    checked = 0
    for found in summary:
        if found["label"] == "0" or found["metric"].startswith("presence"):
            continue
        values = [float(row[found["metric"]] or "nan") for row in rows if row["name"] == found["name"]]
        finite = [value for value in values if math.isfinite(value)]
        assert float(found["mean"]) == pytest.approx(sum(finite) / len(finite), rel=1e-7, abs=1e-12)
        assert int(found["cases"]) == len(finite)
        assert int(found["infinite"]) == sum(map(math.isinf, values))
        assert float(found["low"]) <= float(found["mean"]) <= float(found["high"])
        checked += 1
    assert checked == 2 * len(METRICS)


def test_what_was_asked_is_reported(saved: tuple[Evaluation, Path]) -> None:
    content = read_json(saved[1] / "evaluation.json")
    assert content["config"]["labels"] == {"1": "liver", "2": "spleen"}
    assert content["bootstrap"] == {
        "level": 0.95,
        "resamples": 10_000,
        "seed": 0,
        "method": "percentile, cases resampled",
    }
    assert {"numpy", "scipy", "nibabel"} <= set(content["packages"])
    assert content["labels"][0]["bland_altman"]["low_ml"] < content["labels"][0]["bland_altman"]["high_ml"]


def test_a_place_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    evaluation = make_evaluation(tmp_path / "cases")
    (tmp_path / "taken").touch()
    with pytest.raises(TomosegError, match=r"taken/evaluation\.json: cannot be written"):
        save_evaluation(evaluation, tmp_path / "taken", worst=1)
