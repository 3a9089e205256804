"""Acquisition scores of unlabelled images, for the strategies."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from numpy.typing import NDArray

from tomoseg.bundle.options import RunOptions
from tomoseg.data.volume import Volume
from tomoseg.inference.segmentation import Segmentation
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
    """Return the expected Dice of one image, the mean over its labels and crops; 0 where no label is found."""
    segmenter = model.segmenter(RunOptions(device=device))
    results = (segmenter.predict(segmenter.prepare(crop, as_it_is=True)) for crop in crops)
    values = [[one.dice for one in result.expected_dice.values()] or [0.0] for result in results]
    return float(np.mean([np.mean(dice) for dice in values]))


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


def mean_entropy(result: Segmentation) -> float:
    """Return the entropy summed over all voxels, divided by the number of voxels that have a label.

    So an object is as uncertain as its border is wide, however large the image around it is. No object counts as
        one voxel: the image deserves a look.

    Args:
        result: with its entropy.

    Raises:
        ValueError: the entropy was not asked for.
    """
    if result.entropy is None:
        raise ValueError("there is no entropy; ask for it with uncertainty=True")
    labelled = result.labels.any(axis=0) if result.overlapping else result.labels != 0
    return float(result.entropy.sum(dtype=np.float64) / max(np.count_nonzero(labelled), 1))


def describe_image(image: torch.Tensor, network: torch.nn.Module, inferer: Any) -> NDArray[np.float32]:
    """Return the network's coarsest activations, averaged over the image and scaled to length 1.

    In an encoder-decoder that is the bottleneck, as in Nath et al., "Diminishing Uncertainty within the Training Pool",
    IEEE TMI 40:2534 (2021), https://arxiv.org/abs/2101.02323.

    Args:
        image: (C, D, H, W), as the bundle's preprocessing leaves it.
        network: the bundle's, on the device of the image.
        inferer: the bundle's; a sliding window is run without overlap.

    Returns:
        (features,) float32.
    """
    if isinstance(inferer, SlidingWindowInferer):
        inferer = SlidingWindowInferer(inferer.roi_size, sw_batch_size=1, overlap=0)
    vectors: list[torch.Tensor] = []
    coarsest: list[tuple[int, torch.Tensor]] = []

    def keep(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and output.ndim == 5:
            size = math.prod(output.shape[2:])
            if not coarsest or size <= coarsest[0][0]:
                coarsest[:] = [(size, output.float().mean(dim=(0, 2, 3, 4)).cpu())]

    def run(window: torch.Tensor) -> torch.Tensor:
        coarsest.clear()
        network(window)
        vectors.extend(vector for _, vector in coarsest)
        return torch.zeros_like(window[:, :1])  # the inferer wants something to blend

    leaves = [module for module in network.modules() if not any(module.children())]
    hooks = [module.register_forward_hook(keep) for module in leaves]
    try:
        with torch.no_grad():
            inferer(image[None], run)
    finally:
        for hook in hooks:
            hook.remove()
    vector = torch.stack(vectors).mean(dim=0) if vectors else torch.zeros(1)
    return np.asarray(vector / vector.norm().clamp(min=1e-12), dtype=np.float32)
