"""Which of a bundle's transforms and inferers the engine computes by itself; all others are left to MONAI."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer, SlidingWindowInfererAdapt
from monai.transforms import Activationsd, AsDiscreted, Compose, Invertd

from tomoseg.inference.sliding_window.discretizer import Activation, ArgMax, Discretizer, Threshold, softmax
from tomoseg.inference.sliding_window.placement import NotRecognisedError

NO_PROBABILITY = 1e-5  # as a threshold


@dataclass(frozen=True)
class FusedPostprocessing:
    """What the engine does in place of the first steps of a bundle's post-processing.

    Attributes:
        activation: applied to the logits, labels last; None for none.
        threshold: what the logits of each label must reach; None for the label with the highest logit.
        interpolated: whether the logits are interpolated in the scan's grid and decided there; otherwise they are
            decided in the network's grid, and `rest` brings the labels to the scan's.
        rest: the steps that follow.
        device: where the first of them expects the labels; None for that of the image.
    """

    activation: Activation | None
    threshold: float | None
    interpolated: bool
    rest: Compose
    device: torch.device | str | None = None

    @property
    def activated(self) -> bool:
        """Whether the network's output may be probabilities already; a threshold next to 0 is one of logits."""
        return self.activation is None and (self.threshold is None or self.threshold > NO_PROBABILITY)

    def decide(self, labels: int) -> Discretizer:
        """Return the discretizer of `labels` logits, or of each of them where labels may overlap."""
        if self.threshold is None:
            return ArgMax(labels, self.activation)
        return Threshold(self.threshold, self.activation)


def recognise_inferer(inferer: Any) -> SlidingWindowInferer:
    """Return the inferer if it is MONAI's plain sliding window.

    Raises:
        NotRecognisedError: it is another one, or uses an option that is not streamed.
    """
    # the other one only moves to the CPU where a GPU's memory is short
    if type(inferer) not in (SlidingWindowInferer, SlidingWindowInfererAdapt):
        raise NotRecognisedError(f"the inferer {type(inferer).__name__}")
    if inferer.with_coord:
        raise NotRecognisedError("SlidingWindowInferer with with_coord")
    return inferer


def recognise_postprocessing(
    postprocessing: Compose, preprocessing: Any, image_key: str, prediction_key: str
) -> FusedPostprocessing:
    """Recognise how a post-processing makes labels of logits: an optional Activationsd, then Invertd and AsDiscreted.

    Invertd may come before AsDiscreted (linear; or nearest, where the order does not matter), or anywhere behind it.
    AsDiscreted may make one-hot channels of the labels, and may change other items: the remaining steps do that.

    Args:
        postprocessing: the steps.
        preprocessing: all that was done to the image, which Invertd must undo.
        image_key: key of the image in the steps.
        prediction_key: key of the prediction.

    Raises:
        NotRecognisedError: it begins otherwise.
    """
    key = prediction_key
    steps = list(postprocessing.transforms)
    softmaxed, activation = False, None
    if steps and isinstance(steps[0], Activationsd):
        softmaxed, activation = _activation(steps.pop(0), key)
    invert = steps.pop(0) if steps and isinstance(steps[0], Invertd) else None
    if not steps or not isinstance(steps[0], AsDiscreted):
        raise NotRecognisedError("a post-processing that does not begin with Invertd and AsDiscreted")
    threshold, left = _decision(steps.pop(0), key)
    steps = [*left, *steps]
    if threshold is None and activation is not None and not softmaxed:
        raise NotRecognisedError("an arg-max of a sigmoid")
    if threshold is not None and softmaxed:
        raise NotRecognisedError("a threshold of a soft-max")
    if invert is None:
        return FusedPostprocessing(activation, threshold, interpolated=False, rest=Compose(steps))
    if tuple(invert.keys) != (key,) or invert.post_func != (None,):
        raise NotRecognisedError("Invertd other than one of the prediction")
    if tuple(invert.orig_keys) != (image_key,) or invert.transform is not preprocessing:
        raise NotRecognisedError("Invertd of other transforms than the whole preprocessing of the image")
    if invert.nearest_interp == (True,):
        return FusedPostprocessing(activation, threshold, interpolated=False, rest=Compose([invert, *steps]))
    return FusedPostprocessing(activation, threshold, interpolated=True, rest=Compose(steps), device=invert.device[0])


def _activation(step: Activationsd, key: str) -> tuple[bool, Activation]:
    kinds = (step.softmax, step.sigmoid)
    if tuple(step.keys) == (key,) and step.other == (None,) and not step.converter.kwargs:
        if kinds in (((True,), (False,)), ((True,), (None,))):
            return True, softmax
        if kinds in (((False,), (True,)), ((None,), (True,))):
            return False, torch.sigmoid
    raise NotRecognisedError("Activationsd other than a soft-max or a sigmoid of the prediction")


def _decision(step: AsDiscreted, key: str) -> tuple[float | None, list[AsDiscreted]]:
    """Return the threshold of AsDiscreted, None for an arg-max, and the rest of the step, if any."""
    keys = list(step.keys)
    if keys.count(key) == 1 and not step.converter.kwargs:
        at = keys.index(key)
        argmax, threshold, one_hot = step.argmax[at], step.threshold[at], step.to_onehot[at]
        left = copy.copy(step)
        left.argmax = [flag and index != at for index, flag in enumerate(step.argmax)]
        left.threshold = [None if index == at else limit for index, limit in enumerate(step.threshold)]
        besides = [] if keys == [key] and one_hot is None else [left]
        if step.rounding[at] is None:
            if argmax and threshold is None:
                return None, besides
            # 0 is what stands where the image was cropped
            if not argmax and threshold is not None and threshold > 0 and one_hot is None:
                return float(threshold), besides
    raise NotRecognisedError("AsDiscreted other than an arg-max or a threshold of the prediction")
