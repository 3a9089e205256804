"""How undecided the scores are."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch


def softmax_entropy(scores: torch.Tensor) -> torch.Tensor:
    """Return (1, D, H, W), the entropy of the soft-max of (labels, D, H, W): 0 for certain, 1 for all labels alike.

    Shannon's entropy divided by the logarithm of the number of labels.
    """
    return _by_plane(scores, lambda plane: torch.special.entr(plane.softmax(dim=0)).sum(dim=0) / math.log(len(scores)))


def sigmoid_entropy(scores: torch.Tensor) -> torch.Tensor:
    """Return (1, D, H, W), the entropy of a yes or no for each label, in bits, averaged over (labels, D, H, W)."""
    return _by_plane(scores, _binary)


def _binary(plane: torch.Tensor) -> torch.Tensor:
    probability = plane.sigmoid()
    bits = torch.special.entr(probability) + torch.special.entr(1 - probability)
    mean: torch.Tensor = bits.mean(dim=0) / math.log(2)
    return mean


def _by_plane(scores: torch.Tensor, entropy: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Plane by plane, for a copy of all scores would be as large as the slab."""
    return torch.stack([entropy(plane.float()) for plane in scores.unbind(1)])[None]
