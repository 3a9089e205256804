"""How a bundle is trained, as a user asks for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tomoseg.core.errors import UsageError
from tomoseg.core.threads import choose_threads

EVERY_FOLD = "all"  # fold after fold
NO_FOLD = "none"  # no case is held out
VALIDATION_FOLD = "validation"  # the cases that the dataset itself keeps for validation


@dataclass(frozen=True)
class TrainingOptions:
    """How a bundle is trained; None is what the bundle's own train.json says.

    Args:
        fold: number of the fold that is held out, `NO_FOLD` or `VALIDATION_FOLD`.
        epochs: how many.
        seed: of weights, order and augmentation.
        device: "auto" (CUDA where there is one, else the CPU), "cpu", "cuda" or "cuda:N".
        init: path of weights to begin with; a run that goes on has its own, and has to have begun with these.
        resume: go on where an earlier run stopped.
        overwrite: begin anew where an earlier run has left something, and replace the bundle's weights.
        negatives: folder of scans that hold none of the labels, to be trained on as such.
        unlabelled: scans without label map to learn from, too; sound ones, see `check_unlabelled`.
        threads: as in `Options`; and at most as many processes beside it prepare batches.

    Raises:
        UsageError: a value is out of range, or two do not go together.
    """

    fold: int | str | None = None
    epochs: int | None = None
    seed: int | None = None
    device: str = "auto"
    init: str | None = None
    resume: bool = False
    overwrite: bool = False
    negatives: str | None = None
    unlabelled: tuple[Path, ...] = ()
    threads: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.fold, str) and self.fold not in (NO_FOLD, VALIDATION_FOLD):
            raise UsageError(f"fold: expected a number, {NO_FOLD} or {VALIDATION_FOLD}, got {self.fold!r}")
        if isinstance(self.fold, int) and self.fold < 0:
            raise UsageError(f"fold: expected 0 or more, got {self.fold}")
        if self.epochs is not None and self.epochs < 1:
            raise UsageError(f"epochs: expected at least 1, got {self.epochs}")
        if self.seed is not None and not 0 <= self.seed < 2**31:
            raise UsageError(f"seed: expected a number from 0 to {2**31 - 1}, got {self.seed}")
        if self.device not in ("auto", "cpu", "cuda") and not (
            self.device.startswith("cuda:") and self.device[5:].isdigit()
        ):
            raise UsageError(f"device: expected auto, cpu, cuda or cuda:N, got {self.device}")
        choose_threads(self.threads)
        if self.resume and self.overwrite:
            raise UsageError("--resume and --overwrite: choose one")


def parse_fold(text: str | None) -> int | str | None:
    """Return a fold as `TrainingOptions` has it, or `EVERY_FOLD`.

    Raises:
        UsageError: it is neither a number nor a word that is known.
    """
    if text is None or text in (EVERY_FOLD, NO_FOLD, VALIDATION_FOLD):
        return text
    if not text.isdecimal():
        raise UsageError(f"fold: expected a number, {EVERY_FOLD}, {NO_FOLD} or {VALIDATION_FOLD}, got {text!r}")
    return int(text)
