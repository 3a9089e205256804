"""Whether a network's output is logits or probabilities already, the probabilities of either, and their entropy."""

import math
from collections.abc import Callable

import torch
from torch.special import entr

SMALLEST = 1e-6  # probability that has a logit
ROUNDING = 1e-2  # by which probabilities in half precision may miss a sum of 1


def to_probabilities(logits: torch.Tensor, activated: bool, overlapping: bool = False) -> torch.Tensor:
    """Return probabilities, of the shape of the network's output.

    Args:
        logits: (labels, …), what the network gives.
        activated: whether the bundle applies no activation of its own. Its network may end with one, and output that
            is probabilities already is returned as such.
        overlapping: whether each label has a probability of its own (sigmoid); otherwise they sum to 1 (soft-max).
    """
    if overlapping:
        return logits.clamp(0, 1) if activated else logits.sigmoid()
    return logits if activated and _sum_to_1(logits) else logits.softmax(dim=0)


def to_logits(logits: torch.Tensor, activated: bool, overlapping: bool) -> torch.Tensor:
    """Return logits of what the network gives, which may be probabilities; the arguments are those of the above."""
    if overlapping:
        return logits.logit(SMALLEST) if activated else logits
    return logits.clamp(min=SMALLEST).log() if activated and _sum_to_1(logits) else logits


def _sum_to_1(logits: torch.Tensor) -> bool:
    if not logits.numel():
        return True
    return bool(logits.min() >= 0) and bool((logits.sum(dim=0) - 1).abs().max() < ROUNDING)


def softmax_entropy(logits: torch.Tensor, activated: bool) -> torch.Tensor:
    """Return (1, D, H, W), the entropy over (labels, D, H, W): 0 for certain, 1 for all labels alike.

    Shannon's entropy divided by the logarithm of the number of labels.

    Args:
        logits: (labels, D, H, W).
        activated: as for `to_probabilities`.
    """
    return _by_plane(
        logits, lambda plane: entr(to_probabilities(plane, activated)).sum(dim=0) / math.log(max(len(plane), 2))
    )


def sigmoid_entropy(logits: torch.Tensor, activated: bool) -> torch.Tensor:
    """Return (1, D, H, W), the entropy of a yes or no for each label, in bits, averaged over (labels, D, H, W).

    Args:
        logits: (labels, D, H, W).
        activated: as for `to_probabilities`.
    """

    def entropy(plane: torch.Tensor) -> torch.Tensor:
        yes = to_probabilities(plane, activated, overlapping=True)
        nats: torch.Tensor = (entr(yes) + entr(1 - yes)).mean(dim=0)
        return nats / math.log(2)

    return _by_plane(logits, entropy)


def _by_plane(logits: torch.Tensor, entropy: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Plane by plane, for a copy of all logits would be as large as the slab."""
    return torch.stack([entropy(plane.float()) for plane in logits.unbind(1)])[None]
