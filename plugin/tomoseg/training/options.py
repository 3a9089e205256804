"""How a bundle is trained: the options of `tomoseg train` and of Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tomoseg.bundle.options import DEVICES, device_name
from tomoseg.core.errors import UsageError
from tomoseg.core.options import Option
from tomoseg.core.threads import choose_threads

EVERY_FOLD = "all"  # fold after fold
NO_FOLD = "none"  # no case is held out
VALIDATION_FOLD = "validation"  # the cases that the dataset itself keeps for validation


@dataclass(frozen=True)
class TrainingOptions:
    """How a bundle is trained; the default of each option is what the bundle's own train.json says.

    Attributes:
        fold: hold out fold K; all folds, one after the other; no case; or those that the dataset keeps for it.
        epochs: number of epochs.
        seed: seed of weights, order and augmentation.
        device: where the bundle is trained; auto is the first GPU that CUDA has, else the CPU.
        init: weights to begin with; a run that goes on has its own, and has to have begun with these.
        resume: go on where an earlier run was stopped.
        overwrite: begin from the start, and replace the bundle's weights in the end.
        map_labels: the bundle's name of each label value of the dataset, such as 2=anterior,1=posterior, where names
            differ; values left out are background.
        negatives: folder of NIfTI scans that hold none of the labels, for one window in eight.
        unlabelled: scans without label map to learn from, too; sound ones, see `check_unlabelled`.
        threads: threads of the process, and at most as many processes beside it that prepare batches; by default
            OMP_NUM_THREADS, else the cores that it may use.

    Raises:
        UsageError: a value is out of range, or two do not go together.

    Example:
        >>> import tomoseg
        >>> tomoseg.TrainingOptions(fold=0, epochs=2, device="cpu").fold
        0
    """

    fold: Annotated[int | str | None, Option(f"K|{EVERY_FOLD}|{NO_FOLD}|{VALIDATION_FOLD}")] = None
    epochs: Annotated[int | None, Option("N")] = None
    seed: Annotated[int | None, Option("N")] = None
    device: Annotated[str, Option(DEVICES)] = "auto"
    init: Annotated[str | None, Option("WEIGHTS")] = None
    resume: bool = False
    overwrite: bool = False
    map_labels: Annotated[str | None, Option("VALUE=NAME,…")] = None
    negatives: Annotated[str | None, Option("FOLDER")] = None
    unlabelled: Annotated[tuple[Path, ...], Option(hidden=True)] = ()
    threads: Annotated[int | None, Option("N")] = None

    def __post_init__(self) -> None:
        if isinstance(self.fold, str) and self.fold not in (EVERY_FOLD, NO_FOLD, VALIDATION_FOLD):
            raise UsageError(
                f"fold: expected a number, {EVERY_FOLD}, {NO_FOLD} or {VALIDATION_FOLD}, got {self.fold!r}"
            )
        if isinstance(self.fold, int) and self.fold < 0:
            raise UsageError(f"fold: expected 0 or more, got {self.fold}")
        if self.epochs is not None and self.epochs < 1:
            raise UsageError(f"epochs: expected at least 1, got {self.epochs}")
        if self.seed is not None and not 0 <= self.seed < 2**31:
            raise UsageError(f"seed: expected a number from 0 to {2**31 - 1}, got {self.seed}")
        object.__setattr__(self, "device", device_name(self.device))
        choose_threads(self.threads)
        if self.resume and self.overwrite:
            raise UsageError("--resume and --overwrite: choose one")
