"""MONAI Label's task that segments one image with a bundle."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.utils.others.generic import device_list, name_to_device

from tomoseg.inference.segmentation import Segmentation
from tomoseg.label_app.answer import describe_answer, keep_largest, write_answer
from tomoseg.label_app.model import ServedModel
from tomoseg.label_app.request import InferRequest, chosen, parse_infer_request
from tomoseg.label_app.versions import Version


class BundleTask(InferTask):  # type: ignore[misc]
    """Answers requests for one image with a bundle; others wait for the device.

    Args:
        model: the bundle.
        kind: what clients take it for.
        labels: numbers by name.
        description: for clients.
        config: options in clients' panels.
    """

    def __init__(
        self, model: ServedModel, kind: InferType, labels: dict[str, int], description: str, config: dict[str, Any]
    ) -> None:
        config = {"device": device_list(), **config, **({"roi": ""} if model.labels.whole else {})}
        super().__init__(type=kind, labels=labels, dimension=3, description=description, config=config)
        self._model = model

    def info(self) -> dict[str, Any]:
        """Return what clients show; `label_colors` are the bundle's."""
        return {**super().info(), "label_colors": self._model.labels.colours}

    def is_valid(self) -> bool:
        """Return true: the bundle was loaded before."""
        return True

    def __call__(self, request: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the path of a temporary file with the labels of `request["image"]`, and the JSON beside it.

        Raises:
            TomosegError: the request is wrong, or the image cannot be segmented.
        """
        device = name_to_device(chosen(request, "device"))
        asked = parse_infer_request(request, device)
        with self._model.turn(device):
            version = self._model.weights.current
            result = self._segment(request, asked, version)
        path = write_answer(result, asked.extension, asked.compress)
        return str(path), describe_answer(result, self._model.labels, version.number)

    @abstractmethod
    def _segment(self, request: Mapping[str, Any], asked: InferRequest, version: Version) -> Segmentation:
        """Return the labels of `request["image"]`, with the served numbers."""


class SegmentationTask(BundleTask):
    """Segments what MONAI Label's clients name: images of the datastore, uploaded files and sessions.

    Args:
        model: the bundle.
    """

    def __init__(self, model: ServedModel) -> None:
        config = {"overlap": getattr(model.config.inferer, "overlap", ""), "largest_component": False}
        config |= {"tta": model.config.tta} if model.config.mirror_axes else {}
        super().__init__(model, InferType.SEGMENTATION, model.labels.ids, model.bundle.description, config)

    def info(self) -> dict[str, Any]:
        """Return what clients show."""
        version = {"version": self._model.bundle.version, "weights_version": self._model.weights.current.number}
        return super().info() | version

    def _segment(self, request: Mapping[str, Any], asked: InferRequest, version: Version) -> Segmentation:
        result = self._model.scene(Path(str(request["image"])), asked.options, version).result
        if asked.largest_component:
            result = keep_largest(result)  # before both sides have the same labels
        return self._model.labels.serve(result)
