"""MONAI Label's task that corrects a bundle's result by clicks."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferType

from tomoseg.bundle.options import RunOptions
from tomoseg.inference.segmentation import Segmentation
from tomoseg.label_app.clicks.correction import BACKGROUND, correct, parse_clicks
from tomoseg.label_app.clicks.log_probabilities import CropProbabilities
from tomoseg.label_app.infers.inference import BundleTask
from tomoseg.label_app.model import ServedModel
from tomoseg.label_app.request import InferRequest
from tomoseg.label_app.versions import Version

SUFFIX = "_clicks"


class ClickTask(BundleTask):
    """Segments an image, and corrects the result where a person clicked.

    Clients send all clicks of an image each time, so the server keeps only data that it can quickly compute again.

    Args:
        model: the bundle; its labels must not overlap.
    """

    def __init__(self, model: ServedModel) -> None:
        # "deepedit" is what clients call a model that takes clicks for several labels and for background. A background
        # of 0 OHIF takes for a label without a number, and gives it that of another
        labels = model.labels.ids | {BACKGROUND: len(model.labels.ids) + 1}
        description = f"Correct {model.name} by clicks on a label or on background"
        super().__init__(model, InferType.DEEPEDIT, labels, description, {})

    def _segment(self, request: Mapping[str, Any], asked: InferRequest, version: Version) -> Segmentation:
        clicks = parse_clicks(request, self._model.labels.ids)
        options = RunOptions(device=asked.options.device, roi=asked.options.roi)
        scene = self._model.scene(Path(str(request["image"])), options, version)
        if isinstance(scene.log_probabilities, CropProbabilities):
            scene.log_probabilities.require_inside(clicks)
        begin = time.perf_counter()
        channels = [0, *self._model.labels.values]  # of the network, by the number that is served
        scan, find, result = scene.volume, scene.log_probabilities, self._model.labels.serve(scene.result)
        labels = correct(result.labels, scan.array, scan.grid, clicks, lambda box: find(box)[channels])
        stats = replace(result.stats, seconds={"correction": time.perf_counter() - begin})
        # where structures were found, and how large, holds no longer once something is changed
        location = None if clicks else result.location
        return replace(result, labels=labels, stats=stats, location=location)
