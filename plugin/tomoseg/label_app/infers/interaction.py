"""MONAI Label's task that corrects a bundle's result by clicks."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list, name_to_device

from tomoseg.bundle.options import RunOptions
from tomoseg.label_app.answer import describe_answer, write_answer
from tomoseg.label_app.clicks.clicks import BACKGROUND, parse_clicks
from tomoseg.label_app.clicks.correction import correct
from tomoseg.label_app.clicks.log_probabilities import CropProbabilities
from tomoseg.label_app.clicks.scene import Scene, look
from tomoseg.label_app.device_lock import turn
from tomoseg.label_app.last_used import LastUsed
from tomoseg.label_app.model import ServedModel
from tomoseg.label_app.request import chosen, parse_infer_request
from tomoseg.label_app.versions import Version

MAX_SCENES = 2  # images, with their results and log_probabilities
SUFFIX = "_clicks"


class ClickTask(InferTask):  # type: ignore[misc]
    """Segments an image, and corrects the result where a person clicked.

    Clients send all clicks of an image each time, so the server keeps only data that it can quickly compute again.

    Args:
        model: the bundle; its labels must not overlap.
    """

    def __init__(self, model: ServedModel) -> None:
        super().__init__(
            # "deepedit" is what clients call a model that takes clicks for several labels and for background. A
            # background of 0 OHIF takes for a label without a number, and gives it that of another
            type=InferType.DEEPEDIT,
            labels=model.labels.ids | {BACKGROUND: len(model.labels.ids) + 1},
            dimension=3,
            description=f"Correct {model.name} by clicks on a label or on background",
            config={"device": device_list()} | ({"roi": ""} if model.labels.whole else {}),
        )
        self._model = model
        self._scenes = LastUsed[Scene](MAX_SCENES)

    def info(self) -> dict[str, Any]:
        """Return what clients show; `label_colors` are the bundle's."""
        return {**super().info(), "label_colors": self._model.labels.colours}

    def is_valid(self) -> bool:
        """Return true: the bundle was loaded before."""
        return True

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the path of a temporary file with the corrected labels, and the JSON beside it.

        Raises:
            TomosegError: the request is wrong, or the image cannot be segmented.
        """
        device = name_to_device(chosen(request, "device"))
        asked = parse_infer_request(request, device)
        clicks = parse_clicks(request, self._model.labels)
        with turn(self._model.folder.root, device):
            version = self._model.weights.current
            scene = self._scene(Path(str(request["image"])), RunOptions(device=device, roi=asked.options.roi), version)
            if isinstance(scene.log_probabilities, CropProbabilities):
                scene.log_probabilities.require_inside(clicks)
            begin = time.perf_counter()
            channels = [0, *self._model.labels.values]  # of the network, by the number that is served
            scan, find = scene.volume, scene.log_probabilities
            labels = correct(scene.result.labels, scan.array, scan.grid, clicks, lambda box: find(box)[channels])
            stats = replace(scene.result.stats, seconds={"correction": time.perf_counter() - begin})
        # where structures were found, and how large, holds no longer once something is changed
        location = None if clicks else scene.result.location
        result = replace(scene.result, labels=labels, stats=stats, location=location)
        path = write_answer(result, asked.extension, asked.compress)
        return str(path), describe_answer(result, self._model.labels, version.number)

    def _scene(self, source: Path, options: RunOptions, version: Version) -> Scene:
        """Return an image with its result and log_probabilities, from a moment ago if it is the same."""
        found = source.stat() if source.exists() else None
        key = (source, found and found.st_mtime_ns, found and found.st_size, options, version.checkpoint)
        return self._scenes.get(key, lambda: look(self._model, source, options, version))
