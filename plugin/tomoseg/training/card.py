"""Write the Dice of a cross-validation into the model card of a bundle."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tomoseg.bundle.card import MEASURED, replace_accuracy
from tomoseg.core.files import atomic_file, read_text
from tomoseg.core.templates import escape_markdown
from tomoseg.evaluation.bootstrap import interval, resample


def write_accuracy(
    path: Path,
    labels: Sequence[str],
    dice: Mapping[int | str | None, Sequence[Sequence[float]]],
    largest: Sequence[str],
    averaged: bool,
) -> bool:
    """Put a table of Dice into a card, in place of "Not measured yet." or of an earlier table of this kind.

    Args:
        path: of the card; a missing card, or one whose author wrote the section, does not change.
        labels: their names.
        dice: the Dice of the labels of each case, NaN where it has none, by fold.
        largest: names of the labels that the bundle cuts down to their largest component; the table is without that.
        averaged: whether the bundle has the mean of the folds' weights, and not all networks.

    Returns:
        Whether it was written.

    Raises:
        OutputError: it cannot be written.
    """
    if not path.is_file():
        return False
    section = "\n".join(_section(labels, dice, largest, averaged))
    text = replace_accuracy(read_text(path), section)
    if text is None:
        return False
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return True


def _section(
    labels: Sequence[str],
    dice: Mapping[int | str | None, Sequence[Sequence[float]]],
    largest: Sequence[str],
    averaged: bool,
) -> list[str]:
    every = np.array([case for cases in dice.values() for case in cases], dtype=np.float64)
    known = np.isfinite(every)
    draws = resample(np.where(known, every, 0.0), known.astype(np.float64))
    kind = "the mean of their weights" if averaged else "all of them, whose logits are averaged"
    lines = [
        f"{MEASURED} (`tomoseg train --fold all`); the bundle has {kind}. Dice in the scans' own",
        "grid, means with bootstrap 95 % intervals (cases drawn with replacement):",
        "",
        f"| | cases | all folds | {' | '.join(f'fold {fold}' for fold in dice)} |",
        f"|---|---|---|{'---|' * len(dice)}",
    ]
    for index, label in enumerate(labels):
        low, high = interval(draws[:, index])
        folds = [_mean([case[index] for case in cases]) for cases in dice.values()]
        cells = [
            escape_markdown(label),
            str(int(known[:, index].sum())),
            f"{_mean(every[:, index].tolist())} ({low:.4f} to {high:.4f})",
            *folds,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if largest:
        largest = list(map(escape_markdown, largest))
        lines += [
            "",
            f"The bundle keeps only the largest component of these, which raised their mean: {', '.join(largest)}.",
        ]
    return lines


def _mean(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{sum(known) / len(known):.4f}" if known else ""
