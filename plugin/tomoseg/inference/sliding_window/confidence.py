"""Sums over the voxels of each label, added up while slabs are decided: what the expected Dice is computed from."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tomoseg.inference.sliding_window.probabilities import to_logits

LOGITS_AT_ONCE = 1 << 20  # that are copied at once
FACES = 4  # the last column of the sums


class ConfidenceSums:
    """Sums of probabilities in the network's grid, over the voxels that may have a label.

    Voxels where no label comes near the background (`POSSIBLE_MARGIN`) are left out: most of a scan, whose tiny
    probabilities would count by how much of the surroundings is in view.

    Args:
        labels: number of logits.
        activated: as for `to_probabilities`.
        overlapping: whether each label has a probability of its own (sigmoid); then there is one logit.
        temperatures: what the logits are divided by; the sums are made for each.

    Attributes:
        sums: (temperature, label, 5) float64: number of voxels of the label; sum of its probability over these, and
            over all; sum of the probability's square over all; number of faces between the label and others.
    """

    def __init__(self, labels: int, activated: bool, overlapping: bool, temperatures: Sequence[float] = (1.0,)) -> None:
        self.sums = np.zeros((len(temperatures), labels, FACES + 1))
        self._activated = activated
        self._overlapping = overlapping
        self._temperatures = temperatures
        self._last: torch.Tensor | None = None  # slice of labels

    def add(self, logits: torch.Tensor, labels: torch.Tensor, possible: torch.Tensor) -> None:
        """Add the slices that follow those before.

        Args:
            logits: (labels, slices, A, B).
            labels: (slices, A, B), the decided values; 0 or 1 where labels may overlap.
            possible: (slices, A, B) bool, the voxels that may have a label.
        """
        added = np.zeros_like(self.sums)
        planes = max(LOGITS_AT_ONCE // logits[:, 0].numel(), 1)
        for first in range(0, len(labels), planes):
            part = slice(first, first + planes)
            where = possible[part].flatten().nonzero()[:, 0]
            rows = logits[:, part].flatten(1)[:, where].float()
            rows, index = to_logits(rows, self._activated, self._overlapping), labels[part].flatten()[where].long()
            for place, temperature in enumerate(self._temperatures):
                columns = _sigmoid_sums if self._overlapping else _softmax_sums
                added[place, :, :FACES] += torch.stack(columns(rows / temperature, index), dim=1).cpu().numpy()
        added[..., FACES] = self._count_faces(labels)
        self.sums += added  # at the end, for a slab that outgrows the GPU comes again
        self._last = labels[-1].clone()

    def _count_faces(self, labels: torch.Tensor) -> NDArray[Any]:
        """Return the number of faces of each label to other labels."""
        before = 0 if self._last is None else 1
        values = labels if self._last is None else torch.cat([self._last.to(labels.device)[None], labels])
        faces = torch.zeros_like(values, dtype=torch.uint8)
        for axis, first in enumerate((0, before, before)):
            one, other = (values[first:].narrow(axis, side, values[first:].shape[axis] - 1) for side in (0, 1))
            for side in (0, 1):
                faces[first:].narrow(axis, side, one.shape[axis]).add_(one != other)
        where = faces.flatten().nonzero()[:, 0]
        count = self.sums.shape[1] + self._overlapping
        found = torch.bincount(values.flatten()[where].long(), faces.flatten()[where].float(), count)
        return found[self._overlapping :].cpu().numpy()


def _softmax_sums(rows: torch.Tensor, index: torch.Tensor) -> list[torch.Tensor]:
    """Return the sums (label,) for logits (label, voxels), which are overwritten, and the voxels' labels."""
    count = len(rows)
    shares = rows.sub_(rows.gather(0, index[None])).exp_()
    decided = shares.sum(dim=0).reciprocal_()  # the probability of the voxel's label, whose share is 1
    voxels = torch.bincount(index, minlength=count).to(rows.dtype)
    inside = rows.new_zeros(count).index_add_(0, index, decided)
    return [voxels, inside, shares @ decided, shares.square_() @ decided.square()]


def _sigmoid_sums(rows: torch.Tensor, index: torch.Tensor) -> list[torch.Tensor]:
    """Return the sums (1,) for logits (1, voxels) and whether the voxels have the label."""
    yes = rows.sigmoid()
    return [index.sum()[None].to(rows.dtype), yes @ index.to(rows.dtype), yes.sum(dim=1), yes.square().sum(dim=1)]
