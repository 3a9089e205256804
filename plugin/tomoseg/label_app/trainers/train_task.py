"""MONAI Label's task that trains a bundle on annotated images."""

import os
import random
import time
from collections.abc import Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.utils.others.generic import device_list, name_to_device

from tomoseg.core.errors import UsageError
from tomoseg.core.files import remove_stale, staging_folder
from tomoseg.core.json_files import read_json, write_json
from tomoseg.core.notes import print_line
from tomoseg.inference.localisation.locator import Locator
from tomoseg.label_app.model import ServedModel
from tomoseg.label_app.request import chosen, flag, number
from tomoseg.label_app.trainers.training_cases import Annotated, TrainingCase, prepare_cases
from tomoseg.training.fine_tuning import FineTuningOptions, Pair, Progress, fine_tune
from tomoseg.training.workflow import read_train_config

DEFAULT_EPOCHS = 30
DEFAULT_LEARNING_RATE_SCALE = 0.1
STATS_FILE = "train_stats.json"
HELD_OUT_SEED = 12345  # which cases are held out


class BundleTraining(TrainTask):  # type: ignore[misc]
    """Fine-tunes a bundle by its own train config; the weights become a new version, which is used from then on.

    MONAI Label runs it in a process of its own and kills that to stop it: until the last step nothing is changed.

    Args:
        model: the bundle.

    Raises:
        BundleError: it has no train config.
    """

    def __init__(self, model: ServedModel) -> None:
        super().__init__(f"Train {model.name} on the annotated images")
        read_train_config(model.bundle)
        self._model = model
        self._stats_file = model.weights.folder / STATS_FILE

    def config(self) -> dict[str, Any]:
        """Return the options in clients' panels."""
        return {
            "device": device_list(),
            "max_epochs": DEFAULT_EPOCHS,
            "pretrained": True,
            "learning_rate_scale": DEFAULT_LEARNING_RATE_SCALE,
            "val_split": 0.0,
        }

    def stats(self) -> dict[str, Any]:
        """Return how far the training is; nothing of one that was stopped."""
        try:
            stats = read_json(self._stats_file)
        except (OSError, ValueError):
            return {}
        return stats if "total_time" in stats or psutil.pid_exists(stats.pop("process", 0)) else {}

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train; see `config` for what a request may say.

        Raises:
            UsageError: a value is wrong, or nothing is annotated.
            BundleError: the bundle's config fails.
        """
        share = number(request, "val_split", 0.0) or 0.0
        if not 0 <= share < 1:
            raise UsageError(f"val_split: expected a share from 0 to below 1, got {share}")
        recipe = FineTuningOptions(
            epochs=int(number(request, "max_epochs", DEFAULT_EPOCHS) or 0),
            learning_rate_scale=number(request, "learning_rate_scale", DEFAULT_LEARNING_RATE_SCALE) or 0.0,
            device=name_to_device(chosen(request, "device")),
        )
        folder = self._model.weights.folder
        remove_stale(folder)
        begin = time.time()
        with staging_folder(folder) as staging:
            locator = Locator(self._model.bundle)
            cases, errors = prepare_cases(find_annotated(datastore), self._model.labels, locator, staging)
            for problem in errors:
                print_line(problem)
            train, held_out = _split(cases, share)
            print_line(f"training {self._model.name} on {len(train)} cases, {len(held_out)} held out")

            def tell(progress: Progress) -> None:
                metric = "" if progress.best_metric is None else f", best metric {progress.best_metric:.4f}"
                print_line(f"epoch {progress.epoch}/{progress.epochs}: loss {progress.loss:.4f}{metric}")
                self._save_stats(progress, begin, ended=False)
                self._last = progress

            start = self._model.checkpoint if flag(request, "pretrained", default=True) else None
            state = fine_tune(self._model.bundle, train, held_out, start, recipe, staging, tell)
            facts = {"cases": len(train), "epochs": recipe.epochs, "learning_rate_scale": recipe.learning_rate_scale}
            best = {"best_metric": self._last.best_metric} if held_out else {}
            version = self._model.weights.publish(state, **facts, **best)
        self._save_stats(self._last, begin, ended=True)
        print_line(f"version {version.number} of the weights is in use")
        return {"version": version.number, "left_out": errors}

    def _save_stats(self, progress: Progress, begin: float, ended: bool) -> None:
        elapsed = str(timedelta(seconds=int(time.time() - begin)))
        stats = {
            "start_ts": int(begin),
            "epoch": progress.epoch,
            "total_epochs": progress.epochs,
            "train": {"loss": progress.loss},
            "total_time" if ended else "current_time": elapsed,
            "process": os.getpid(),
        }
        if progress.best_metric is not None:
            stats["best_metric"] = progress.best_metric
        write_json(self._stats_file, stats)


def find_annotated(datastore: Datastore) -> Iterator[Annotated]:
    """Yield what has a final label."""
    for entry in datastore.datalist():
        image = Path(entry["image"])
        image_id = datastore._to_id(image.name)[0]
        info = datastore.get_label_info(image_id, DefaultLabelTag.FINAL)
        yield Annotated(image_id, image, Path(entry["label"]), info.get("label_info") or None)


def _split(cases: list[TrainingCase], share: float) -> tuple[list[Pair], list[Pair]]:
    """Return pairs to train on and pairs held out, always the same of the same; no image is among both."""
    images = list(dict.fromkeys(case.image_id for case in cases))
    held = min(round(share * len(images)), len(images) - 1)
    held_out = set(random.Random(HELD_OUT_SEED).sample(images, len(images))[:held])
    sides: tuple[list[Pair], list[Pair]] = [], []
    for case in cases:
        sides[case.image_id in held_out].append((case.image, case.label))
    return sides
