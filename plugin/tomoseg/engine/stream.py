"""One volume from the network's input to labels, a slab at a time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from numpy.typing import NDArray

from tomoseg.engine.blend import Predictor, stream_scores
from tomoseg.engine.placement import Placement
from tomoseg.engine.restore import Activation, Restorer
from tomoseg.engine.windows import importance_map, pad_volume, place_windows


def segment_streamed(
    image: torch.Tensor,
    placement: Placement,
    scan_shape: tuple[int, int, int],
    inferer: SlidingWindowInferer,
    predict: Predictor,
    activation: Activation | None,
) -> tuple[NDArray[np.unsignedinteger[Any]], float]:
    """Return the arg-max of the scores, linearly interpolated in the scan's grid, and the seconds restoring took.

    The labels are (I, J, K) uint8, or uint16 where there are more than 256 scores.

    Args:
        image: (C, D, H, W), on the device that the scores are to be blended on.
        placement: where the scan's voxels lie in the image.
        scan_shape: (I, J, K).
        inferer: window, overlap and blending.
        predict: the network.
        activation: applied to the scores before interpolation.
    """
    windows = place_windows(image.shape[1:], inferer)
    weights = importance_map(windows, inferer, image.device)
    slabs = stream_scores(pad_volume(image, windows, inferer), windows, weights, predict, inferer.sw_batch_size)
    labels: NDArray[np.unsignedinteger[Any]] | None = None
    restorer: Restorer | None = None
    restoring = 0.0
    for slab in slabs:
        begin = time.perf_counter()
        if restorer is None or labels is None:
            labels = np.zeros(scan_shape, np.uint8 if slab.scores.shape[0] <= 256 else np.uint16)
            restorer = Restorer(labels, placement, windows.slab_axis, activation)
        restorer.feed(slab)
        restoring += time.perf_counter() - begin
    assert labels is not None
    assert restorer is not None
    begin = time.perf_counter()
    restorer.finish()
    restoring += time.perf_counter() - begin
    return labels, restoring
