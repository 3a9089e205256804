"""Train a bundle on a dataset and put the weights into it: the function behind `tomoseg train`."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.planned import PlannedBundle
from tomoseg.bundle.registry import find_bundle
from tomoseg.core.files import staging_folder
from tomoseg.core.notes import collect_notes, take_note
from tomoseg.data.datasets import read_dataset
from tomoseg.data.inspection.training_checks import require_negatives, require_trainable
from tomoseg.training.calibration import save_confidence
from tomoseg.training.cross_validation import CrossValidation, cross_validate
from tomoseg.training.domain import save_domain
from tomoseg.training.labels import match_labels
from tomoseg.training.options import EVERY_FOLD, NO_FOLD, TrainingOptions
from tomoseg.training.precision import save_precision
from tomoseg.training.training import Trained, install
from tomoseg.training.training import train as train_fold
from tomoseg.training.unlabelled import check_unlabelled
from tomoseg.training.workflow import default_fold, is_first


def train(
    bundle: Bundle | str | os.PathLike[str],
    data: str | os.PathLike[str],
    options: TrainingOptions | None = None,
    *,
    unlabelled: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    quiet: bool = True,
    on_step: Callable[[str], None] | None = None,
    on_note: Callable[[str], None] | None = None,
    on_warning: Callable[[str], None] | None = None,
) -> Trained | CrossValidation:
    """Train a bundle on a labelled dataset, and put the weights into it.

    Args:
        bundle: a bundle, its name or its folder.
        data: folder of the labelled dataset.
        options: how it is trained; the fold "all" trains every fold and scores each case with the network that had not
            seen it.
        unlabelled: folder of scans like those of the dataset, without label map, to learn from, too.
        output: folder for checkpoints; by default `train` in the bundle.
        quiet: draw no progress on standard error.
        on_step: called with the path of each scan that is checked before the training.
        on_note: called with each note.
        on_warning: called with each warning, and with each unlabelled scan that is left out, and why.

    Returns:
        The training, or the cross-validation where the fold is "all"; `installed` says whether the bundle has the new
        weights: not where it had others, and `overwrite` was not asked for.

    Raises:
        BundleError: the bundle cannot be trained.
        UsageError: there is no such dataset, or an earlier training is in the way.
        DatasetError: the dataset has errors; one line each.
        TrainingError, MemoryLimitError: the training cannot continue; its saved state is kept.
        OutputError: checkpoints or weights cannot be written.

    Example:
        >>> import tomoseg
        >>> options = tomoseg.TrainingOptions(fold="none", epochs=1, device="cpu")
        >>> trained = tomoseg.train("./my_bundle", "dataset", options)
        >>> trained.epochs, trained.installed
        (1, True)
    """
    chosen, options = find_bundle(bundle), options or TrainingOptions()
    folder = chosen.root / "train" if output is None else Path(output)
    fold = default_fold(chosen) if options.fold is None else options.fold
    options = replace(options, fold=None if fold == EVERY_FOLD else fold)
    on_scan = None if on_step is None else lambda path: on_step(str(path))
    planned = PlannedBundle.read(chosen.root)
    with_scans = planned is None or not planned.without_scans
    negatives: tuple[Path, ...] = ()
    with collect_notes() as notes:
        dataset = require_trainable(read_dataset(data), scans=with_scans, on_scan=on_scan)
        dataset = match_labels(dataset, planned, options.map_labels)
        if options.negatives is not None:
            channels = chosen.input_channels
            negatives = require_negatives(Path(options.negatives), chosen.modality, channels, on_scan=on_scan)
        if unlabelled is not None:
            found = check_unlabelled(Path(unlabelled), dataset, on_scan)
            options = replace(options, unlabelled=found.scans)
            take_note(f"{unlabelled}: {found.summary}")
            if on_warning is not None:
                for line in found.left_out:
                    on_warning(f"{line}; left out")
    if on_note is not None:
        for note in notes:
            on_note(note)
    models = chosen.root / "models"
    installed = options.overwrite or not (models / "model.pt").exists()
    for place in [folder, *[models] * installed]:
        with staging_folder(place):  # rather an error before the training than after it
            pass
    pairs = [pair for pair in dataset.pairs if pair.part == "training" and pair.has_scan]
    if fold == EVERY_FOLD:
        result = cross_validate(chosen, dataset, options, folder, quiet, negatives, on_warning)
        if result.installed:
            save_domain(chosen, pairs, options, quiet)
        return result
    name = f"fold_{fold}" if isinstance(fold, int) else fold or "all_cases"
    trained = train_fold(chosen, dataset, options, folder / name, quiet, negatives, on_warning=on_warning)
    if is_first():
        trained = replace(trained, installed=install(trained.weights, chosen, options.overwrite))
        if trained.installed:
            held_out = () if trained.fold in (None, NO_FOLD) else trained.held_out  # else every case was trained on
            cases = [((trained.weights,), pair) for pair in held_out]
            save_precision(chosen, dataset, cases, [trained.weights], options, quiet)
            save_confidence(chosen, dataset, cases, [trained.weights], options, quiet)
            save_domain(chosen, [pair for pair in pairs if pair not in held_out], options, quiet)
    return trained
