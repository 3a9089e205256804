"""MONAI Label's strategies, which say which image is to be labelled next."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.strategy import Strategy

from tomoseg.core.errors import UsageError
from tomoseg.label_app.activelearning.choice import choose_diverse, choose_random, choose_uncertain
from tomoseg.label_app.activelearning.scoring import choose_model
from tomoseg.label_app.model import ServedModel
from tomoseg.label_app.request import Json, chosen

RESERVED_S = 3600  # so long an image that was handed out is not handed out again, if there are others
MEASURES = ("expected_dice", "entropy")  # the first by default
Chosen = tuple[str | None, dict[str, Any]]
Choice = Callable[[ServedModel, Json, list[str], list[str]], Chosen]


class NextImage(Strategy):  # type: ignore[misc]
    """Hands out one image after the other that has no final label.

    Args:
        description: for clients.
        choose: gets the model, the request, images without and with a label; returns one of the former and what clients
            go with it, or None if no choice is possible yet.
        models: the bundles by name.
    """

    def __init__(self, description: str, choose: Choice, models: Mapping[str, ServedModel]) -> None:
        super().__init__(description)
        self._choose = choose
        self._models = models

    def __call__(self, request: Mapping[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Return the `id` of the next image, None if all are labelled.

        Args:
            request: `model`, the first if absent, and for `uncertain` `by`, "expected_dice" or "entropy".
            datastore: the studies.

        Raises:
            UsageError: there is no such model or measure.
        """
        model = choose_model(self._models, request)
        candidates = datastore.get_unlabeled_images()
        if not candidates:
            return None
        free = [image for image in candidates if not _is_reserved(datastore.get_image_info(image))]
        image, reported = self._choose(model, request, free or candidates, datastore.get_labeled_images())
        if image is None:
            return {"id": choose_random(free or candidates), "reason": "at random, for no image is scored yet"}
        return {"id": image, **reported}


def make_strategies(models: Mapping[str, ServedModel]) -> dict[str, Strategy]:
    """Return the strategies by name."""
    return {
        "uncertain": NextImage("The image that the model is least sure of", _uncertain, models),
        "diverse": NextImage("The image that is least like those that are labelled", _diverse, models),
        "random": NextImage("Any image", lambda model, request, images, labelled: (choose_random(images), {}), models),
    }


def _diverse(model: ServedModel, request: Json, candidates: list[str], labelled: list[str]) -> Chosen:
    return choose_diverse(candidates, labelled, model.acquisition_scores.read()), {}


def _uncertain(model: ServedModel, request: Json, candidates: list[str], labelled: list[str]) -> Chosen:
    by = chosen(request, "by") or MEASURES[0]
    if by not in MEASURES:
        raise UsageError(f"by: expected {' or '.join(MEASURES)}, got {by!r}")
    scores = model.acquisition_scores.read()
    image = choose_uncertain(candidates, scores, by)
    return image, {by: scores[image][by]} if image else {}


def _is_reserved(info: Mapping[str, Any]) -> bool:
    """Return whether an image was handed out recently: a person may be annotating it."""
    given = info.get("strategy") or {}
    return any(time.time() - float(entry.get("ts", 0)) < RESERVED_S for entry in given.values())
