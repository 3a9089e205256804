"""`tomoseg doctor --measure`: how fast a bundle's network is here in each precision, and what that costs its labels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import torch
from monai.utils import fall_back_tuple

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.planned import PlannedBundle
from tomoseg.bundle.precision import read_precision, safe_precisions
from tomoseg.bundle.trust import changed_by_us
from tomoseg.core.errors import BackendError, BundleError, UsageError, one_line
from tomoseg.data.datasets import read_dataset
from tomoseg.data.inspection.training_checks import require_trainable
from tomoseg.inference.backends import INSTRUCTIONS, computes_faster
from tomoseg.inference.backends.int8_network import int8_path
from tomoseg.inference.config import InferenceConfig
from tomoseg.inference.device import CPU
from tomoseg.inference.networks import load_networks
from tomoseg.inference.sliding_window.fused_postprocessing import recognise_inferer
from tomoseg.inference.threads import use_threads
from tomoseg.inference.weights import hash_weights, weights_in_use
from tomoseg.training.labels import match_labels
from tomoseg.training.precision import can_measure, measure_precision

RUNS = 5
USUAL_WINDOW = (96, 96, 96)  # for a bundle whose window is as large as the scan
COLUMNS = ("precision", "run by", "seconds a window", "change of Dice, lowest and highest", "auto")


def measure_bundle(bundle: Bundle, data: Path | None) -> Iterator[tuple[str, ...]]:
    """Yield a row of `COLUMNS` for each precision.

    Args:
        bundle: a trusted one.
        data: labelled dataset that its network has not seen, on which the change of Dice is measured first and written
            into the bundle; None to show an earlier measurement.

    Raises:
        UsageError: there is nothing to measure on this machine.
        DatasetError, BundleError: the dataset or the bundle has errors.
    """
    use_threads(None)
    config = InferenceConfig(bundle)
    weights = weights_in_use(config, RunOptions())
    if data is not None:
        if not can_measure():
            raise UsageError(
                "--data: this machine has no faster precision to measure. Use one with AVX-512 BF16 or AMX."
            )
        dataset = match_labels(require_trainable(read_dataset(data)), PlannedBundle.read(bundle.root), None)
        held_out = [(tuple(config.checkpoints), pair) for pair in dataset.pairs]
        measured = measure_precision(bundle, dataset, held_out, config.checkpoints)
        with changed_by_us(bundle):
            measured.save(bundle.root)
    known = read_precision(bundle.root)
    safe = safe_precisions(bundle.root, hash_weights(weights), bundle.labels.values())
    int8 = ["int8"] * (bool(weights) and all(int8_path(path).is_file() for path in config.checkpoints))
    for precision in ("fp32", "bf16", *int8):
        change = [round(value, 4) + 0.0 for value in known.change.get(precision, {}).values()] if known else []  # no -0
        shown = f"{min(change):+.4f} to {max(change):+.4f}, {known.cases} cases" if known and change else "not measured"
        used = "yes" if precision in {*INSTRUCTIONS} & safe and computes_faster(precision) else "no"
        speed = time_window(config, precision)
        yield (precision, *speed, *(("", "") if precision == "fp32" else (shown, used)))


def time_window(config: InferenceConfig, precision: str) -> tuple[str, str]:
    """Return what runs a bundle's network in a precision, and the median time of a window in seconds."""
    try:
        networks = load_networks(config, CPU, RunOptions("cpu", precision=precision))  # type: ignore[arg-type]
        inferer = recognise_inferer(config.inferer)
        window = torch.randn(1, config.bundle.input_channels, *fall_back_tuple(inferer.roi_size, USUAL_WINDOW))
        backends, _ = networks.compiled(tuple(window.shape[1:]), inferer)
    except (BackendError, BundleError) as error:  # the network in int8 may be of other weights
        return one_line(error), "—"
    seconds = []
    with torch.no_grad():
        for _ in range(RUNS):
            start = time.perf_counter()
            backends[0](window)
            seconds.append(time.perf_counter() - start)
    return backends[0].name, f"{median(seconds):.3f}"
