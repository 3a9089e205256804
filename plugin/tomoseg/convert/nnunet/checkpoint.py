"""The checkpoints of nnU-Net 2, opened without running anything that they hold."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tomoseg.core.errors import BundleError
from tomoseg.inference.config import unpickle

# wrappers of a network that put their name before each weight's: DistributedDataParallel, torch.compile
PREFIXES = ("module.", "_orig_mod.")


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
    content = unpickle(path, _numpy_scalars())
    weights = content.get("network_weights") if isinstance(content, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise BundleError(f"{path}: expected a checkpoint of nnU-Net 2 with 'network_weights', got something else")
    axes = content.get("inference_allowed_mirroring_axes") or ()
    if not isinstance(axes, list | tuple) or any(axis not in (0, 1, 2) for axis in axes):
        raise BundleError(f"{path}: 'inference_allowed_mirroring_axes': expected some of [0, 1, 2], got {axes}")
    return Checkpoint(
        {_plain(str(name)): _single(value) for name, value in weights.items()},
        str(content.get("trainer_name")),
        tuple(axes),
    )


def _single(value: torch.Tensor) -> torch.Tensor:
    return value.float() if value.is_floating_point() else value


def _plain(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _numpy_scalars() -> list[Any]:
    """Return what numbers of numpy are pickled as, by numpy 1 and 2; nothing more is allowed."""
    scalar = np.float64(0).__reduce__()[0]
    types = [type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")]
    return [np.dtype, *types, *((scalar, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core"))]
