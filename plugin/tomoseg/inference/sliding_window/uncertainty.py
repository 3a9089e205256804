"""How undecided the scores are."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch


def softmax_entropy(scores: torch.Tensor, activated: bool) -> torch.Tensor:
    """Return (1, D, H, W), the entropy over (labels, D, H, W): 0 for certain, 1 for all labels alike.

    Shannon's entropy divided by the logarithm of the number of labels.

    Args:
        scores: (labels, D, H, W).
        activated: whether the bundle applies no soft-max of its own: its network may end with one, and scores that are
            probabilities already are taken as they are.
    """

    def entropy(plane: torch.Tensor) -> torch.Tensor:
        probabilities = plane if activated and are_probabilities(plane) else plane.softmax(dim=0)
        nats: torch.Tensor = torch.special.entr(probabilities).sum(dim=0)
        return nats / math.log(max(len(plane), 2))

    return _by_plane(scores, entropy)


def sigmoid_entropy(scores: torch.Tensor, activated: bool) -> torch.Tensor:
    """Return (1, D, H, W), the entropy of a yes or no for each label, in bits, averaged over (labels, D, H, W).

    Args:
        scores: (labels, D, H, W).
        activated: whether they are probabilities already.
    """

    def entropy(plane: torch.Tensor) -> torch.Tensor:
        yes = plane.clamp(0, 1) if activated else plane.sigmoid()
        nats: torch.Tensor = (torch.special.entr(yes) + torch.special.entr(1 - yes)).mean(dim=0)
        return nats / math.log(2)

    return _by_plane(scores, entropy)


def are_probabilities(plane: torch.Tensor) -> bool:
    """Tell whether the network's output, (labels, …), is probabilities already, which add up to 1."""
    return bool(plane.min() >= 0) and bool((plane.sum(dim=0) - 1).abs().max() < 1e-2)


def _by_plane(scores: torch.Tensor, entropy: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Plane by plane, for a copy of all scores would be as large as the slab."""
    return torch.stack([entropy(plane.float()) for plane in scores.unbind(1)])[None]
