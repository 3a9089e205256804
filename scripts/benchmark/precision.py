#!/usr/bin/env python3
"""Measure a bundle's precisions on cases held out: `scripts/benchmark/precision.py BUNDLE DATASET FOLD`.

FOLD is a number in the dataset's `splits.json`, or `validation` for the cases that `dataset.json` keeps for it. The
weights are the bundle's, or with --checkpoint those of the fold, for a bundle whose own weights saw all cases. int8 is
measured where `tomoseg export --format openvino-int8` put it beside these weights. The result goes into the bundle's
`configs/precision.json`, and a table of it into the card. Run it with a Python that has tomoseg.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from card_tables import publish_table
from tomoseg import find_bundle
from tomoseg.bundle.metadata import Bundle
from tomoseg.core.notes import print_line
from tomoseg.data.datasets import Dataset, Pair, read_dataset
from tomoseg.data.inspection.training_checks import require_trainable
from tomoseg.data.splits import read_splits
from tomoseg.inference.backends.int8_network import int8_path
from tomoseg.training.precision import measure_precision


def held_out(dataset: Dataset, fold: str) -> list[Pair]:
    """Return the cases that a fold holds out."""
    if fold == "validation":
        return [pair for pair in dataset.pairs if pair.part == fold]
    names = read_splits(dataset.root)[int(fold)]["val"]
    return [pair for pair in dataset.pairs if pair.name in names]


def read_arguments(doc: str) -> tuple[Bundle, Dataset, list[Pair], Path | None]:
    """Return bundle, dataset, cases held out, and the weights that did not see them if others than the bundle's."""
    parser = argparse.ArgumentParser(description=doc.partition(":")[0])
    parser.add_argument("bundle", metavar="BUNDLE", help="name or folder")
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="labelled dataset")
    parser.add_argument("fold", metavar="FOLD", help="number, or validation")
    parser.add_argument("--checkpoint", type=Path, help="weights that did not see the fold")
    options = parser.parse_args()
    dataset = require_trainable(read_dataset(options.dataset))
    return find_bundle(options.bundle), dataset, held_out(dataset, options.fold), options.checkpoint


def main() -> None:
    bundle, dataset, pairs, checkpoint = read_arguments(__doc__ or "")
    own = bundle.root / "models" / "model.pt"
    cases = [((checkpoint or own,), pair) for pair in pairs]
    shipped = [path for path in (own, int8_path(own)) if path.is_file()]
    measured = measure_precision(bundle, dataset, cases, shipped, limit=len(cases), on_case=print_line)
    measured.save(bundle.root)
    names = list(measured.change)
    table = [f"| label | Dice in fp32 | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for label, dice in measured.dice.items():
        changes = " | ".join(f"{round(measured.change[name][label], 4) + 0.0:+.4f}" for name in names)  # no -0
        table.append(f"| {label.replace('_', ' ')} | {dice:.4f} | {changes} |")
    publish_table(bundle.root, "precision", Path(__file__).name, table)


if __name__ == "__main__":
    main()
