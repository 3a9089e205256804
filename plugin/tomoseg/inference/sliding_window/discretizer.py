"""Turn logits into one label a voxel, into 0 or 1 for each label, or interpolate them."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

# logits, labels along `dim`, to logits of the same shape
Activation = Callable[[torch.Tensor], torch.Tensor]

softmax: Activation = partial(torch.softmax, dim=-1)
MIXED_UINT8 = 255
VOXELS_AT_ONCE = 1 << 19  # decided at once
MIXED_INT16 = 2**15 - 1
POSSIBLE_MARGIN = 7.0  # of logits: a thousandth of the background's probability


class Discretizer(ABC):
    """How logits become the value of a voxel of the scan.

    Attributes:
        activation: applied to the logits before they are interpolated; None for none.
        mixed: the value at a voxel where the neighbours' logits must be interpolated to know it.
    """

    activation: Activation | None = None
    mixed = MIXED_UINT8

    @abstractmethod
    def at_voxels(self, logits: torch.Tensor, possible: torch.Tensor | None = None) -> torch.Tensor:
        """Return the value at each voxel of the network's grid.

        Args:
            logits: (labels, D, H, W).
            possible: (D, H, W) bool, filled with where a label has a logit within `POSSIBLE_MARGIN` of the background.
        """

    def activate(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits (points, labels) after the activation, for interpolation."""
        return logits if self.activation is None else self.activation(logits)

    def at_points(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the value at each point for interpolated logits (points, labels), of its final type."""
        return logits[:, 0]


def _rows(logits: torch.Tensor) -> int:
    """Return how many rows of (labels, rows, A, B) are decided at once: copies of all of them would be as large."""
    return max(VOXELS_AT_ONCE // (logits.shape[2] * logits.shape[3]), 1)


@dataclass(frozen=True)
class ArgMax(Discretizer):
    """The label with the highest logit; the first of several.

    Attributes:
        labels: number of logits.
        activation: applied to the logits before they are interpolated; must keep their order. None for none.
    """

    labels: int
    activation: Activation | None = None

    @property
    def mixed(self) -> int:  # type: ignore[override]
        """Value that marks voxels whose corners differ."""
        return MIXED_UINT8 if self.labels <= MIXED_UINT8 else MIXED_INT16

    @property
    def _dtype(self) -> torch.dtype:
        return torch.uint8 if self.labels <= MIXED_UINT8 else torch.int16

    def at_voxels(self, logits: torch.Tensor, possible: torch.Tensor | None = None) -> torch.Tensor:
        """Return the label with the highest logit at each voxel."""
        rows, values = _rows(logits), []
        for first in range(0, logits.shape[1], rows):
            part = logits[:, first : first + rows]
            if len(part) == 1:
                values.append(torch.zeros_like(part[0], dtype=self._dtype))
                continue
            # the highest logit alone takes a twentieth of the time that its index takes
            highest = part[1:].amax(dim=0)
            labelled = (highest > part[0]).flatten().nonzero()[:, 0]
            found = torch.zeros(highest.numel(), dtype=self._dtype, device=part.device)
            best = part[1:].flatten(1)[:, labelled].max(dim=0).indices
            found[labelled] = (best + 1).to(self._dtype)
            values.append(found.view(highest.shape))
            if possible is not None:
                torch.gt(highest - part[0], -POSSIBLE_MARGIN, out=possible[first : first + rows])
        return torch.cat(values)

    def at_points(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the label with the highest logit at each point."""
        return logits.max(dim=1).indices.to(self._dtype)


@dataclass(frozen=True)
class Threshold(Discretizer):
    """1 where the one logit reaches a threshold, else 0: for labels that may overlap, decided one by one.

    Attributes:
        threshold: what a logit must reach, after the activation.
        activation: applied to the logit before it is interpolated. None for none.
    """

    threshold: float
    activation: Activation | None = None

    def at_voxels(self, logits: torch.Tensor, possible: torch.Tensor | None = None) -> torch.Tensor:
        """Return 1 at each voxel whose logit reaches the threshold, else 0."""
        if possible is not None:  # probabilities are all above
            torch.gt(logits[0], -POSSIBLE_MARGIN, out=possible)
        parts = torch.split(logits[0], _rows(logits))
        return torch.cat([(self.activate(part) >= self.threshold).to(torch.uint8) for part in parts])

    def at_points(self, logits: torch.Tensor) -> torch.Tensor:
        """Return 1 at each point whose logit reaches the threshold, else 0."""
        return (logits[:, 0] >= self.threshold).to(torch.uint8)


class Interpolated(Discretizer):
    """The one logit itself, interpolated at every voxel of the scan."""

    def at_voxels(self, logits: torch.Tensor, possible: torch.Tensor | None = None) -> torch.Tensor:
        """Return `mixed` at each voxel, so that each is interpolated."""
        return torch.full(logits.shape[1:], self.mixed, dtype=torch.uint8, device=logits.device)
