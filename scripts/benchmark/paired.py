"""Is one network better than another? Two results of `tomoseg evaluate` on the same cases, compared case by case.

    .venv/bin/python scripts/benchmark/paired.py EVALUATION OTHER [--metric dice]

Prints a table in Markdown: the mean of both for each label, and of other minus first with a bootstrap 95 % interval.
Only cases count in which both have a finite score of the label.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tomoseg.evaluation.bootstrap import interval, resample

Scores = dict[str, dict[str, float]]  # by label and case


def read_scores(folder: Path, metric: str) -> Scores:
    """Return the finite scores in a folder that `tomoseg evaluate` wrote."""
    scores: Scores = {}
    for case in json.loads((folder / "evaluation.json").read_text())["cases"]:
        for label in case["labels"]:
            if isinstance(label[metric], float):
                scores.setdefault(label["name"], {})[case["name"]] = label[metric]
    return scores


def tabulate_pairs(first: Scores, other: Scores) -> list[str]:
    """Return the lines of the table; its last row is the mean over the labels."""
    lines = ["| | cases | first | other | other minus first |", "|---|---|---|---|---|"]
    names = sorted({case for of in first.values() for case in of} & {case for of in other.values() for case in of})
    pairs = np.full((2, len(names), len(first)), np.nan)
    for column, label in enumerate(first):
        for row, name in enumerate(names):
            if name in first[label] and name in other.get(label, {}):
                pairs[:, row, column] = first[label][name], other[label][name]
    defined = ~np.isnan(pairs[0])
    draws = resample(np.where(defined, pairs[1] - pairs[0], 0.0), defined.astype(float))
    for column, label in enumerate(first):
        lines.append(
            _row(label, int(defined[:, column].sum()), np.nanmean(pairs[:, :, column], axis=1), draws[:, column])
        )
    lines.append(_row("mean of the labels", len(names), np.nanmean(pairs, axis=1).mean(axis=1), draws.mean(axis=1)))
    return lines


def _row(name: str, cases: int, means: NDArray[np.float64], draws: NDArray[np.float64]) -> str:
    low, high = interval(draws)
    one, two = means
    return f"| {name} | {cases} | {one:.4f} | {two:.4f} | {two - one:+.4f} ({low:+.4f} to {high:+.4f}) |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path, metavar="EVALUATION")
    parser.add_argument("other", type=Path, metavar="OTHER")
    parser.add_argument("--metric", default="dice", help="as evaluation.json names it")
    options = parser.parse_args()
    print(
        "\n".join(tabulate_pairs(*(read_scores(folder, options.metric) for folder in (options.first, options.other))))
    )


if __name__ == "__main__":
    main()
