"""How near the logits of an exported network come to PyTorch's."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tomoseg.convert.export.export_source import ExportSource
from tomoseg.data.overlap import dice_of_counts
from tomoseg.inference.sliding_window.fused_postprocessing import FusedPostprocessing

# a window (1, C, D, H, W) to its logits (1, labels, D, H, W)
Runner = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Parity:
    """The comparison with PyTorch in fp32.

    Attributes:
        largest_difference: of a logit, relative to the range of all logits of the windows.
        dice: for each label, of all windows' voxels together; labels that neither has are left out.
    """

    largest_difference: float
    dice: dict[str, float]

    @property
    def mean_dice(self) -> float | None:
        """The mean over the labels; None if there is no label."""
        return statistics.fmean(self.dice.values()) if self.dice else None


class NetworkParity:
    """How near logits come to those of PyTorch, window after window.

    Args:
        source: the network, whose post-processing makes labels of logits.
    """

    def __init__(self, source: ExportSource) -> None:
        self._origin = source
        self._low, self._high = float("inf"), float("-inf")
        self._difference = torch.tensor(0.0)
        # for each label, from 1 on: how many voxels have it in both, and how many in each, added up
        self._common = self._both = torch.zeros((), dtype=torch.int64)

    def add(self, found: torch.Tensor, wanted: torch.Tensor) -> None:
        """Compare the logits (1, labels, D, H, W) of a window with PyTorch's.

        Raises:
            ValueError: they are not of the same shape.
        """
        if found.shape != wanted.shape:
            raise ValueError(f"expected logits of shape {tuple(wanted.shape)}, got {tuple(found.shape)}")
        self._low, self._high = min(self._low, float(wanted.min())), max(self._high, float(wanted.max()))
        # NaN stays NaN, which no limit lets pass
        self._difference = torch.maximum(self._difference, (found - wanted).abs().max())
        if self._origin.fused is None:  # the labels of its logits are not known
            return
        common, both = _overlap(self._origin.fused, found, wanted)
        self._common, self._both = self._common + common, self._both + both

    @property
    def parity(self) -> Parity:
        """What came of all windows together."""
        pairs = zip(self._common.reshape(-1).tolist(), self._both.reshape(-1).tolist(), strict=True)
        dice = {
            _name(self._origin, label): dice_of_counts(common, both)
            for label, (common, both) in enumerate(pairs, 1)
            if both
        }
        return Parity(float(self._difference) / max(self._high - self._low, 1e-6), dice)


def compare(source: ExportSource, run: Runner, windows: Sequence[torch.Tensor]) -> Parity:
    """Run an exported network and PyTorch on the same windows.

    Raises:
        ValueError: the logits are not of the same shape.
    """
    agreement = NetworkParity(source)
    with torch.no_grad():
        for window in windows:
            agreement.add(run(window), source.network(window))
    return agreement.parity


def _overlap(
    fused: FusedPostprocessing, found: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return for each label, from 1 on, how many voxels have it in both, and how many in each, added up."""
    count = wanted.shape[1]
    if fused.threshold is None:
        pairs = count * found.argmax(dim=1) + wanted.argmax(dim=1)
        table = torch.bincount(pairs.flatten(), minlength=count * count).reshape(count, count)
        return table.diagonal()[1:], (table.sum(dim=0) + table.sum(dim=1))[1:]
    one, other = (
        ((logits if fused.activation is None else fused.activation(logits)) >= fused.threshold).flatten(2)
        for logits in (found, wanted)
    )
    return (one & other).sum(dim=(0, 2)), (one.sum(dim=(0, 2)) + other.sum(dim=(0, 2)))


def _name(source: ExportSource, label: int) -> str:
    """Return what the bundle calls a label; those that may overlap are numbered from 1 on."""
    overlapping = source.fused is not None and source.fused.threshold is not None
    return source.bundle.channels.get(label - 1 if overlapping else label, f"label {label}")
