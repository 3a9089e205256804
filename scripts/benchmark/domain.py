#!/usr/bin/env python3
"""Measure which scans a bundle warns of: `scripts/benchmark/domain.py BUNDLE DATASET --unlike NAME=SCAN ...`.

Writes what the training cases of DATASET are like into the bundle (`configs/domain.json`), and a table into its card:
warnings on good scans with the ranges of other cases (those that `dataset.json` keeps for validation, else each fold of
`splits.json`), on these scans after corruptions that no bundle is to accept, and on scans of another kind (--unlike).
Run it with a Python that has tomoseg.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from card_tables import publish_table
from phantom import phantom
from tomoseg import Grid, Segmenter, find_bundle
from tomoseg.data.datasets import Dataset, Pair, read_dataset
from tomoseg.data.read import read_volume
from tomoseg.data.splits import read_splits
from tomoseg.data.volume import Volume
from tomoseg.inference.config import InferenceConfig
from tomoseg.inference.domain import Traits, compare_traits, measure_traits
from tomoseg.report.records import OutOfDomain
from tomoseg.training.domain import fit_domain, measure_domain

EVERY = 4  # held-out case that is corrupted
Array = NDArray[np.float32]


def _invert(array: Array) -> Array:
    inverted: Array = array.max() + array.min() - array
    return inverted


def _noise(array: Array) -> Array:
    return np.random.default_rng(0).normal(array.mean(), array.std(), array.shape).astype(np.float32)


CORRUPTIONS: dict[str, Callable[[Array], Array]] = {
    "upside down": lambda array: np.flip(array, 2),
    "back to front": lambda array: np.flip(array, 1),
    "turned by 180° about the left-right axis": lambda array: np.flip(array, (1, 2)),
    "inverted contrast": _invert,
    "noise of the same mean and SD": _noise,
}


def measure(segmenter: Segmenter, volume: Volume) -> Traits:
    """Return the traits of a scan as a run of the bundle sees them."""
    prepared = segmenter.prepare(volume, as_it_is=True)
    return measure_traits(prepared.image, prepared.grid)


def splits(dataset: Dataset) -> Iterator[tuple[list[Pair], list[Pair]]]:
    """Yield cases to measure, and those held out from them."""
    training = [pair for pair in dataset.pairs if pair.part == "training"]
    validation = [pair for pair in dataset.pairs if pair.part == "validation"]
    if validation:
        yield training, validation
        return
    for fold in read_splits(dataset.root):
        measured, held_out = ([pair for pair in training if pair.name in fold[part]] for part in ("train", "val"))
        yield measured, held_out


def make_phantom(scan: Volume) -> Volume:
    """Return a phantom of ellipsoids with the grid of a scan."""
    image, _, affine = phantom(scan.grid.shape, scan.grid.spacing)
    return Volume(image.astype(np.float32), Grid(image.shape, affine), "phantom")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("bundle", metavar="BUNDLE", help="name or folder")
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="on which it was trained")
    parser.add_argument("--unlike", nargs="*", default=[], metavar="NAME=SCAN", help="scans of another kind")
    options = parser.parse_args()
    bundle, dataset = find_bundle(options.bundle), read_dataset(options.dataset)
    segmenter = Segmenter(bundle)
    mirrored = 0 in InferenceConfig(bundle).mirror_axes
    training = [pair for pair in dataset.pairs if pair.part == "training"]
    domain = measure_domain(segmenter, training)
    domain.save(bundle.root)
    volumes = {pair.name: read_volume(pair.image) for pair in dataset.pairs}
    traits = {name: measure(segmenter, volume) for name, volume in volumes.items()}
    found: dict[str, list[OutOfDomain]] = {"held-out scans": [], **{name: [] for name in CORRUPTIONS}, "phantom": []}
    for measured, held_out in splits(dataset):
        own = fit_domain([traits[pair.name] for pair in measured], mirrored)
        for pair in held_out:
            found["held-out scans"].append(compare_traits(traits[pair.name], own))
        for pair in held_out[::EVERY]:
            volume = volumes[pair.name]
            for name, corrupt in CORRUPTIONS.items():
                corrupted = replace(volume, array=np.ascontiguousarray(corrupt(volume.array)))
                found[name].append(compare_traits(measure(segmenter, corrupted), own))
            found["phantom"].append(compare_traits(measure(segmenter, make_phantom(volume)), own))
    for given in options.unlike:
        name, _, path = given.partition("=")
        found[name] = [compare_traits(measure(segmenter, read_volume(Path(path))), domain)]
    lines = ["| scans | number | warned | distance, median | lowest | highest |", "|---|---|---|---|---|---|"]
    for name, several in found.items():
        distances = [one.distance for one in several]
        warned = sum(bool(one.reasons) for one in several)
        shown = " | ".join(f"{of(distances):.2f}" for of in (median, min, max))
        lines.append(f"| {name} | {len(several)} | {warned} | {shown} |")
    publish_table(bundle.root, "domain", Path(__file__).name, lines)


if __name__ == "__main__":
    main()
