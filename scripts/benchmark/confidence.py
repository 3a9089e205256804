#!/usr/bin/env python3
"""How good a bundle's expected Dice is, on patients it was not fitted on: `scripts/benchmark/confidence.py TABLE`.

TABLE comes from `tomoseg calibrate BUNDLE DATASET --table TABLE`. Each patient's results, clean and corrupted, are
predicted by a fit on other patients. Prints a Markdown table; `--plot FILE.png` draws the expected against the true
Dice. Run it with a Python that has tomoseg.

Failures are results with a Dice below 0.7; the limit of the expected Dice is the one below which 5 % of the others are.
The AURC (area under the curve of risk, 1 - Dice, over coverage) is compared with that of the network's own
probabilities, which takes the same sums at temperature 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tomoseg.bundle.confidence import lower_bound
from tomoseg.core.notes import print_line
from tomoseg.training.calibration import TEMPERATURES, read_table
from tomoseg.training.confidence_fit import CLEAN, Fitted, Result, fit_confidence, fit_label

FAILED, FALSE_ALARMS = 0.7, 0.05
COLUMNS = (
    "label", "results", "patients", "r", "mean error", "above the bound", "failures", "caught", "AURC", "uncalibrated",
)  # fmt: skip


def area_under_risk(dice: NDArray[np.float64], confidence: NDArray[np.float64]) -> float:
    """Return the mean risk over all coverages, the surest results first."""
    risk = 1 - dice[np.argsort(-confidence, kind="stable")]
    return float(np.mean(np.cumsum(risk) / np.arange(1, len(risk) + 1)))


def describe(name: str, found: list[Result], fitted: Fitted, chosen: NDArray[np.bool_]) -> list[str]:
    """Return a row of `COLUMNS` for some of a label's results."""
    dice, expected = fitted.dice[chosen], fitted.expected[chosen]
    sums = np.array([one.sums[0] for one in found])[chosen]
    raw = 2 * sums[:, 1] / (sums[:, 0] + sums[:, 2])
    patients = {one.case for one, used in zip(found, chosen, strict=True) if used}
    failed = dice < FAILED
    caught = "—"
    if failed.any() and not failed.all():
        caught = f"{np.mean(expected[failed] < np.quantile(expected[~failed], FALSE_ALARMS)):.0%}"
    covered = np.mean(dice >= lower_bound(expected, fitted.label.spread))
    return [
        name, str(len(dice)), str(len(patients)), f"{np.corrcoef(dice, expected)[0, 1]:.3f}",
        f"{np.abs(dice - expected).mean():.3f}", f"{covered:.0%}", str(failed.sum()), caught,
        f"{area_under_risk(dice, expected):.3f}", f"{area_under_risk(dice, raw):.3f}",
    ]  # fmt: skip


def draw(path: Path, by_label: dict[str, Fitted]) -> None:
    """Draw the true over the expected Dice of each label."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(by_label), 3.4), dpi=120, layout="constrained")
    for axis, (name, fitted) in zip(figure.subplots(1, len(by_label), squeeze=False)[0], by_label.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="0.7")
        places = np.linspace(0, 1, 101)
        axis.plot(places, lower_bound(places, fitted.label.spread), color="0.7", linestyle=":")
        axis.scatter(fitted.expected, fitted.dice, s=4, alpha=0.4)
        axis.set(title=name, xlabel="expected Dice", ylabel="true Dice", xlim=(0, 1), ylim=(0, 1))
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("table", type=Path, metavar="TABLE", help="CSV of `tomoseg calibrate --table`")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw the expected and the true Dice")
    options = parser.parse_args()
    results = read_table(options.table)
    confidence = fit_confidence(results, [], TEMPERATURES)
    temperature = TEMPERATURES.index(confidence.temperature)
    rows, drawn = [], dict[str, Fitted]()
    for name in confidence.labels:
        own = [one for one in results if one.label == name]
        fitted = fit_label(own, temperature)
        assert fitted is not None
        found = [one for one in own if one.sums[temperature, 0] > 0]
        clean = np.array([one.copy == CLEAN for one in found])
        rows.append(describe(name, found, fitted, np.ones(len(found), bool)))
        rows += [
            describe(f"{name}, {kind}", found, fitted, part) for kind, part in (("clean", clean), ("corrupted", ~clean))
        ]
        drawn[name] = fitted
    print_line(f"temperature {confidence.temperature:g}")
    print_line("")
    for row in (COLUMNS, ["---"] * len(COLUMNS), *rows):
        print_line(f"| {' | '.join(row)} |")
    if options.plot is not None:
        draw(options.plot, drawn)


if __name__ == "__main__":
    main()
