"""Files of weights, written whole or not at all."""

from pathlib import Path
from typing import Any

import torch

from tomoseg.core.errors import one_line
from tomoseg.core.files import atomic_file


def save_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Write a state dict that any bundle's CheckpointLoader reads, atomically.

    Raises:
        OutputError: it cannot be written; the earlier file is kept.
    """
    plain: dict[str, torch.Tensor] = {}
    written: dict[tuple[Any, ...], torch.Tensor] = {}  # a tensor that has several names is written once
    for name, tensor in weights.items():
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        plain[name] = written.setdefault(place, tensor.detach().cpu().contiguous())
    with atomic_file(path) as temporary:
        save_object(plain, temporary)


def save_object(content: Any, path: Path) -> None:
    """Write tensors and plain values; OSError where they cannot be written."""
    try:
        with path.open("wb") as file:  # a file's name would be stored in it, and differ from run to run
            torch.save(content, file)
    except RuntimeError as error:  # torch's own writer says so of a disk that is full
        raise OSError(one_line(error)) from error
