"""What is found out about one image before anybody labels it, for the strategies to choose by."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tomoseg.bundle.options import RunOptions
from tomoseg.core.errors import UsageError
from tomoseg.data.volume import Volume
from tomoseg.label_app.activelearning.features import describe_image
from tomoseg.label_app.activelearning.uncertainty import expected_dice, mean_entropy, mirrored
from tomoseg.label_app.answer import log_warnings
from tomoseg.label_app.model import ServedModel


def find_crops(model: ServedModel, volume: Volume, device: str) -> list[Volume]:
    """Return what the network sees of an image: all of it; of a whole scan, for a bundle of crops, the crops."""
    segmenter = model.segmenter(RunOptions(device=device))
    prepared = segmenter.prepare(volume)
    if prepared.located is None:
        return [volume]
    result = segmenter.predict(prepared)
    log_warnings(result, volume.source)
    return [place.crop.volume for place in result.places]


def entropy_score(model: ServedModel, crops: Sequence[Volume], device: str) -> float:
    """Return the mean entropy of one image, the mean over its crops."""
    segmenter = model.segmenter(RunOptions(device=device, uncertainty=True))
    results = (segmenter.predict(segmenter.prepare(crop, as_it_is=True)) for crop in crops)
    return float(np.mean([mean_entropy(result) for result in results]))


def expected_dice_score(model: ServedModel, crops: Sequence[Volume], device: str) -> float:
    """Return the expected Dice between the prediction and those of the mirrored image, the mean over its crops.

    Raises:
        UsageError: the bundle declares no axes that may be mirrored.
    """
    axes = model.config.mirror_axes
    if not axes:
        raise UsageError(f"bundle {model.name}: declares no mirror_axes in its inference config, so no expected Dice")
    segmenter = model.segmenter(RunOptions(device=device))
    values = []
    for crop in crops:
        prepared = segmenter.prepare(crop, as_it_is=True)
        affine = np.asarray(prepared.image.affine, dtype=np.float64)
        others = []
        for axis in axes:
            flipped, along = mirrored(crop, affine, axis)
            labels = segmenter.predict(segmenter.prepare(flipped, as_it_is=True)).labels
            others.append(np.flip(labels, along + labels.ndim - 3))
        values.append(expected_dice(segmenter.predict(prepared), others))
    return float(np.mean(values))


def features_score(model: ServedModel, crops: Sequence[Volume], device: str) -> list[float]:
    """Return the features of one image, the mean over its crops, scaled to length 1."""
    segmenter = model.segmenter(RunOptions(device=device))
    vectors = []
    for crop in crops:
        prepared = segmenter.prepare(crop, as_it_is=True)
        image = prepared.image.as_tensor().to(device)
        vectors.append(describe_image(image, segmenter.networks[0], model.config.inferer))
    mean = np.mean(vectors, axis=0)
    return [round(float(value), 6) for value in mean / max(float(np.linalg.norm(mean)), 1e-12)]


KINDS: dict[str, Callable[[ServedModel, Sequence[Volume], str], Any]] = {
    "entropy": entropy_score,
    "expected_dice": expected_dice_score,
    "features": features_score,
}
