"""Measure what faster precisions do to the labels of a network, on labelled cases that it has not seen."""

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Final

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.precision import MeasuredPrecision
from tomoseg.bundle.trust import changed_by_us
from tomoseg.core.errors import TomosegError, one_line
from tomoseg.core.files import sha256
from tomoseg.data.datasets import Dataset, Pair
from tomoseg.inference.backends import INSTRUCTIONS, computes_faster
from tomoseg.inference.backends.int8_network import int8_path
from tomoseg.inference.segmenter import Segmenter
from tomoseg.training.monitor import TrainingMonitor
from tomoseg.training.options import TrainingOptions
from tomoseg.training.validation_dice import DiceMeter, mean_of_labels

MAX_CASES: Final = 20  # that a training measures; each is segmented twice

Held = tuple[tuple[Path, ...], Pair]  # weights, and a case that they have not seen


def can_measure() -> bool:
    """Return whether this machine has a faster precision, and what runs it."""
    return find_spec("openvino") is not None and any(map(computes_faster, INSTRUCTIONS))


def measure_precision(
    bundle: Bundle,
    dataset: Dataset,
    held_out: Sequence[Held],
    holds_for: Sequence[Path],
    *,
    limit: int = MAX_CASES,
    threads: int | None = None,
    on_case: Callable[[str], None] | None = None,
) -> MeasuredPrecision:
    """Return the mean Dice of each label in fp32, and its change in each precision that is faster here.

    Networks in int8 count where `tomoseg export` put them beside all of the weights.

    Args:
        bundle: whose labels they are.
        dataset: of the cases.
        held_out: the cases, each with the weights that segment it; cases of the same weights follow each other.
        holds_for: files of weights that the result counts for: those measured, or those made of them.
        limit: number of cases, evenly spread, that are measured at most.
        threads: as in `RunOptions`.
        on_case: called with the name of each case before it is segmented.

    Raises:
        TomosegError: a case cannot be segmented.
    """
    meter, chosen = DiceMeter(bundle, dataset), held_out[:: math.ceil(len(held_out) / limit) or 1]
    means = {}
    int8 = ["int8"] * all(int8_path(path).is_file() for weights, _ in chosen for path in weights)
    for precision in ("fp32", *filter(computes_faster, INSTRUCTIONS), *int8):
        dice = []
        for weights, cases in groupby(chosen, lambda held: held[0]):
            files = tuple(map(str, weights))
            options = RunOptions("cpu", "openvino", precision, checkpoints=files, threads=threads)  # type: ignore[arg-type]
            segmenter = Segmenter(bundle, options)
            for _, pair in cases:
                if on_case is not None:
                    on_case(pair.name)
                dice.append(meter.measure(segmenter(pair.source).labels, pair)[0])
        found = zip(meter.labels.values(), mean_of_labels(dice), strict=True)
        means[precision] = {label: value for label, value in found if not math.isnan(value)}
    full = means.pop("fp32")
    change = {name: {label: value - full[label] for label, value in mean.items()} for name, mean in means.items()}
    return MeasuredPrecision(tuple(map(sha256, holds_for)), len(chosen), full, change)


def save_precision(
    bundle: Bundle,
    dataset: Dataset,
    held_out: Sequence[Held],
    installed: Sequence[Path],
    options: TrainingOptions,
    hidden: bool,
) -> None:
    """Measure the weights that a training put into a bundle, and write the result there; a fault is a line.

    Args:
        bundle: the bundle.
        dataset: on which it was trained.
        held_out: as for `measure_precision`; nothing is measured without such cases.
        installed: files of the weights that the bundle has now.
        options: of the training.
        hidden: show nothing.
    """
    if not (held_out and dataset.has_scans and can_measure()):
        return
    with TrainingMonitor("precision", hidden) as monitor:
        try:
            measured = measure_precision(bundle, dataset, held_out, installed, threads=options.threads)
        except TomosegError as error:  # the weights are good
            monitor.tell(f"precision: not measured: {one_line(error)}")
            return
        with changed_by_us(bundle):
            measured.save(bundle.root)
        worst = {name: min(change.values(), default=0.0) for name, change in measured.change.items()}
        shown = ", ".join(
            f"{name} changes the mean Dice of a label by {loss:+.4f} at most" for name, loss in worst.items()
        )
        monitor.tell(f"precision: {shown}")
