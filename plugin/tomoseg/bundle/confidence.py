"""How sure a bundle's labels are: from sums over the probabilities of each label to its expected Dice."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tomoseg.bundle.measured import read_measured, save_measured

CONFIDENCE: Final = "configs/confidence.json"
RAW_TEMPERATURE: Final = 1.0
COVERED: Final = 0.9  # share of results whose Dice is not below the lower bound
LEAST_ERROR: Final = 0.02  # of a Dice; better ones count as alike
# What speaks against a label. Each makes the expected Dice smaller, never larger:
# doubt: by how much the probabilities miss the label, as log-odds; band: how wide the undecided border is, in cm;
# small, large: logarithm of the volume against that of the cases it was fitted on; rough: surface for the volume
FEATURES: Final = ("doubt", "band", "small", "large", "rough")
DIGITS: Final = 3  # of an expected Dice
SMALLEST: Final = 1e-3  # of the usual volume and of a Dice, which keeps the features finite


@dataclass(frozen=True)
class ExpectedDice:
    """The Dice that a label of a result is expected to have with what an expert would draw.

    Attributes:
        dice: the expected value; with `low` None, what the probabilities of the network say, which is often too much.
        low: the Dice is not below it in 90 % of the cases; None where the bundle was not calibrated.
        presence: probability that the scan shows the label at all; None where that was not calibrated.
    """

    dice: float
    low: float | None = None
    presence: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():  # the sums depend a little on the number of threads
            object.__setattr__(self, name, value if value is None else round(float(value), DIGITS))

    def __str__(self) -> str:
        bound = "not calibrated" if self.low is None else f"likely at least {self.low:.2f}"
        return f"{self.dice:.2f}, {bound}"


@dataclass(frozen=True)
class LabelConfidence:
    """How the sums of a label become its expected Dice.

    Attributes:
        volume_ml: median volume in clean scans.
        weights: of each of `FEATURES`, 0 or more.
        curve: points (minus the weighted sum of the features, expected Dice), both rising.
        spread: the lower bound's distance from 1 is that of the expected Dice times this.
        presence: points (logarithm of the probabilities' sum in mL, probability that the label is there), both rising;
            none where all cases had the label.
        found_when_missing: share of the results without the label whose scan has it.
        cases, results: number of patients, and of results with the corrupted copies, that it was fitted on.
        pearson, error: correlation of expected and true Dice, and mean absolute difference, both of patients that were
            left out.
    """

    volume_ml: float
    weights: tuple[float, ...]
    curve: tuple[tuple[float, float], ...]
    spread: float
    presence: tuple[tuple[float, float], ...]
    found_when_missing: float
    cases: int
    results: int
    pearson: float
    error: float

    def expect(self, sums: NDArray[np.float64]) -> ExpectedDice | None:
        """Return the expected Dice for sums (5,); None for a label that is neither found nor, likely, missed."""
        presence = _at(self.presence, np.log(sums[2] + SMALLEST * self.volume_ml)) if self.presence else None
        if not sums[0]:
            return ExpectedDice(0.0, 0.0, presence) if self.found_when_missing >= 0.5 else None
        dice = _at(self.curve, -float(describe_sums(sums, self.volume_ml) @ self.weights))
        return ExpectedDice(dice, lower_bound(dice, self.spread), presence)


@dataclass(frozen=True)
class Confidence:
    """The contents of `configs/confidence.json`.

    Attributes:
        checkpoints: SHA-256 of each file of weights that it holds for.
        temperature: what the logits are divided by before the probabilities are summed.
        labels: by name.
    """

    checkpoints: tuple[str, ...]
    temperature: float
    labels: dict[str, LabelConfidence]

    def __post_init__(self) -> None:
        if any(len(one.weights) != len(FEATURES) or not one.curve for one in self.labels.values()):
            raise ValueError(f"expected {len(FEATURES)} weights and a curve for each label")

    def save(self, root: Path) -> None:
        """Write it into a bundle's folder, atomically.

        Raises:
            OutputError: it cannot be written.
        """
        save_measured(root / CONFIDENCE, self)


def read_confidence(root: Path, checkpoints: Collection[str]) -> Confidence | None:
    """Return how sure the bundle in a folder is with its weights; None where that was not calibrated.

    Args:
        root: the bundle's folder.
        checkpoints: SHA-256 of the files of weights in use.

    Raises:
        BundleError: the file is damaged.
    """
    found = read_measured(root / CONFIDENCE, Confidence, "Make it again with `tomoseg calibrate`")
    return found if found and set(checkpoints) <= set(found.checkpoints) else None


def describe_sums(sums: NDArray[np.float64], volume_ml: float) -> NDArray[np.float64]:
    """Return `FEATURES` (…, 5) for sums (…, 5) of a label, in mL and cm², and its usual volume in mL."""
    voxels, inside, everywhere, squares, faces = np.moveaxis(sums, -1, 0)
    least = SMALLEST * volume_ml
    soft = 2 * inside / (voxels + everywhere + least)
    doubt = np.log((1 - soft + 0.01) / (soft + 0.01))
    band = (everywhere - squares) / (faces + volume_ml ** (2 / 3) / 10)
    ratio = np.log((voxels + least) / volume_ml)
    rough = np.log1p(faces / (voxels + least) ** (2 / 3))
    return np.stack([doubt, band, np.maximum(-ratio, 0), np.maximum(ratio, 0), rough], axis=-1)


def expect_dice(
    sums: NDArray[np.float64], overlapping: bool, names: Mapping[int, str], confidence: Confidence | None
) -> dict[int, ExpectedDice]:
    """Return the expected Dice of each label by its value; of those where it is known.

    Args:
        sums: (logit, 5), in mL and cm².
        overlapping: labels may overlap, and are numbered from 1; otherwise the first logit is the background's.
        names: of the logits by their number.
        confidence: None for a bundle that was not calibrated: the Dice with the probabilities themselves.
    """
    known, found = confidence.labels if confidence else {}, dict[int, ExpectedDice]()
    for logit, row in enumerate(sums):
        label, value = known.get(names.get(logit, "")), logit + overlapping
        one = label.expect(row) if label else ExpectedDice(float(2 * row[1] / (row[0] + row[2]))) if row[0] else None
        if value and one is not None:
            found[value] = one
    return found


def lower_bound(dice: Any, spread: float) -> Any:
    """Return the Dice that 90 % of the results with an expected Dice reach."""
    return np.maximum(1 - spread * np.maximum(1 - dice, LEAST_ERROR), 0.0)


def _at(points: Collection[tuple[float, float]], place: Any) -> float:
    return float(np.interp(place, *np.transpose(list(points))))
