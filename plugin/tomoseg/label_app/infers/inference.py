"""MONAI Label's task that segments one image with a bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list, name_to_device

from tomoseg.label_app.answer import describe_answer, keep_largest, log_warnings, write_answer
from tomoseg.label_app.device_lock import turn
from tomoseg.label_app.model import ServedModel
from tomoseg.label_app.request import chosen, parse_infer_request


class SegmentationTask(InferTask):  # type: ignore[misc]
    """Segments what MONAI Label's clients name: images of the datastore, uploaded files and sessions.

    Args:
        model: the bundle.
    """

    def __init__(self, model: ServedModel) -> None:
        overlap = getattr(model.config.inferer, "overlap", "")
        config = {"device": device_list(), "overlap": overlap, "largest_component": False}
        config |= ({"tta": model.config.tta} if model.config.mirror_axes else {}) | (
            {"roi": ""} if model.labels.whole else {}
        )
        super().__init__(
            type=InferType.SEGMENTATION,
            labels=model.labels.ids,
            dimension=3,
            description=model.bundle.description,
            config=config,
        )
        self._model = model

    def info(self) -> dict[str, Any]:
        """Return what clients show; `label_colors` are the bundle's."""
        return {
            **super().info(),
            "label_colors": self._model.labels.colours,
            "version": self._model.bundle.version,
            "weights_version": self._model.weights.current.number,
        }

    def is_valid(self) -> bool:
        """Return true: the bundle was loaded before."""
        return True

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Segment `request["image"]`; others wait for the device.

        Returns:
            The path of a temporary file, and the JSON beside it.

        Raises:
            TomosegError: the request is wrong, or the image cannot be segmented.
        """
        device = name_to_device(chosen(request, "device"))
        asked = parse_infer_request(request, device)
        source = Path(str(request["image"]))
        with turn(self._model.folder.root, device):
            version = self._model.weights.current
            result = self._model.segmenter(asked.options, version)(source)
        log_warnings(result, source)
        if asked.largest_component:
            result = keep_largest(result)  # before both sides have the same labels
        result = self._model.labels.serve(result)
        path = write_answer(result, asked.extension, asked.compress)
        return str(path), describe_answer(result, self._model.labels, version.number)
