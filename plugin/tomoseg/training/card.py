"""Write the Dice of a cross-validation into the model card of a bundle."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tomoseg.bundle.card import MEASURED, replace_accuracy
from tomoseg.core.files import atomic_file, read_text
from tomoseg.core.templates import make_environment
from tomoseg.evaluation.bootstrap import interval, resample
from tomoseg.training.validation_dice import mean_of_labels

TEMPLATES = make_environment(Path(__file__).parent / "templates")


def write_accuracy(
    path: Path,
    labels: Sequence[str],
    dice: Mapping[int | str | None, Sequence[Sequence[float]]],
    largest: Sequence[str],
    averaged: bool,
) -> None:
    """Put a table of Dice into a card, in place of "Not measured yet." or of an earlier table of this kind.

    Args:
        path: of the card; a missing card, or one whose author wrote the section, does not change.
        labels: their names.
        dice: the Dice of the labels of each case, NaN where it has none, by fold.
        largest: names of the labels that the bundle cuts down to their largest component; the table is without that.
        averaged: whether the bundle has the mean of the folds' weights, and not all networks.

    Raises:
        OutputError: it cannot be written.
    """
    if not path.is_file():
        return
    every = np.array([case for cases in dice.values() for case in cases], dtype=np.float64)
    known = np.isfinite(every)
    draws = resample(np.where(known, every, 0.0), known.astype(np.float64))
    by_fold = zip(*map(mean_of_labels, dice.values()), strict=True)
    rows = zip(labels, known.sum(axis=0), mean_of_labels(every), map(interval, draws.T), by_fold, strict=True)
    section = TEMPLATES.get_template("accuracy.md.jinja").render(
        measured=MEASURED, folds=list(dice), rows=rows, largest=largest, averaged=averaged
    )
    text = replace_accuracy(read_text(path), section.rstrip("\n"))
    if text is not None:
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
