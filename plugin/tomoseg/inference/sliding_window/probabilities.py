"""Whether a network's output is logits or probabilities already, and the probabilities of either."""

import torch

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
    if activated and bool(logits.min() >= 0) and bool((logits.sum(dim=0) - 1).abs().max() < ROUNDING):
        return logits
    return logits.softmax(dim=0)
