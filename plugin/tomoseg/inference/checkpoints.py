"""Files of weights: read without running anything that they hold, and written whole or not at all."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tomoseg.bundle.configs import find_config
from tomoseg.bundle.registry import as_folder
from tomoseg.core.errors import BundleError, errors_as, import_package, one_line, root_cause
from tomoseg.core.files import atomic_file, require_regular

# wrappers of a network that put their name before each weight's: DistributedDataParallel, torch.compile
PREFIXES = ("module.", "_orig_mod.")
Weights = dict[str, torch.Tensor]


def numpy_values() -> list[Any]:
    """Return what numbers and arrays of NumPy are pickled as, by NumPy 1 and 2, as torch's `safe_globals` takes it."""
    builders: list[Any] = [np.float64(0).__reduce__()[0], np.zeros(1).__reduce__()[0]]
    types = [type(np.dtype(kind)) for kind in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")]
    named = [(one, f"numpy.{core}.multiarray.{one.__name__}") for one in builders for core in ("_core", "core")]
    return [np.dtype, np.ndarray, *types, *named]


def require_checkpoint(path: Path) -> None:
    """Raise BundleError, with the command that brings them, if there is no file of weights."""
    if path.is_file():
        return
    root = path.parent.parent
    advice = "Put the bundle's weights there."
    if (root / "large_files.yml").is_file():
        advice = (
            f"Fetch the weights: python -m monai.bundle download_large_files --bundle_path {shlex.quote(str(root))}"
        )
    elif find_config(root, "train"):
        advice = f"Train the bundle: tomoseg train {shlex.quote(as_folder(root))} --data DATASET"
    raise BundleError(f"{path}: no such checkpoint. {advice}")


def unpickle(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """Return what a checkpoint holds: tensors and plain values, for a pickle of unknown origin must not run code.

    Args:
        path: its file.
        allowed: classes and functions that it may name besides those of NumPy's values, as torch's `safe_globals`
            takes them.

    Raises:
        BundleError: it cannot be read, or holds something else.
    """
    try:
        with torch.serialization.safe_globals([*numpy_values(), *allowed]):
            return torch.load(require_regular(path), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises what pickle, zip and the operating system do
        reason = str(root_cause(error))
        if named := re.search(r"GLOBAL ([\w.]+)", reason):
            raise BundleError(
                f"{path}: not opened, for it names {named[1]}, and only tensors and plain values are allowed. Save the "
                "network's state dict alone."
            ) from error
        raise BundleError(f"{path}: cannot be read as a checkpoint: {one_line(root_cause(error))}") from error


def read_weights(path: Path, key: str) -> Weights:
    """Return the weights in a checkpoint, without unpickling code.

    Args:
        path: its file; `.safetensors` holds weights alone.
        key: the entry that the weights are in, if the file has others, too; empty where no config says it.

    Raises:
        BundleError: it is missing, holds something else, or several entries could be meant.
        MissingPackageError: safetensors is not installed.
    """
    require_checkpoint(path)
    content: Any = _read_safetensors(path) if path.suffix == ".safetensors" else unpickle(path)
    if not isinstance(content, dict):
        raise BundleError(f"{path}: expected a state dict, got {type(content).__name__}")
    if key and key in content and isinstance(content[key], dict):
        content = content[key]
    if _is_weights(content):
        return dict(content)
    found = [str(name) for name, entry in content.items() if isinstance(entry, dict) and entry and _is_weights(entry)]
    if len(found) != 1:
        wanted = f"a state dict, or one under {key!r}" if key else "one state dict"
        others = f"several: {', '.join(found)}. Name one in the config's load_dict" if found else "something else"
        raise BundleError(f"{path}: expected {wanted}, got {others}")
    weights: Weights = content[found[0]]
    return weights


def fit_names(weights: Weights, names: Sequence[str]) -> Weights:
    """Return weights without the prefixes that wrappers give all of them, unless they have these names already."""
    for prefix in PREFIXES * 2:  # in either order
        if weights.keys() != set(names) and all(name.startswith(prefix) for name in weights):
            weights = {name.removeprefix(prefix): value for name, value in weights.items()}
    return weights


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


def _is_weights(content: dict[Any, Any]) -> bool:
    return all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items())


def _read_safetensors(path: Path) -> Weights:
    package = import_package("safetensors.torch", "safetensors")
    with errors_as(BundleError, f"{path}: cannot be read as safetensors", Exception):  # it has errors of its own
        weights: Weights = package.load_file(require_regular(path))
    return weights
