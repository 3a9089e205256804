"""Calibrate the expected Dice of a bundle on labelled cases that it has not seen, clean and corrupted."""

import csv
import math
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tomoseg.bundle.confidence import Confidence
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.planned import PlannedBundle
from tomoseg.bundle.registry import find_bundle
from tomoseg.bundle.trust import changed_by_us
from tomoseg.core.errors import DatasetError, TomosegError, UsageError, errors_as, one_line
from tomoseg.core.files import read_text, sha256
from tomoseg.core.tables import write_csv
from tomoseg.data.datasets import Dataset, Pair, read_dataset
from tomoseg.data.inspection.training_checks import require_trainable
from tomoseg.data.overlap import count_overlap
from tomoseg.data.read import read_volume
from tomoseg.data.splits import read_splits
from tomoseg.data.volume import Volume
from tomoseg.inference.config import InferenceConfig
from tomoseg.inference.device import choose_device
from tomoseg.inference.pipeline import Pipeline
from tomoseg.inference.threads import use_threads
from tomoseg.training.confidence_fit import CLEAN, Result, fit_confidence
from tomoseg.training.corruption import corrupt, list_copies
from tomoseg.training.labels import match_labels
from tomoseg.training.monitor import TrainingMonitor
from tomoseg.training.options import TrainingOptions
from tomoseg.training.precision import Held
from tomoseg.training.validation_dice import IGNORED, DiceMeter

TEMPERATURES: Final = (1.0, 1.5, 2.0, 3.0, 4.0)
COPIES: Final = 6  # of a case
TRAINING_CASES, TRAINING_COPIES = 20, 3  # that a training takes at most
KEYS: Final = ("case", "copy", "label", "present", "dice")
COLUMNS: Final = (*KEYS, *(f"sum_{temperature:g}_{place}" for temperature in TEMPERATURES for place in range(5)))

OnCase = Callable[[str], None]


def calibrate(
    bundle: Bundle | str | os.PathLike[str],
    data: str | os.PathLike[str],
    *,
    fold_weights: Sequence[str | os.PathLike[str]] = (),
    copies: int = COPIES,
    table: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    on_case: OnCase | None = None,
) -> Confidence:
    """Find out how the results of a bundle that go wrong look, and write that into its `configs/confidence.json`.

    Args:
        bundle: a bundle, its name or its folder.
        data: labelled dataset that the network was not trained on; of one with a validation part, that part.
        fold_weights: weights of each fold of the dataset's `splits.json`, in its order: each fold's held-out cases are
            segmented by its own weights, and the result counts for the bundle's.
        copies: number of corrupted copies of each case.
        table: a CSV with all results; cases in it do not run again.
        threads: as in `RunOptions`.
        on_case: called with the name of each case before it is segmented.

    Returns:
        The new calibration; labels with fewer than 3 patients or 12 results are not in it.

    Raises:
        UsageError: there is no such dataset, or its folds are fewer than the weights.
        DatasetError: the dataset has errors.
        BundleError: the bundle cannot be run by the engine.
        OutputError: the result or the table cannot be written.

    Example:
        >>> import tomoseg
        >>> found = tomoseg.calibrate("./my_bundle", "dataset", copies=1)
        >>> sorted(found.labels)
        ['Back part', 'Front']
    """
    chosen = find_bundle(bundle)
    dataset = match_labels(require_trainable(read_dataset(data)), PlannedBundle.read(chosen.root), None)
    own = [Path(one) for one in InferenceConfig(chosen).checkpoints]
    held_out = list(_fold_cases(dataset, [Path(one) for one in fold_weights], own))
    known = read_table(Path(table)) if table is not None and Path(table).is_file() else []
    done = {(one.case, one.copy) for one in known}
    results = known
    for found in run_cases(chosen, dataset, held_out, copies, threads=threads, done=done, on_case=on_case):
        results += found
        if table is not None:
            _write_table(Path(table), results)
    confidence = fit_confidence(results, [sha256(path) for path in own], TEMPERATURES)
    if not confidence.labels:
        raise DatasetError(f"{data}: expected at least 3 cases with a label and 12 results, got fewer. Add cases")
    with changed_by_us(chosen):
        confidence.save(chosen.root)
    return confidence


def run_cases(
    bundle: Bundle,
    dataset: Dataset,
    held_out: Sequence[Held],
    copies: int,
    *,
    device: str = "auto",
    threads: int | None = None,
    done: set[tuple[str, str]] | frozenset[tuple[str, str]] = frozenset(),
    on_case: OnCase | None = None,
) -> Iterator[list[Result]]:
    """Yield the results of each case and of its corrupted copies, label by label.

    Args:
        bundle: whose labels they are.
        dataset: of the cases.
        held_out: the cases, each with the weights that segment it; cases of the same weights follow each other.
        copies: of each case.
        device: as in `RunOptions`.
        threads: likewise.
        done: names and copies of cases that are left out.
        on_case: called with the name of each case before it is segmented.
    """
    use_threads(threads)
    meter = DiceMeter(bundle, dataset)
    for weights, cases in groupby(held_out, lambda held: held[0]):
        options = RunOptions(device, checkpoints=tuple(map(str, weights)), threads=threads)
        pipeline = Pipeline(bundle, choose_device(device), options)
        pipeline.temperatures = TEMPERATURES
        for _, pair in cases:
            wanted = [(CLEAN, 0), *list_copies(copies, pair.name)]
            wanted = [one for one in wanted if (pair.name, _name(*one)) not in done]
            if on_case is not None:
                on_case(pair.name)
            if not wanted:
                continue
            volume, reference, found = read_volume(pair.source), meter.read(pair), list[Result]()
            for kind, severity in wanted:
                scan, drawn = (volume, reference) if kind == CLEAN else corrupt(volume, reference, kind, severity)
                found += _score(pipeline, meter, pair, scan, drawn, _name(kind, severity))
            yield found


def save_confidence(
    bundle: Bundle,
    dataset: Dataset,
    held_out: Sequence[Held],
    installed: Sequence[Path],
    options: TrainingOptions,
    hidden: bool,
) -> None:
    """Calibrate the weights that a training put into a bundle; a fault is a line.

    Args:
        bundle: the bundle.
        dataset: on which it was trained.
        held_out: as for `run_cases`; at most 20 of them are taken.
        installed: files of the weights that the bundle has now.
        options: of the training.
        hidden: show nothing.
    """
    chosen = held_out[:: math.ceil(len(held_out) / TRAINING_CASES) or 1]
    if not (chosen and dataset.has_scans):
        return
    with TrainingMonitor("expected Dice", hidden) as monitor:
        try:
            ran = run_cases(bundle, dataset, chosen, TRAINING_COPIES, device=options.device, threads=options.threads)
            found = fit_confidence(list(chain.from_iterable(ran)), [sha256(path) for path in installed], TEMPERATURES)
            if found.labels:
                with changed_by_us(bundle):
                    found.save(bundle.root)
        except TomosegError as error:  # the weights are good
            monitor.tell(f"expected Dice: not calibrated: {one_line(error)}")
            return
        for line in describe_confidence(found) or ["expected Dice: too few cases were held out to calibrate it"]:
            monitor.tell(line)


def describe_confidence(confidence: Confidence) -> list[str]:
    """Return a line for each label that says how good its expected Dice is."""
    return [
        f"{name}: expected Dice, r {one.pearson:.2f}, mean error {one.error:.3f}, {one.cases} patients, "
        f"{one.results} results"
        for name, one in confidence.labels.items()
    ]


def _score(
    pipeline: Pipeline, meter: DiceMeter, pair: Pair, scan: Volume, drawn: NDArray[Any], copy: str
) -> Iterator[Result]:
    found = pipeline.predict(pipeline.prepare(scan), scan.grid, scan.source)
    if found.sums is None or len(found.array) > 1:
        raise UsageError(
            f"bundle {pipeline.bundle.name}: expected one that the engine runs, and whose labels do not overlap. "
            "See the notes of `tomoseg segment`"
        )
    for value, name in meter.drawn_labels(pair).items():
        overlap = count_overlap((found.array[0] == value) & (drawn != IGNORED), drawn == value, drawn.size)
        dice = overlap.dice if overlap.predicted or overlap.reference else 0.0
        yield Result(pair.name, copy, name, overlap.reference > 0, dice, found.sums[:, value])


def _fold_cases(dataset: Dataset, fold_weights: Sequence[Path], own: Sequence[Path]) -> Iterator[Held]:
    """Yield cases with the weights that have not seen them."""
    if not fold_weights:
        validation = [pair for pair in dataset.pairs if pair.part == "validation"]
        yield from ((tuple(own), pair) for pair in validation or dataset.pairs)
        return
    folds = read_splits(dataset.root)
    if len(folds) < len(fold_weights):
        raise UsageError(f"fold weights: {dataset.root} has {len(folds)} folds, got {len(fold_weights)} files")
    for weights, fold in zip(fold_weights, folds, strict=False):
        yield from (((weights,), pair) for pair in dataset.pairs if pair.name in fold["val"])


def _name(kind: str, severity: int) -> str:
    return kind if kind == CLEAN else f"{kind} {severity + 1}"


def _write_table(path: Path, results: Sequence[Result]) -> None:
    rows = ((one.case, one.copy, one.label, int(one.present), one.dice, *one.sums.ravel().tolist()) for one in results)
    write_csv(path, COLUMNS, rows)


def read_table(path: Path) -> list[Result]:
    """Return the results in a table of `calibrate`.

    Raises:
        UsageError: it is none.
    """
    remedy = ". Name another file."
    with errors_as(UsageError, f"{path}: no table of results", OSError, ValueError, KeyError, remedy=remedy):
        return [
            Result(
                row["case"],
                row["copy"],
                row["label"],
                row["present"] == "1",
                float(row["dice"]),
                np.array([float(row[name]) for name in COLUMNS[len(KEYS) :]]).reshape(len(TEMPERATURES), 5),
            )
            for row in csv.DictReader(read_text(path).splitlines())
        ]
