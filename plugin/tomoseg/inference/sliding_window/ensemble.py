"""Several predictions of one window, averaged: by several checkpoints, and mirrored along some axes."""

from collections.abc import Sequence
from itertools import chain, combinations

import torch

from tomoseg.inference.sliding_window.blend import Predictor
from tomoseg.inference.sliding_window.placement import NotRecognisedError


def averaged(predictors: Sequence[Predictor], mirror_axes: Sequence[int] = ()) -> Predictor:
    """Return a predictor whose logits are the mean over all predictors and all combinations of mirrored axes.

    The logits are averaged before the activation, as nnU-Net v2 does.

    Args:
        predictors: one for each checkpoint.
        mirror_axes: axes of the window, 0 to 2 along (D, H, W), that are mirrored; none for no mirroring.
    """
    flips = list(chain.from_iterable(combinations(mirror_axes, count) for count in range(len(mirror_axes) + 1)))
    if len(predictors) == len(flips) == 1:
        return predictors[0]

    def predict(batch: torch.Tensor) -> torch.Tensor:
        total: torch.Tensor | None = None
        for flip in flips:
            axes = [axis + 2 for axis in flip]
            for predictor in predictors:
                logits = predictor(batch.flip(axes))
                if not isinstance(logits, torch.Tensor):
                    raise NotRecognisedError(f"a network that returns a {type(logits).__name__}")
                logits = logits.flip(axes).float()
                total = logits if total is None else total.add_(logits)
        assert total is not None
        return total.div_(len(flips) * len(predictors))

    return predict
