"""Fingerprint of a network's computation, without running it."""

import hashlib
import sys
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import torch

from tomoseg.core.files import open_regular

PLAIN_TYPES = (bool, int, float, str, tuple, type(None))


def describe_network(network: torch.nn.Module) -> str:
    """Return a SHA-256 over weights, buffers, settings and source files of a network and of all modules in it."""
    digest = hashlib.sha256(f"torch {torch.__version__}, monai {version('monai')}\n".encode())
    for name, module in network.named_modules():
        settings = {key: value for key, value in vars(module).items() if isinstance(value, PLAIN_TYPES)}
        digest.update(f"{name} {type(module).__qualname__} {sorted(settings.items())!r}\n".encode())
    for name, tensor in chain(network.named_parameters(), network.named_buffers()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    for file in sorted({file for kind in map(type, network.modules()) if (file := _source(kind))}):
        digest.update(open_regular(Path(file)).read())
    return digest.hexdigest()


def _source(kind: type) -> str | None:
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return file if file and Path(file).is_file() else None
