"""One training from its beginning, or from where it stopped, to the weights of a bundle."""

import hashlib
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from tomoseg.bundle.metadata import Bundle
from tomoseg.core.errors import UsageError
from tomoseg.core.files import copy_file, sha256
from tomoseg.core.quiet import suppress_warnings
from tomoseg.data.datasets import Dataset, Pair
from tomoseg.inference.threads import use_threads
from tomoseg.training.monitor import TrainingMonitor
from tomoseg.training.options import TrainingOptions
from tomoseg.training.pretrained import load_matching
from tomoseg.training.session import BEST, CURVE, LAST, STATE, TABLE, TrainingSession
from tomoseg.training.state import TrainingState, load_state
from tomoseg.training.workflow import TrainingWorkflow, is_first

HASHED_INPUTS = ("config", "data", "init", "unlabelled")  # in what must be the same for a training to go on


@dataclass(frozen=True)
class Trained:
    """What a training gave.

    Attributes:
        folder: where it is.
        fold: that was held out.
        epochs: that were run, those of earlier runs included.
        best, best_epoch: of the key metric on the cases held out; None without a validation.
        metrics: of the last validation.
        held_out: the cases that were held out.
        folds: number of folds that the bundle knows.
        installed: whether the bundle has the weights now.
    """

    folder: Path
    fold: int | str | None
    epochs: int
    best: float | None
    best_epoch: int
    metrics: dict[str, float]
    held_out: tuple[Pair, ...]
    folds: int
    installed: bool = False

    @property
    def weights(self) -> Path:
        """The file of the last weights, which no case held out has chosen."""
        return self.folder / LAST


def train(
    bundle: Bundle,
    dataset: Dataset,
    options: TrainingOptions,
    folder: Path,
    hidden: bool = False,
    negatives: Sequence[Path] = (),
    *,
    every_fold: bool = False,
    on_warning: Callable[[str], None] | None = None,
) -> Trained:
    """Train a bundle, from the beginning or from where an earlier run stopped.

    Args:
        bundle: the bundle.
        dataset: a sound one, see `require_trainable`.
        options: how.
        folder: for `model.pt`, `model_best.pt`, `state.pt`, `history.csv`, `curve.png` and `tensorboard/`.
        hidden: show nothing.
        negatives: the scans in the folder that the options name, see `require_negatives`.
        every_fold: the other folds are trained, too, so that one may lack a label.
        on_warning: called with each warning on the split.

    Raises:
        BundleError: the bundle's config fails.
        DatasetError: the split cannot be trained on.
        UsageError: an earlier run is there, or is to go on with something else than before.
        TrainingError: it cannot continue; its saved state is kept.
        OutputError: the last state cannot be written.
    """
    use_threads(options.threads)
    saved = folder / STATE
    state = load_state(saved) if options.resume and saved.is_file() else None
    if state is None and saved.is_file() and not options.overwrite:
        raise UsageError(
            f"{folder}: contains an earlier training. Continue it with --resume, or replace it with --overwrite"
        )
    if state is not None and options.epochs is None:  # a machine with a GPU has more epochs of its own
        options = replace(options, epochs=int(state.signature["epochs"]))
    with suppress_warnings():
        workflow = TrainingWorkflow(bundle, dataset.root, options, len(dataset.pairs) + len(negatives))
        for line in workflow.build(dataset, every_fold):
            if on_warning is not None:
                on_warning(line)
        signature = workflow.signature(hash_files(dataset, negatives))
        signature["labels"] = dict(dataset.renumbered.values) or None
        if state is not None:
            _require_unchanged(saved, state.signature, signature)
        title = f"fold {'none' if workflow.fold is None else workflow.fold}"
        with TrainingMonitor(title, hidden or not is_first()) as monitor:
            if state is None:
                state = TrainingState(signature)
                for line in load_matching(workflow.network, Path(options.init)) if options.init is not None else ():
                    monitor.tell(line)
            if is_first():
                _clear(folder, keep=state.epoch > 0)
            with closing(TrainingSession(workflow, folder, state, monitor)) as session:
                if is_first() and not state.epoch:
                    session.save()  # a full disk, or a folder without permission, fails before the work
                if state.epoch < workflow.epochs:
                    workflow.run()
        workflow.close()  # not after an error: it would wait for other processes without an end
    rows = [row for row in state.history if any(key.startswith("val_") for key in row)]
    metrics = {key: value for key, value in rows[-1].items() if key.startswith("val_")} if rows else {}
    held_out, folds = tuple(workflow.held_out), workflow.folds
    return Trained(folder, workflow.fold, state.epoch, state.best, state.best_epoch, metrics, held_out, folds)


def install(trained: Path, bundle: Bundle, overwrite: bool) -> bool:
    """Copy weights to where the bundle's inference looks for them, atomically.

    Args:
        trained: their file.
        bundle: the bundle.
        overwrite: replace those that are there.

    Returns:
        False if others were there and are kept.

    Raises:
        OutputError: they cannot be written.
    """
    target = bundle.root / "models" / "model.pt"
    if target.exists() and not overwrite:
        return False
    copy_file(trained, target)
    return True


def hash_files(dataset: Dataset, negatives: Sequence[Path] = ()) -> str:
    """Return one SHA-256 of all label maps, and of the scans' names and sizes: no training goes on with other data."""
    digest = hashlib.sha256()
    for pair in sorted(dataset.pairs, key=lambda pair: pair.image):
        image, label = (path.relative_to(dataset.root).as_posix() for path in (pair.image, pair.label))
        digest.update(f"{image} {pair.image.stat().st_size}\n{label} {sha256(pair.label)}\n".encode())
        for path in pair.other_channels:
            digest.update(f"{path.relative_to(dataset.root).as_posix()} {path.stat().st_size}\n".encode())
    for path in negatives:
        digest.update(f"without labels: {path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


def _require_unchanged(path: Path, before: dict[str, object], now: dict[str, object]) -> None:
    names = {
        "config": "train.json",
        "data": "the dataset, or the folder of --negatives,",
        "init": "the file of --init",
        "unlabelled": "the folder of --unlabelled",
        "processes": "the number of processes",
    }
    for key, value in now.items():
        if before.get(key) != value:
            shown = "" if key in HASHED_INPUTS else f": {before.get(key)} before, {value} now"
            raise UsageError(
                f"{path}: {names.get(key, key)} has changed since{shown}. "
                "Start again with --overwrite, or change it back"
            )


def _clear(folder: Path, keep: bool) -> None:
    """Remove half-written files of killed processes and, for a new training, the files of an earlier one."""
    for name in (STATE, LAST, BEST, TABLE, CURVE):
        for path in (*folder.glob(f".*.{name}"), *[folder / name] * (not keep)):
            path.unlink(missing_ok=True)
    if not keep:
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
