"""Cross-validation: predict each case by a network that did not see it, and combine the networks."""

import gc
import json
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from tomoseg.bundle.configs import Json, write_config
from tomoseg.bundle.ensemble import KEEP_LARGEST, ensemble_config, keep_components, single_config
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.trust import changed_by_us
from tomoseg.core.errors import BundleError, MissingPackageError, TrainingError, UsageError, errors_as
from tomoseg.core.files import copy_file, read_text
from tomoseg.core.json_files import write_json
from tomoseg.core.tables import write_csv
from tomoseg.data.datasets import Dataset, Pair
from tomoseg.inference.checkpoints import read_weights, save_weights
from tomoseg.inference.segmenter import Segmenter
from tomoseg.training.calibration import save_confidence
from tomoseg.training.card import write_accuracy
from tomoseg.training.monitor import TrainingMonitor
from tomoseg.training.options import EVERY_FOLD, TrainingOptions
from tomoseg.training.precision import save_precision
from tomoseg.training.training import Trained, train
from tomoseg.training.validation_dice import DiceMeter, mean_of_labels
from tomoseg.training.workflow import world_size

MIN_DICE_GAIN = 0.0005  # of a label's mean Dice, from which it is cut down to its largest component; less is chance
MAX_COMPARED_CASES = 20  # evenly spread cases, on which the mean of the weights is compared with that of the logits


@dataclass(frozen=True)
class CrossValidation:
    """What all folds gave.

    Attributes:
        folder: with `predictions/`, `scores.csv` and `summary.json`.
        cases: number of cases that were predicted by a network that had not seen them.
        labels: names by value.
        dice: mean of each label, as the network gives it.
        largest: labels that are cut down to their largest component, with their mean Dice then.
        averaged: whether the bundle has the mean of the weights, and not all of them.
        installed: whether the bundle was changed at all.
    """

    folder: Path
    cases: int
    labels: dict[int, str]
    dice: tuple[float, ...]
    largest: dict[int, float]
    averaged: bool
    installed: bool

    @property
    def lines(self) -> list[str]:
        """Results to print, one line each."""
        named = [f"{name} {value:.4f}" for name, value in zip(self.labels.values(), self.dice, strict=True)]
        reported = [f"{self.folder}: {self.cases} cases, each predicted by a network that had not seen it"]
        reported.append(f"mean Dice: {', '.join(named)}")
        reported += [
            f"{self.labels[label]}: largest component only, {value:.4f}" for label, value in self.largest.items()
        ]
        if not self.installed:
            return [*reported, "the bundle's own weights are kept as they were; replace them with --overwrite"]
        return [
            *reported,
            f"the bundle has {'the mean of the weights' if self.averaged else 'all networks'} of the folds",
        ]


def cross_validate(
    bundle: Bundle,
    dataset: Dataset,
    options: TrainingOptions,
    folder: Path,
    hidden: bool = False,
    negatives: Sequence[Path] = (),
    on_warning: Callable[[str], None] | None = None,
) -> CrossValidation:
    """Train every fold, predict what each held out, choose the post-processing, and put the networks into the bundle.

    Args:
        bundle: the bundle; its inference.json is changed.
        dataset: a sound one.
        options: how; the fold is left out.
        folder: with a folder for each fold, and `cross_validation/`.
        hidden: show nothing.
        negatives: as `train` takes them.
        on_warning: called with each warning on a split.

    Raises:
        BundleError: the bundle has no folds, or no inference.json such as `tomoseg plan` writes.
        MissingPackageError: scikit-image is missing, with which MONAI finds components.
        TrainingError, UsageError, OutputError: as `train`.
    """
    if world_size() > 1:
        raise UsageError(f"--fold {EVERY_FOLD}: runs in one process; with torchrun train one fold after the other")
    if not dataset.has_scans:
        raise UsageError(
            f"--fold {EVERY_FOLD}: scores scans, and {dataset.root} has none. Train one fold after the other"
        )
    if find_spec("skimage") is None:
        raise MissingPackageError("scikit-image", "train")
    config = keep_components(single_config(read_inference(bundle)), [])
    folds: list[Trained] = []
    while not folds or len(folds) < folds[0].folds:
        one = replace(options, fold=len(folds))
        place = folder / f"fold_{one.fold}"
        folds.append(train(bundle, dataset, one, place, hidden, negatives, every_fold=True, on_warning=on_warning))
        gc.collect()  # the cached cases of one fold need not wait for the next one
    if folds[0].folds < 2:
        raise BundleError(f"{bundle.root}: train.json has no folds. Choose one training with --fold none")
    meter = DiceMeter(bundle, dataset)
    target = folder / "cross_validation"
    weights = [fold.weights for fold in folds]
    average_weights(weights, target / "average.pt")
    run = RunOptions(device=options.device, threads=options.threads)
    pairs = [pair for fold in folds for pair in fold.held_out]
    pairs = pairs[:: math.ceil(len(pairs) / MAX_COMPARED_CASES) or 1]
    with TemporaryDirectory() as copy:  # what an earlier run put into the bundle's config counts for nothing
        single = write_single(bundle, config, Path(copy) / bundle.root.name)
        rows = _predict_held_out(single, folds, run, target / "predictions", meter, hidden)
        together = _mean_dice(single, weights, pairs, run, meter)
        alone = _mean_dice(single, [target / "average.pt"], pairs, run, meter)
    plain = mean_of_labels([row.plain for row in rows])
    largest = mean_of_labels([row.largest for row in rows])
    compared = zip(meter.labels, plain, largest, strict=True)
    chosen = {label: after for label, before, after in compared if after > before + MIN_DICE_GAIN}
    names = list(meter.labels.values())
    _write_dice(target / "scores.csv", rows, names)
    installed = options.overwrite or not (bundle.root / "models" / "model.pt").exists()
    averaged = alone >= together
    if installed:
        with changed_by_us(bundle):
            _install(bundle, keep_components(config, list(chosen)), folds, target / "average.pt", averaged)
            if chosen:
                _require(bundle, "scikit-image")  # MONAI finds components with it
        scores = {fold.fold: [row.plain for row in rows if row.fold == fold.fold] for fold in folds}
        largest_only = [meter.labels[label] for label in chosen]
        write_accuracy(bundle.root / "docs" / "README.md", names, scores, largest_only, averaged)
        held_out = [((fold.weights,), pair) for fold in folds for pair in fold.held_out]
        files = [target / "average.pt"] if averaged else weights
        save_precision(bundle, dataset, held_out, files, options, hidden)
        save_confidence(bundle, dataset, held_out, files, options, hidden)
    result = CrossValidation(target, len(rows), meter.labels, tuple(plain), chosen, averaged, installed)
    _write_summary(target / "summary.json", result, folds, rows, together, alone)
    return result


@dataclass(frozen=True)
class _Row:
    case: str
    fold: int | str | None
    plain: list[float]
    largest: list[float]


def _predict_held_out(
    bundle: Bundle,
    folds: Sequence[Trained],
    options: RunOptions,
    folder: Path,
    meter: DiceMeter,
    hidden: bool,
) -> list[_Row]:
    rows: list[_Row] = []
    with TrainingMonitor("cases held out", hidden) as monitor:
        monitor.begin(0, 1, sum(len(fold.held_out) for fold in folds))
        for fold in folds:
            segmenter = Segmenter(bundle, replace(options, checkpoints=(str(fold.weights),)))
            for pair in fold.held_out:
                result = segmenter(pair.source)
                result.save(folder / f"{pair.name}.nii.gz")
                rows.append(_Row(pair.name, fold.fold, *meter.measure(result.labels, pair)))
                monitor.step(len(rows), 1, 1)
    return rows


def _mean_dice(
    bundle: Bundle, weights: Sequence[Path], pairs: Sequence[Pair], options: RunOptions, meter: DiceMeter
) -> float:
    """Return the mean over the labels of the mean Dice over the cases.

    Every case was seen by all folds but one, so this compares, and measures nothing.
    """
    segmenter = Segmenter(bundle, replace(options, checkpoints=tuple(map(str, weights))))
    means = mean_of_labels([meter.measure(segmenter(pair.source).labels, pair)[0] for pair in pairs])
    known = [mean for mean in means if not math.isnan(mean)]
    if not known:
        raise TrainingError(f"{bundle.root}: none of the cases held out has a label, so nothing can be compared")
    return sum(known) / len(known)


def _install(bundle: Bundle, config: dict[str, Any], folds: Sequence[Trained], average: Path, averaged: bool) -> None:
    """Put weights and config into the bundle, the config last, so that it never names a file that is not there."""
    models = bundle.root / "models"
    names = [] if averaged else [f"fold_{fold.fold}.pt" for fold in folds]
    sources = [fold.weights for fold in folds]
    # what exports one network, and what evaluate.json scores
    for source, name in [(average if averaged else sources[0], "model.pt"), *zip(sources, names, strict=False)]:
        copy_file(source, models / name)
    evaluate = bundle.root / "configs" / "evaluate.json"
    if averaged and evaluate.is_file():  # it scores one network, and would not know what became of several
        kept = next((step for step in config["postprocessing"]["transforms"] if step["_target_"] == KEEP_LARGEST), None)
        labels = [] if kept is None else kept["applied_labels"]
        write_config(evaluate, keep_components(json.loads(read_text(evaluate)), labels))
    write_config(bundle.inference_config, ensemble_config(config, names) if names else config)


def _require(bundle: Bundle, package: str) -> None:
    """Name a package among those that the bundle needs."""
    content = json.loads(read_text(bundle.metadata_file))
    content.setdefault("required_packages_version", {})[package] = version(package)
    write_config(bundle.metadata_file, content)


def _write_dice(path: Path, rows: Sequence[_Row], labels: Sequence[str]) -> None:
    columns = ["case", "fold", *labels, *(f"{label}_largest_component" for label in labels)]
    dice = [["" if math.isnan(value) else f"{value:.6f}" for value in (*row.plain, *row.largest)] for row in rows]
    write_csv(path, columns, ([row.case, row.fold, *cells] for row, cells in zip(rows, dice, strict=True)))


def _write_summary(
    path: Path, result: CrossValidation, folds: Sequence[Trained], rows: Sequence[_Row], together: float, alone: float
) -> None:
    def by_name(dice: Sequence[float]) -> dict[str, float | None]:
        defined = (None if math.isnan(value) else value for value in dice)
        return dict(zip(result.labels.values(), defined, strict=True))

    def mean_dice(fold: Trained) -> dict[str, float | None]:
        return by_name(mean_of_labels([row.plain for row in rows if row.fold == fold.fold]))

    content = {
        "cases": result.cases,
        "mean_dice": by_name(result.dice),
        "folds": [{"fold": fold.fold, "epochs": fold.epochs, "mean_dice": mean_dice(fold)} for fold in folds],
        "largest_component_only": {result.labels[label]: value for label, value in result.largest.items()},
        "compared_on_seen_cases": {"mean_of_logits": together, "mean_of_weights": alone},
        "averaged_weights": result.averaged,
    }
    write_json(path, content)


def average_weights(checkpoints: Sequence[Path], target: Path) -> None:
    """Write the mean of the weights of several checkpoints.

    Raises:
        BundleError: one cannot be read.
        OutputError: the mean cannot be written.
    """
    several = [read_weights(path, "model") for path in checkpoints]
    mean = {
        name: torch.stack([weights[name].double() for weights in several]).mean(dim=0).to(tensor.dtype)
        for name, tensor in several[0].items()
    }
    save_weights(target, mean)


def write_single(bundle: Bundle, config: Json, folder: Path) -> Bundle:
    """Write a bundle's configs with another inference config; return that bundle, which has no weights of its own.

    Args:
        bundle: the bundle.
        config: of its inference.
        folder: a new one.
    """
    shutil.copytree(bundle.root / "configs", folder / "configs")
    single = Bundle(bundle.name, folder, trusted=True)  # as the bundle is, which was trained just now
    write_config(single.inference_config, config)
    return single


def read_inference(bundle: Bundle) -> Json:
    """Return a bundle's inference.json.

    Raises:
        BundleError: it is missing, no JSON, or not such as `tomoseg plan` writes.
    """
    path = bundle.inference_config
    expected = f"{path}: expected a JSON config such as `tomoseg plan` writes"
    remedy = "; so the folds cannot be put into it"
    with errors_as(BundleError, expected, OSError, ValueError, KeyError, TypeError, remedy=remedy):
        config: Json = json.loads(read_text(path))
        targets = [step["_target_"] for step in config["postprocessing"]["transforms"]]
        if "AsDiscreted" not in targets or "network_def" not in config or "evaluator" not in config:
            raise KeyError("AsDiscreted, network_def, evaluator")
    return config
