"""How undecided the network's output is."""

import math
from collections.abc import Callable

import torch
from torch.special import entr

from tomoseg.inference.sliding_window.probabilities import to_probabilities


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
