"""A bundle trained further, by its own train config, on a few cases."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow

from tomoseg.bundle.metadata import CONFIG_SUFFIXES, Bundle
from tomoseg.core.errors import BundleError, TomosegError, UsageError, one_line, root_cause
from tomoseg.inference.config import InferenceConfig, literal
from tomoseg.inference.threads import use_threads
from tomoseg.label_app.trainers.training_cases import TrainingCase

State = dict[str, torch.Tensor]
VALIDATIONS = 10  # in one training, at most


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train; all the rest is the bundle's.

    Args:
        epochs: number of epochs, at least 1.
        learning_rate_scale: times the bundle's learning rate: a whole one would soon forget what was learnt before.
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

    Args:
        epoch, epochs: those done, and all.
        loss: mean over the last epoch.
        best_metric: the bundle's own key metric on the cases held out, the best so far; None without such cases.
    """

    epoch: int
    epochs: int
    loss: float
    best_metric: float | None


def fine_tune(
    bundle: Bundle,
    cases: Sequence[TrainingCase],
    held_out: Sequence[TrainingCase],
    start: Path | None,
    recipe: Recipe,
    folder: Path,
    on_epoch: Callable[[Progress], None] = lambda _: None,
) -> State:
    """Train a copy of a bundle on cases, and return what its inference network loads.

    Args:
        bundle: the bundle; nothing in it is changed, whatever its config writes.
        cases: to train on.
        held_out: to validate on, by the bundle's own key metric; the best weights are returned. If there are none, the
            last ones are.
        start: weights to start from; None for new ones.
        recipe: how long and how fast.
        folder: for the copy and all that it writes; left for the caller to remove.
        on_epoch: called after each epoch.

    Raises:
        BundleError: the bundle has no train config, its config fails, or what it trains does not fit its network.
    """
    use_threads(None)
    workflow = _open(bundle, folder)
    parser = workflow.parser
    _override(parser, bundle, cases, held_out, recipe, folder)
    try:
        workflow.initialize()
        trainer = parser.get_parsed_content("train::trainer")
        network: torch.nn.Module = trainer.network
        expected = InferenceConfig(bundle, torch.device("cpu"), None)
        if start is not None:
            # heads for deep supervision are in no checkpoint for inference
            network.load_state_dict(expected.load_network(start).state_dict(), strict=False)
        wanted = list(expected.build_network().state_dict())
        watch = _Watch(network, wanted, recipe.epochs, on_epoch)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, watch.count_loss)
        if held_out:
            evaluator = parser.get_parsed_content("validate::evaluator")
            evaluator.add_event_handler(Events.COMPLETED, watch.keep_best)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, watch.tell)
        workflow.run()
        workflow.finalize()
    except TomosegError:
        raise
    except Exception as error:  # the config may call anything
        raise BundleError(f"bundle {bundle.name}: training failed: {one_line(root_cause(error))}") from error
    return watch.best or watch.snapshot()


class _Watch:
    """Follows a training."""

    def __init__(
        self, network: torch.nn.Module, wanted: list[str], epochs: int, on_epoch: Callable[[Progress], None]
    ) -> None:
        self.best: State | None = None
        self._network = network
        self._wanted = wanted
        self._epochs = epochs
        self._on_epoch = on_epoch
        self._losses: list[float] = []
        self._best_metric: float | None = None

    def snapshot(self) -> State:
        """Return a copy of the weights that the inference network has, too."""
        state = self._network.state_dict()
        missing = [name for name in self._wanted if name not in state]
        if missing:
            raise BundleError(f"the trained network lacks {missing[0]!r}, which the bundle's inference network has")
        return {name: state[name].detach().cpu().clone() for name in self._wanted}

    def count_loss(self, engine: Engine) -> None:
        output: Any = engine.state.output
        losses = [
            float(torch.as_tensor(one["loss"]).detach().mean())
            for one in (output if isinstance(output, list) else [output])
        ]
        if not all(math.isfinite(loss) for loss in losses):
            raise BundleError("the loss is not finite any more; train with a smaller learning_rate_scale")
        self._losses += losses

    def keep_best(self, engine: Engine) -> None:
        name = engine.state.key_metric_name
        metric = float(engine.state.metrics[name]) if name else math.nan
        if self._best_metric is None or metric > self._best_metric:
            self._best_metric = metric
            self.best = self.snapshot()

    def tell(self, engine: Engine) -> None:
        loss = sum(self._losses) / max(len(self._losses), 1)
        self._losses.clear()
        self._on_epoch(Progress(engine.state.epoch, self._epochs, loss, self._best_metric))


def find_train_config(bundle: Bundle) -> Path:
    """Return a bundle's train config.

    Raises:
        BundleError: it has none.
    """
    for suffix in CONFIG_SUFFIXES:
        path = bundle.root / "configs" / f"train{suffix}"
        if path.is_file():
            return path
    raise BundleError(f"{bundle.root}: expected configs/train.json, got none; this bundle cannot be trained")


def _open(bundle: Bundle, folder: Path) -> ConfigWorkflow:
    """Return the train workflow of a copy of the bundle, so that nothing is written into the bundle itself."""
    config = find_train_config(bundle)
    copy = folder / "bundle"
    shutil.copytree(bundle.root, copy, ignore=shutil.ignore_patterns("train", "eval", "docs", ".git"))
    try:
        return ConfigWorkflow(
            str(copy / "configs" / config.name), meta_file=str(copy / "configs" / "metadata.json"), logging_file=False,
            workflow_type="train",
        )  # fmt: skip
    except Exception as error:  # json, yaml and MONAI's own
        raise BundleError(f"{config}: cannot be read: {one_line(root_cause(error))}") from error


def _override(
    parser: ConfigParser,
    bundle: Bundle,
    cases: Sequence[TrainingCase],
    held_out: Sequence[TrainingCase],
    recipe: Recipe,
    folder: Path,
) -> None:
    """Say in the config's own words what is trained on, for how long, and where it may write."""
    parser["bundle_root"] = literal(str(folder / "bundle"))
    parser["device"] = f"$torch.device('{recipe.device}')"
    if "ckpt_dir" in parser:
        parser["ckpt_dir"] = literal(str(folder / "train"))
    for key in ("train::trainer::max_epochs", "train::dataset::data", "train::handlers"):
        if key not in parser:
            raise BundleError(f"{find_train_config(bundle)}: expected the entry {key!r}: every MONAI bundle has it")
    _set_source(parser, "train::trainer::max_epochs", recipe.epochs)
    for key in ("listed", "listed_validation"):  # of a planned bundle; the dataset that it was planned for is not here
        if key in parser:
            parser[key] = []
    if "steps" in parser:  # of an epoch of a planned bundle, whatever the number of cases; here it is each case once
        parser["steps"] = math.ceil(len(cases) / int(parser.get_parsed_content("batch_size")))
    parser["train::dataset::data"] = _datalist(cases)
    if held_out:
        parser["validate::dataset::data"] = _datalist(held_out)
        if "val_interval" in parser:
            parser["val_interval"] = max(recipe.epochs // VALIDATIONS, 1)
    else:
        handlers = parser["train::handlers"]
        parser["train::handlers"] = [one for one in handlers if not _is_validation(one)]
    if recipe.learning_rate_scale != 1 and "optimizer::lr" in parser:
        rate = parser.get_parsed_content("optimizer::lr")
        parser["optimizer::lr"] = float(rate) * recipe.learning_rate_scale


def _set_source(parser: ConfigParser, key: str, value: Any) -> None:
    """Set an entry, or what it refers to: schedules refer to the same."""
    current = parser[key]
    if isinstance(current, str) and current.startswith("@") and current[1:].replace("::", "").isidentifier():
        _set_source(parser, current[1:], value)
    else:
        parser[key] = value


def _datalist(cases: Sequence[TrainingCase]) -> list[dict[str, str]]:
    return [{"image": literal(str(case.image)), "label": literal(str(case.label))} for case in cases]


def _is_validation(handler: Any) -> bool:
    return isinstance(handler, dict) and str(handler.get("_target_", "")).endswith("ValidationHandler")
