"""MONAI Label's task that trains a bundle on annotated images."""

import os
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
from tomoseg.label_app.trainers.training_cases import Annotated, prepare_cases
from tomoseg.label_app.trainers.validation import compare, is_held_out
from tomoseg.training.fine_tuning import FineTuningOptions, Progress, fine_tune
from tomoseg.training.workflow import read_train_config

DEFAULT_EPOCHS = 30
DEFAULT_LEARNING_RATE_SCALE = 0.1
STATS_FILE = "train_stats.json"


class BundleTraining(TrainTask):  # type: ignore[misc]
    """Fine-tunes a bundle by its own train config; the weights become a new version.

    It is used from then on if it is not worse than the one in use on labelled images that no version was trained on.
    MONAI Label runs it in a process of its own and kills that to stop it: until the last step nothing is changed.

    Args:
        model: the bundle.
        always: use the new version also where it is worse.

    Raises:
        BundleError: it has no train config.
    """

    def __init__(self, model: ServedModel, always: bool) -> None:
        super().__init__(f"Train {model.name} on the annotated images")
        read_train_config(model.bundle)
        self._model, self._always = model, always
        self._stats_file = model.weights.folder / STATS_FILE

    def config(self) -> dict[str, Any]:
        """Return the options in clients' panels."""
        return {
            "device": device_list(),
            "max_epochs": DEFAULT_EPOCHS,
            "pretrained": True,
            "learning_rate_scale": DEFAULT_LEARNING_RATE_SCALE,
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
            UsageError: a value is wrong, or nothing is annotated, or only images that are held out.
            BundleError: the bundle's config fails.
        """
        recipe = FineTuningOptions(
            epochs=int(number(request, "max_epochs", DEFAULT_EPOCHS) or 0),
            learning_rate_scale=number(request, "learning_rate_scale", DEFAULT_LEARNING_RATE_SCALE) or 0.0,
            device=name_to_device(chosen(request, "device")),
        )
        folder = self._model.weights.folder
        remove_stale(folder)
        begin = time.time()
        with staging_folder(folder) as staging:
            locator = Locator(self._model.bundle, find_head=self._model.heads)
            cases, errors = prepare_cases(find_annotated(datastore), self._model.labels, locator, staging)
            for problem in errors:
                print_line(problem)
            held_out = [case for case in cases if is_held_out(datastore, case.image_id)]
            train = [(case.image, case.label) for case in cases if case not in held_out]
            if not train:
                raise UsageError("all labelled images are held out to compare weights. Label more")
            print_line(f"training {self._model.name} on {len(train)} cases; {len(held_out)} are held out")

            def tell(progress: Progress) -> None:
                print_line(f"epoch {progress.epoch}/{progress.epochs}: loss {progress.loss:.4f}")
                self._save_stats(progress, begin, {})
                self._last = progress

            start = self._model.checkpoint if flag(request, "pretrained", default=True) else None
            state = fine_tune(self._model.bundle, train, start, recipe, staging, tell)
            compared = compare(self._model, state, held_out, recipe.device, staging)
            tried = "held_out" in compared  # a comparison that failed proves nothing for the new weights
            used = self._always or not tried or compared.get("dice", -1) >= compared.get("dice_before", 0)
            facts = {"cases": len(train), "epochs": recipe.epochs, "learning_rate_scale": recipe.learning_rate_scale}
            version = self._model.weights.publish(state, used, **facts, **compared)
        # Slicer shows the best metric as accuracy
        accuracy = {"best_metric": compared["dice" if used else "dice_before"]} if "dice" in compared else {}
        self._save_stats(self._last, begin, compared | accuracy, ended=True)
        shown = ", ".join(f"{name} {value}" for name, value in compared.items())
        print_line(f"version {version.number} of the weights is {'in use' if used else 'not used'}: {shown}")
        return {"version": version.number, "used": used, **compared, "left_out": errors}

    def _save_stats(self, progress: Progress, begin: float, more: dict[str, Any], ended: bool = False) -> None:
        elapsed = str(timedelta(seconds=int(time.time() - begin)))
        stats = {
            "start_ts": int(begin),
            "epoch": progress.epoch,
            "total_epochs": progress.epochs,
            "train": {"loss": progress.loss},
            "total_time" if ended else "current_time": elapsed,
            "process": os.getpid(),
        }
        write_json(self._stats_file, stats | more)


def find_annotated(datastore: Datastore) -> Iterator[Annotated]:
    """Yield what has a final label."""
    for entry in datastore.datalist():
        image = Path(entry["image"])
        image_id = datastore._to_id(image.name)[0]
        info = datastore.get_label_info(image_id, DefaultLabelTag.FINAL)
        yield Annotated(image_id, image, Path(entry["label"]), info.get("label_info") or None)
