"""The checkpoints of nnU-Net 2, opened without running anything that they hold."""

from dataclasses import dataclass
from pathlib import Path

import torch

from tomoseg.core.errors import BundleError
from tomoseg.inference.checkpoints import fit_names, unpickle


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint of nnU-Net says.

    Attributes:
        weights: by their names in the network.
        trainer: class that trained it.
        mirror_axes: axes of the network's input, 0 to 2, over which predictions may be mirrored.
    """

    weights: dict[str, torch.Tensor]
    trainer: str
    mirror_axes: tuple[int, ...]


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of nnU-Net 2.

    Raises:
        BundleError: it is missing, cannot be read, or holds something else.
    """
    if not path.is_file():
        raise BundleError(f"{path}: no such checkpoint. Give a results folder of nnU-Net that was trained")
    content = unpickle(path)
    weights = content.get("network_weights") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise BundleError(f"{path}: expected a checkpoint of nnU-Net 2 with 'network_weights', got something else")
    axes = content.get("inference_allowed_mirroring_axes") or ()
    if not isinstance(axes, list | tuple) or any(axis not in (0, 1, 2) for axis in axes):
        raise BundleError(f"{path}: 'inference_allowed_mirroring_axes': expected some of [0, 1, 2], got {axes}")
    plain = fit_names({str(name): _single(value) for name, value in weights.items()}, ())
    return Checkpoint(plain, str(content.get("trainer_name")), tuple(axes))


def _single(value: torch.Tensor) -> torch.Tensor:
    return value.float() if value.is_floating_point() else value
