"""Compare ways to train on the same cases by their Dice on the same other cases."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.registry import find_bundle
from tomoseg.bundle.trust import record
from tomoseg.data.datasets import read_dataset
from tomoseg.data.inspection.training_checks import require_trainable
from tomoseg.inference.segmenter import Segmenter
from tomoseg.planning.bundle_writer import plan
from tomoseg.planning.options import PlanningOptions
from tomoseg.planning.presets import PresetName
from tomoseg.training.options import VALIDATION_FOLD, TrainingOptions
from tomoseg.training.session import STATE
from tomoseg.training.training import train
from tomoseg.training.unlabelled import check_unlabelled
from tomoseg.training.validation_dice import DiceMeter

RESAMPLES = 10_000
QUICK_MM, QUICK_WINDOW, QUICK_FILTERS = [2.0, 2.0, 2.0], [24, 32, 24], [8, 16, 32, 64]

Case = dict[str, Any]  # as dataset.json lists it


@dataclass(frozen=True)
class Way:
    """How a network is trained.

    Attributes:
        name: its name in the table.
        dataset: its labelled dataset, with the cases that are scored as its validation.
        unlabelled: folder of scans without label map.
    """

    name: str
    dataset: Path
    unlabelled: Path | None = None


@dataclass(frozen=True)
class Training:
    """Length of the trainings and their networks, the same for all ways.

    Attributes:
        epochs: of 100 steps.
        preset: of `tomoseg plan`.
        memory: for it, bytes.
        quick: a network of a few features at 2 mm; the numbers only show that everything runs.
    """

    epochs: int
    preset: PresetName
    memory: int = 8 * 10**9
    quick: bool = False


def make_parser(doc: str | None, seeds: int) -> argparse.ArgumentParser:
    """Return a parser of what all comparisons understand.

    Args:
        doc: of the script.
        seeds: default number of seeds.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--seeds", type=int, default=seeds, help="of the choice of cases and of the training")
    parser.add_argument("--epochs", type=int, default=40, help="of 100 steps")
    parser.add_argument("--preset", default="small", help="of tomoseg plan")
    parser.add_argument("--quick", action="store_true", help="a tiny network at 2 mm, to see that everything runs")
    parser.add_argument("--folder", type=Path, help="for bundles and checkpoints, to go on after a stop")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="that torch may use")
    parser.add_argument("--json", type=Path, help="write all numbers there, too")
    return parser


def compare(options: argparse.Namespace, labels: Sequence[str], ways: Callable[[int, Path], list[Way]]) -> None:
    """Train each way with each seed, and print a table of what came of it.

    Args:
        options: of `make_parser`.
        labels: their names.
        ways: returns the ways for a seed, with datasets in a folder; the first is what the others are compared with.
    """
    begin = time.perf_counter()
    torch.set_num_threads(options.threads)
    training = Training(options.epochs, options.preset, quick=options.quick)
    scores: dict[str, list[list[list[float]]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(options.seeds):
            place = (options.folder or Path(scratch)) / f"seed_{seed}"
            for number, way in enumerate(ways(seed, place)):
                start = time.perf_counter()
                dice = train_and_score(way, training, seed, place / f"way_{number}")
                scores.setdefault(way.name, []).append(dice.tolist())
                print(f"seed {seed}, {way.name}: {dice.mean():.4f}, {time.perf_counter() - start:.0f} s", flush=True)
    if options.json:
        reported = {"labels": list(labels), "epochs": options.epochs, "preset": options.preset, "quick": options.quick}
        options.json.write_text(json.dumps(reported | {"dice": scores}, indent=1) + "\n")
    print("\n".join(tabulate({name: np.array(found) for name, found in scores.items()}, labels)))
    print(f"{time.perf_counter() - begin:.0f} s")


def read_cases(source: Path, fold: int = 0) -> tuple[list[Case], list[Case]]:
    """Return the cases that a fold of `splits.json` trains on, and those that it holds out.

    Args:
        source: a dataset of the Decathlon.
        fold: which.
    """
    description = json.loads((source / "dataset.json").read_text())
    held_out = set(json.loads((source / "splits.json").read_text())[fold]["val"])
    cases = sorted(description["training"], key=lambda case: str(case["image"]))
    names = [Path(case["image"]).name.removesuffix(".nii.gz") for case in cases]
    training = [case for case, name in zip(cases, names, strict=True) if name not in held_out]
    return training, [case for case, name in zip(cases, names, strict=True) if name in held_out]


def write_dataset(
    folder: Path,
    source: Path,
    training: Sequence[Case],
    validation: Sequence[Case],
    labels: dict[str, str] | None = None,
) -> Path:
    """Write a dataset of links to some cases of another one; return its folder.

    Args:
        folder: of the new one.
        source: the other one.
        training: cases for training; `annotated` and `label` may differ from the source's. A path in `label` that is in
            the folder does not change.
        validation: cases for validation, likewise.
        labels: names by value, if they are not the source's.
    """
    for case in (*training, *validation):
        for key in ("image", "label"):
            target = folder / case[key]
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.symlink_to((source / case[key]).resolve())
    description = json.loads((source / "dataset.json").read_text())
    description |= {"training": list(training), "validation": list(validation), "test": []}
    if labels is not None:
        description["labels"] = labels
    (folder / "dataset.json").write_text(json.dumps(description, indent=1))
    return folder


def train_and_score(way: Way, training: Training, seed: int, folder: Path) -> NDArray[np.float64]:
    """Plan a bundle, train it, and return the Dice on the validation cases, (cases, labels).

    Args:
        way: on what.
        training: how long.
        seed: of the training.
        folder: for bundle and checkpoints; a training that was stopped there goes on.

    Raises:
        UsageError: it was another training.
    """
    shutil.rmtree(folder / "bundle", ignore_errors=True)
    plan(way.dataset, folder / "bundle", PlanningOptions(training.memory, "cpu", training.preset))
    if training.quick:
        _shrink(folder / "bundle")
    bundle, dataset = find_bundle(folder / "bundle"), require_trainable(read_dataset(way.dataset))
    scans = () if way.unlabelled is None else check_unlabelled(way.unlabelled, dataset).scans
    options = TrainingOptions(
        fold=VALIDATION_FOLD,
        epochs=training.epochs,
        seed=seed,
        device="cpu",
        unlabelled=scans,
        resume=(folder / "train" / STATE).exists(),
    )
    weights = train(bundle, dataset, options, folder / "train", hidden=True).weights
    return score(bundle, weights, way.dataset)


def score(bundle: Bundle, weights: Path, data: Path) -> NDArray[np.float64]:
    """Return the Dice of a network on the validation cases of a dataset, in their own grids, (cases, labels)."""
    dataset = require_trainable(read_dataset(data))
    meter = DiceMeter(bundle, dataset)
    segmenter = Segmenter(bundle, RunOptions(device="cpu", backend="torch", checkpoints=(str(weights),)))
    pairs = [pair for pair in dataset.pairs if pair.part == "validation"]
    return np.array([meter.measure(segmenter(pair.image).labels, pair)[0] for pair in pairs])


def interval(dice: NDArray[np.float64]) -> tuple[float, float, float]:
    """Return mean and bootstrap 95 % interval of a score, (seeds, cases); seeds and cases are drawn, both.

    All scores draw the same cases, so that the interval of a difference is the paired one.
    """
    random = np.random.default_rng(0)
    seeds, cases = dice.shape
    drawn = [
        dice[np.ix_(random.integers(seeds, size=seeds), random.integers(cases, size=cases))].mean()
        for _ in range(RESAMPLES)
    ]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return float(dice.mean()), float(low), float(high)


def tabulate(results: dict[str, NDArray[np.float64]], labels: Sequence[str]) -> list[str]:
    """Return a table in Markdown: the Dice of each way, and its difference from the first.

    Args:
        results: Dice by the name of the way, (seeds, cases, labels).
        labels: their names.
    """
    first = next(iter(results))
    columns = ["mean", *labels]
    lines = [f"| | {' | '.join(columns)} | minus {first} |", "|" + "---|" * (len(columns) + 2)]
    for name, dice in results.items():
        parts = [dice.mean(axis=2), *np.moveaxis(dice, 2, 0)]
        cells = ["{:.4f} ({:.4f} to {:.4f})".format(*interval(part)) for part in parts]
        gain = parts[0] - results[first].mean(axis=2)
        cells.append("" if name == first else "{:+.4f} ({:+.4f} to {:+.4f})".format(*interval(gain)))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _shrink(bundle: Path) -> None:
    """Give a planned bundle a network of a few features at 2 mm."""
    for name in ("train", "inference", "semi_supervised"):
        path = bundle / "configs" / f"{name}.json"
        config = json.loads(path.read_text())
        if "network_def" in config:
            config["network_def"]["filters"] = QUICK_FILTERS
        if name == "train":
            config |= {"patch_size": QUICK_WINDOW, "crop_size": QUICK_WINDOW}
        if name == "inference":
            config["inferer"]["roi_size"] = QUICK_WINDOW
        for step in _steps(config):
            if step.get("_target_") == "Spacingd":
                step["pixdim"] = QUICK_MM
        path.write_text(json.dumps(config))
    record(bundle)  # what `plan` wrote was trusted


def _steps(item: Any) -> list[dict[str, Any]]:
    if isinstance(item, dict):
        return [item, *(step for value in item.values() for step in _steps(value))]
    return [step for value in item for step in _steps(value)] if isinstance(item, list) else []
