"""What faster precisions than fp32 do to the labels of a bundle, measured on cases that its network had not seen."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tomoseg.bundle.measured import read_measured, save_measured

PRECISION: Final = "configs/precision.json"
MAX_CHANGE: Final = 0.002  # of the mean Dice of each label, up to which a precision counts as safe
MIN_DICE: Final = 0.3  # of each label in fp32; what the network does not find changes by nothing


@dataclass(frozen=True)
class MeasuredPrecision:
    """The contents of `configs/precision.json`.

    Attributes:
        weights: SHA-256 of each file of weights that the measurement holds for.
        cases: number of cases.
        dice: mean Dice of each label in fp32, by the label's name.
        change: change of these in another precision, by the precision's name.
    """

    weights: tuple[str, ...]
    cases: int
    dice: dict[str, float]
    change: dict[str, dict[str, float]]

    def save(self, root: Path) -> None:
        """Write it into a bundle's folder, atomically.

        Raises:
            OutputError: it cannot be written.
        """
        save_measured(root / PRECISION, self)


def read_precision(root: Path) -> MeasuredPrecision | None:
    """Return the measurement of the bundle in a folder; None where there is none.

    Raises:
        BundleError: the file is damaged.
    """
    return read_measured(root / PRECISION, MeasuredPrecision, "Measure it again")


def safe_precisions(root: Path, weights: Collection[str], labels: Collection[str]) -> frozenset[str]:
    """Return the precisions in which no label's mean Dice changed by more than `MAX_CHANGE`, if all were found.

    Args:
        root: the bundle's folder.
        weights: SHA-256 of the files of weights in use.
        labels: names of the bundle's labels; one that was not measured makes no precision safe.

    Raises:
        BundleError: as for `read_precision`.
    """
    measured = read_precision(root)
    if measured is None or not weights or not set(weights) <= set(measured.weights):
        return frozenset()
    if not all(measured.dice.get(label, 0.0) >= MIN_DICE for label in labels):
        return frozenset()
    return frozenset(
        name
        for name, change in measured.change.items()
        if set(labels) <= change.keys() and max(map(abs, change.values()), default=1.0) <= MAX_CHANGE
    )
