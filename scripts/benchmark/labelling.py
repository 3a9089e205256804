"""Simulate annotators: does choosing the most uncertain image reach a Dice with fewer labels than choosing at random?

    .venv/bin/python scripts/benchmark/labelling.py DATASET [--repeat 3] [--json FILE]

DATASET is the hippocampus task of the Medical Segmentation Decathlon. A small network at 2 mm is trained by the
bundle's own train config on a few labels, more are asked for, it is trained further, and so on; the labels that
"annotators" give are those of the dataset. All strategies start from the same labels and weights.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.registry import find_bundle
from tomoseg.data.read import read_volume
from tomoseg.inference.segmenter import Segmenter
from tomoseg.label_app.activelearning.acquisition_scores import mean_entropy
from tomoseg.label_app.activelearning.choice import choose_random, choose_uncertain
from tomoseg.label_app.trainers.training_cases import TrainingCase
from tomoseg.training.fine_tuning import FineTuningOptions, fine_tune

FILTERS = [8, 16, 32, 64]
SPACING_MM = [2.0, 2.0, 2.0]
WINDOW = [24, 32, 24]
LEARNING_RATE_SCALE = 3.0  # a small network from the start, not a large one further
STRATEGIES = ("entropy", "expected_dice", "random")


@dataclass(frozen=True)
class Design:
    """Options of the simulation.

    Attributes:
        pool, test: numbers of images to choose from, and to measure on.
        first, step, rounds: labels at the start, labels in each round, and rounds.
        first_steps, steps: of the optimiser, at the start and in each round.
    """

    pool: int = 60
    test: int = 30
    first: int = 2
    step: int = 2
    rounds: int = 6
    first_steps: int = 400  # with 200, some networks miss one of the labels, and no comparison is possible
    steps: int = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--repeat", type=int, default=3, help="with other images each time")
    parser.add_argument("--first-steps", type=int, default=Design.first_steps, help="of the optimiser, at the start")
    parser.add_argument("--json", type=Path, help="write all numbers there, too")
    options = parser.parse_args()
    design = Design(first_steps=options.first_steps)
    cases = {
        Path(entry["image"]).name.removesuffix(".nii.gz"): TrainingCase(
            options.dataset / entry["image"], options.dataset / entry["label"], Path(entry["image"]).name
        )
        for entry in json.loads((options.dataset / "dataset.json").read_text())["training"]
    }
    curves: dict[str, list[list[float]]] = {name: [] for name in STRATEGIES}
    correlations: list[float] = []
    for seed in range(options.repeat):
        with tempfile.TemporaryDirectory() as scratch:
            study = Study(design, cases, seed, Path(scratch))
            for name in STRATEGIES:
                curves[name].append(study.run(name))
                print(f"seed {seed}, {name}: {' '.join(f'{dice:.4f}' for dice in curves[name][-1])}", flush=True)
            correlations += study.correlations
    labels = [design.first + design.step * index for index in range(design.rounds)]
    print(f"\nlabels        {' '.join(f'{count:6d}' for count in labels)}")
    for name in STRATEGIES:
        means = [statistics.mean(column) for column in zip(*curves[name], strict=True)]
        print(f"{name:13} {' '.join(f'{mean:6.4f}' for mean in means)}")
    print(f"rank correlation of entropy and error on the test images: {statistics.mean(correlations):.2f}")
    if options.json:
        options.json.write_text(json.dumps({"labels": labels, "dice": curves, "correlations": correlations}, indent=2))


class Study:
    """One division into pool and test, for both strategies."""

    def __init__(self, design: Design, cases: dict[str, TrainingCase], seed: int, scratch: Path) -> None:
        self._design = design
        self._cases = cases
        self._scratch = scratch
        self._seed = seed
        self._bundle = small_bundle(scratch / "small_segmentation")
        names = random.Random(seed).sample(sorted(cases), design.pool + design.test)
        self._pool, self._test = names[: design.pool], names[design.pool :]
        self._start: tuple[Path, float] | None = None
        self.correlations: list[float] = []

    def run(self, strategy: str) -> list[float]:
        """Return the mean Dice on the test images after each round."""
        generator = random.Random(f"{strategy} {self._seed}")
        labelled = self._pool[: self._design.first]
        if self._start is None:
            weights = self._train(labelled, None, "start")
            self._start = weights, self._measure(weights)
        weights, dice = self._start
        curve = [dice]
        for index in range(1, self._design.rounds):
            candidates = [name for name in self._pool if name not in labelled]
            scores = self._score(weights, candidates, strategy) if strategy != "random" else {}
            for _ in range(self._design.step):
                left = [name for name in candidates if name not in labelled]
                random_one = strategy == "random"
                chosen = choose_random(left, generator) if random_one else choose_uncertain(left, scores, strategy)
                labelled = [*labelled, str(chosen)]
            weights = self._train(labelled, weights, f"{strategy}_{index}")
            curve.append(self._measure(weights))
        return curve

    def _train(self, labelled: list[str], start: Path | None, name: str) -> Path:
        steps = self._design.first_steps if start is None else self._design.steps
        epochs = max(steps * 2 // len(labelled), 1)  # batches of two
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            cases = [(self._cases[label].image, self._cases[label].label) for label in labelled]
            state = fine_tune(
                self._bundle, cases, start, FineTuningOptions(epochs, LEARNING_RATE_SCALE, "cpu"), Path(folder)
            )
        path = self._scratch / f"{name}.pt"
        torch.save(state, path)
        return path

    def _segmenter(self, weights: Path) -> Segmenter:
        options = RunOptions(device="cpu", backend="torch", uncertainty=True, checkpoints=(str(weights),))
        return Segmenter(self._bundle, options)

    def _score(self, weights: Path, names: list[str], by: str) -> dict[str, dict[str, float]]:
        segmenter = self._segmenter(weights)
        found = {}
        for name in names:
            volume = read_volume(self._cases[name].image)
            result = segmenter(volume)
            if by == "entropy":
                found[name] = {by: mean_entropy(result)}
            else:
                found[name] = {by: float(np.mean([one.dice for one in result.expected_dice.values()] or [0.0]))}
        return found

    def _measure(self, weights: Path) -> float:
        segmenter = self._segmenter(weights)
        entropies, values = [], []
        for name in self._test:
            result = segmenter(self._cases[name].image)
            truth = read_volume(self._cases[name].label).array
            found = [
                2 * np.sum((result.labels == label) & (truth == label))
                / max(np.sum(result.labels == label) + np.sum(truth == label), 1)
                for label in result.names
            ]  # fmt: skip
            values.append(float(np.mean(found)))
            entropies.append(mean_entropy(result))
        self.correlations.append(-float(spearmanr(entropies, values).statistic))
        return statistics.mean(values)


def small_bundle(folder: Path) -> Bundle:
    """Return a copy of the hippocampus bundle with a small network."""
    source = find_bundle("hippocampus_mr_segmentation")
    shutil.copytree(source.root, folder, ignore=shutil.ignore_patterns("train", "eval", "models", "docs"))
    (folder / "models").mkdir()
    for name in ("train", "inference"):
        path = folder / "configs" / f"{name}.json"
        config = json.loads(path.read_text())
        config["network_def"]["filters"] = FILTERS
        steps = (
            config["preprocessing"]["transforms"]
            if name == "inference"
            else config["train"]["deterministic_transforms"]
        )
        for step in steps:
            if step["_target_"] == "Spacingd":
                step["pixdim"] = SPACING_MM
        if name == "inference":
            config["inferer"]["roi_size"] = WINDOW
        else:
            config["patch_size"] = WINDOW
        path.write_text(json.dumps(config))
    return Bundle(folder.name, folder, trusted=True)


if __name__ == "__main__":
    begin = time.time()
    main()
    print(f"{time.time() - begin:.0f} s", file=sys.stderr)
