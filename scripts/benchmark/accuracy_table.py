#!/usr/bin/env python3
"""Write the table of an evaluation into a model card: `scripts/benchmark/accuracy_table.py EVALUATION CARD`.

EVALUATION is what `tomoseg evaluate` wrote; `replace_table` says where the table goes. Run it with a Python that has
tomoseg, e.g. `.venv/bin/python`.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from card_tables import replace_table

Row = dict[str, str]


def make_table(evaluation: Path) -> str:
    """Return a table in Markdown: a row a label, means with their 95 % bootstrap intervals, and medians.

    Args:
        evaluation: a folder with `summary.csv` and `evaluation.json`.
    """
    with (evaluation / "summary.csv").open(newline="", encoding="utf-8") as file:
        rows = {(row["name"], row["metric"]): row for row in csv.DictReader(file)}
    config = json.loads((evaluation / "evaluation.json").read_text("utf-8"))["config"]
    lines = [
        f"| | cases | Dice | median | HD95 (mm) | median | NSD at {config['tolerance_mm']:g} mm |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in dict.fromkeys(name for name, _ in rows):
        dice, hd95, nsd = (rows[name, metric] for metric in ("dice", "hd95_mm", "nsd"))
        cells = [
            name.replace("_", " "), dice["cases"] if dice["label"] != "0" else "",
            estimate(dice, 3), number(dice["median"], 3), estimate(hd95, 1), number(hd95["median"], 1),
            estimate(nsd, 3),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def estimate(row: Row, decimals: int) -> str:
    found = [number(row[key], decimals) for key in ("mean", "low", "high")]
    text = f"{found[0]} ({found[1]} to {found[2]})"
    return f"{text}, {row['infinite']} infinite" if row["infinite"] not in ("", "0") else text


def number(text: str, decimals: int) -> str:
    return f"{float(text):.{decimals}f}" if text else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("evaluation", type=Path, metavar="EVALUATION", help="folder of `tomoseg evaluate`")
    parser.add_argument("card", type=Path, metavar="CARD", help="model card, changed in place")
    options = parser.parse_args()
    replace_table(options.card, "accuracy", Path(__file__).name, make_table(options.evaluation))


if __name__ == "__main__":
    main()
