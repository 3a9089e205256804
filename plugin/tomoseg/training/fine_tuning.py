"""A bundle trained further, by its own train config, on a few cases."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.planned import TrainEntry
from tomoseg.bundle.trust import require_trusted
from tomoseg.core.errors import BundleError, UsageError, errors_as
from tomoseg.core.files import require_regular
from tomoseg.inference.config import InferenceConfig, literal
from tomoseg.inference.threads import use_threads
from tomoseg.training.history import Row
from tomoseg.training.monitor import TrainingMonitor
from tomoseg.training.options import TrainingOptions
from tomoseg.training.session import LAST, TrainingSession
from tomoseg.training.state import TrainingState
from tomoseg.training.workflow import TrainingWorkflow, read_train_config

State = dict[str, torch.Tensor]
Pair = tuple[Path, Path]  # an image and its label map, which has the values of the bundle's own channels


@dataclass(frozen=True)
class FineTuningOptions:
    """How long and how fast to train; all the rest is the bundle's.

    Attributes:
        epochs: number of epochs, at least 1.
        learning_rate_scale: factor of the bundle's learning rate: the full one would soon forget the earlier training.
        device: "cpu", "cuda" or "cuda:N".

    Raises:
        UsageError: a value is out of range.
    """

    epochs: int
    learning_rate_scale: float
    device: str

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise UsageError(f"max_epochs: expected at least 1, got {self.epochs}")
        if not 0 < self.learning_rate_scale <= 10:
            raise UsageError(f"learning_rate_scale: expected above 0 and up to 10, got {self.learning_rate_scale}")


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        epoch, epochs: those done, and all.
        loss: mean over the last epoch.
    """

    epoch: int
    epochs: int
    loss: float


def fine_tune(
    bundle: Bundle,
    cases: Sequence[Pair],
    start: Path | None,
    recipe: FineTuningOptions,
    folder: Path,
    on_epoch: Callable[[Progress], None] = lambda _: None,
) -> State:
    """Train a copy of a bundle on cases, and return what its inference network loads.

    Args:
        bundle: the bundle; it does not change.
        cases: to train on.
        start: weights to start from; None for new ones.
        recipe: how long and how fast.
        folder: for the copy and all that it writes; left for the caller to remove.
        on_epoch: called after each epoch.

    Raises:
        BundleError: the bundle has no train config, its config fails, or the trained weights do not fit its network.
        MemoryLimitError: memory ran out.
        TrainingError: the loss is not finite any more.
    """
    use_threads(None)
    require_trusted(bundle)
    read_train_config(bundle)  # its errors name the bundle, not its copy
    copy = folder / "bundle"
    shutil.copytree(bundle.root, copy, ignore=shutil.ignore_patterns("train", "eval", "docs", ".git"))
    inference = InferenceConfig(bundle)
    wanted = list(inference.build_network().state_dict())
    begin = None if start is None else inference.load_network(start).state_dict()
    with errors_as(BundleError, f"bundle {bundle.name}: training failed", BundleError):
        options = TrainingOptions(device=recipe.device)
        workflow = TrainingWorkflow(replace(bundle, root=copy, trusted=True), folder, options, len(cases))
        workflow.use_cases(cases)
        _override(workflow.parser, recipe, folder)
        workflow.build()
        if begin is not None:
            workflow.network.load_state_dict(begin, strict=False)  # without the heads for deep supervision
        weights = _train(workflow, folder / "training", on_epoch)
    missing = [name for name in wanted if name not in weights]
    if missing:
        raise BundleError(f"the trained network lacks {missing[0]!r}, which the bundle's inference network has")
    return {name: weights[name] for name in wanted}


class _Reporter(TrainingMonitor):
    """Hands each epoch on and shows nothing."""

    def __init__(self, on_epoch: Callable[[Progress], None]) -> None:
        super().__init__("", hidden=True)
        self._on_epoch = on_epoch

    def finish_epoch(self, row: Row, epochs: int) -> None:
        self._on_epoch(Progress(int(row["epoch"]), epochs, row["loss"]))


def _train(workflow: TrainingWorkflow, folder: Path, on_epoch: Callable[[Progress], None]) -> State:
    """Run a workflow; return the last weights."""
    folder.mkdir()
    with _Reporter(on_epoch) as monitor:
        advice = "train with a smaller learning_rate_scale"
        with closing(TrainingSession(workflow, folder, TrainingState({}), monitor, advice)):
            workflow.run()
    workflow.close()
    found: State = torch.load(require_regular(folder / LAST), map_location="cpu", weights_only=True)
    return found


def _override(parser: ConfigParser, recipe: FineTuningOptions, folder: Path) -> None:
    """Set in the config's own words for how long and how fast it trains, and where it may write."""
    if TrainEntry.CHECKPOINT_FOLDER in parser:
        parser[TrainEntry.CHECKPOINT_FOLDER] = literal(str(folder / "train"))
    if "train::trainer::max_epochs" not in parser:
        raise BundleError("train.json: expected the entry 'train::trainer::max_epochs': every MONAI bundle has it")
    _set_source(parser, "train::trainer::max_epochs", recipe.epochs)
    if recipe.learning_rate_scale != 1 and "optimizer::lr" in parser:
        rate = parser.get_parsed_content("optimizer::lr")
        parser["optimizer::lr"] = float(rate) * recipe.learning_rate_scale


def _set_source(parser: ConfigParser, key: str, value: Any) -> None:
    """Set an entry, or the entry that it refers to: schedules refer to the same."""
    current = parser[key]
    if isinstance(current, str) and current.startswith("@") and current[1:].replace("::", "").isidentifier():
        _set_source(parser, current[1:], value)
    else:
        parser[key] = value
