"""Which of a bundle's transforms and inferers the engine computes by itself; all others are left to MONAI."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from monai.transforms import Activationsd, AsDiscreted, Compose, Invertd

from tomoseg.engine.placement import NotRecognisedError
from tomoseg.engine.restore import Activation


@dataclass(frozen=True)
class Recipe:
    """What the engine does in place of the first steps of a bundle's post-processing.

    Args:
        activation: applied to the scores before they are interpolated; None for none.
        rest: the steps that follow, which work on the label map.
    """

    activation: Activation | None
    rest: Compose


def recognise_inferer(inferer: Any) -> SlidingWindowInferer:
    """Return the inferer if it is MONAI's plain sliding window.

    Raises:
        NotRecognisedError: it is another one, or uses an option that is not streamed.
    """
    if type(inferer) is not SlidingWindowInferer:
        raise NotRecognisedError(f"the inferer {type(inferer).__name__}")
    if inferer.with_coord:
        raise NotRecognisedError("SlidingWindowInferer with with_coord")
    return inferer


def recognise_postprocessing(postprocessing: Compose, key: str) -> Recipe:
    """Recognise [Activationsd(softmax)], Invertd(linear), AsDiscreted(argmax) at the beginning of a post-processing.

    Args:
        postprocessing: the bundle's, without SaveImaged.
        key: the key of the prediction.

    Raises:
        NotRecognisedError: it begins otherwise.
    """
    steps = list(postprocessing.transforms)
    activation: Activation | None = None
    if steps and isinstance(steps[0], Activationsd):
        step = steps.pop(0)
        if tuple(step.keys) != (key,) or step.sigmoid != (False,) or step.other != (None,) or step.softmax != (True,):
            raise NotRecognisedError("Activationsd other than a soft-max of the prediction")
        activation = partial(torch.softmax, dim=0)
    if len(steps) < 2 or not isinstance(steps[0], Invertd) or not isinstance(steps[1], AsDiscreted):
        raise NotRecognisedError("a post-processing that does not begin with Invertd and AsDiscreted")
    invert, discrete = steps[:2]
    if tuple(invert.keys) != (key,) or invert.nearest_interp != (False,) or invert.post_func != (None,):
        raise NotRecognisedError("Invertd other than a linear one of the prediction")
    others = [*discrete.to_onehot, *discrete.threshold, *discrete.rounding]
    if tuple(discrete.keys) != (key,) or discrete.argmax != (True,) or any(other is not None for other in others):
        raise NotRecognisedError("AsDiscreted other than an arg-max of the prediction")
    return Recipe(activation, Compose(steps[2:]))
