"""MONAI Label's scoring tasks for unlabelled images."""

from collections.abc import Mapping, Sequence
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.utils.others.generic import name_to_device

from tomoseg.core.errors import UsageError
from tomoseg.data.read import read_volume
from tomoseg.label_app.activelearning.acquisition_scores import KINDS, find_crops
from tomoseg.label_app.each_image import for_each_image, limit_images
from tomoseg.label_app.model import ServedModel
from tomoseg.label_app.request import chosen


class ImageScoring(ScoringMethod):  # type: ignore[misc]
    """Compute missing acquisition scores, image by image; a failed image is reported, and the others continue.

    Args:
        description: for clients.
        kinds: some of KINDS.
        models: the bundles by name.
    """

    def __init__(self, description: str, kinds: Sequence[str], models: Mapping[str, ServedModel]) -> None:
        super().__init__(description)
        self._kinds = kinds
        self._models = models

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score images under the weights in use.

        Args:
            request: `model`, the first if absent; `device`; `limit`, at most so many images, 0 for all.
            datastore: the studies.

        Returns:
            How many images were `scored`, and why some `failed`.

        Raises:
            UsageError: there is no such model.
        """
        model = choose_model(self._models, request)
        device = name_to_device(chosen(request, "device"))
        known = model.acquisition_scores.read()
        wanting = [one for one in datastore.list_images() if not set(self._kinds) <= known.get(one, {}).keys()]
        wanting = limit_images(wanting, request, "limit")

        def score(image: str) -> None:
            with model.turn(device):
                crops = find_crops(model, read_volume(datastore.source(image)), device)
                missing = [kind for kind in self._kinds if kind not in known.get(image, {})]
                found = {kind: KINDS[kind](model, crops, device) for kind in missing}
            model.acquisition_scores.add(image, found)

        failed = for_each_image(wanting, score, "scored")
        return {"scored": len(wanting) - len(failed), "failed": failed}


def choose_model(models: Mapping[str, ServedModel], request: Mapping[str, Any]) -> ServedModel:
    """Return the bundle that a request names, the first if it names none.

    Raises:
        UsageError: there is none of that name.
    """
    name = chosen(request, "model") or next(iter(models))
    if name not in models:
        raise UsageError(f"model {name!r}: expected one of {', '.join(models)}")
    return models[name]
