"""What an image looks like to a network, as one vector: images that it sees alike have vectors close to each other."""

import math
from typing import Any

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from numpy.typing import NDArray


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
