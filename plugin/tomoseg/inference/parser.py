"""MONAI's parser of a bundle's config, with its scripts and the files beside it, ready for this machine."""

import copy
import importlib
import inspect
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.networks import nets

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.trust import code_files
from tomoseg.core.errors import BundleError, errors_as
from tomoseg.core.files import require_regular

MACRO = re.compile(r"%(?P<path>[^%]+\.(?:json|ya?ml))(?:(?:::|#)(?P<id>.+))?")
CUDA = re.compile(r"torch\.device\(\s*(['\"])cuda(?::\d+)?\1\s*\)")
MAX_FILES = 20  # that include each other

_importing = threading.RLock()  # `sys.path` and `sys.modules` are the whole process's


class Scripts:
    """The Python modules in a bundle's folder, which only its own config may import.

    Args:
        root: the bundle's folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.realpath(root)
        self._modules: dict[str, ModuleType] = {}
        self._needed = any(path.suffix == ".py" for path in code_files(root))

    @contextmanager
    def importable(self) -> Iterator[None]:
        """Let the modules be imported, in place of others of their names; afterwards none of them is left."""
        if not self._needed:
            yield
            return
        with _importing:
            before = dict(sys.modules)
            hidden = {name: sys.modules.pop(name) for name in before if name.partition(".")[0] == "scripts"}
            prefix = sys.pycache_prefix
            sys.pycache_prefix = os.devnull  # the user did not look at bytecode in the folder
            sys.path.insert(0, self._root)
            sys.modules.update(self._modules)
            importlib.invalidate_caches()
            try:
                yield
            finally:
                sys.pycache_prefix = prefix
                sys.path.remove(self._root)
                own = {name: module for name, module in sys.modules.items()
                       if name not in before or module is not before[name]}  # fmt: skip
                self._modules = {name: module for name, module in own.items() if self._holds(module)}
                for name in self._modules:
                    del sys.modules[name]
                sys.modules.update(hidden)

    def _holds(self, module: ModuleType) -> bool:
        places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
        return any(os.path.realpath(place).startswith(self._root + os.sep) for place in places if place)


def make_parser(bundle: Bundle, device: torch.device) -> tuple[ConfigParser, tuple[str, ...]]:
    """Return the parser of a bundle's inference config, and notes about what had to be changed in it.

    Args:
        bundle: the bundle.
        device: where its network runs.

    Raises:
        BundleError: a file cannot be read.
    """
    path = bundle.inference_config
    parser = ConfigParser()
    with errors_as(BundleError, f"{path}: cannot be read", Exception):  # of json, of yaml or of MONAI
        config = ConfigParser.load_config_file(str(require_regular(path)))
        if "preprocessing" not in config and len(bundle.inference_configs) > 1:  # it changes entries of the usual one
            config = ConfigParser.load_config_files([str(require_regular(one)) for one in bundle.inference_configs])
        parser.set(_include(config, bundle.root, path.parent))
        if bundle.metadata_file.is_file():
            parser.read_meta(str(require_regular(bundle.metadata_file)))
    return parser, tuple(_adapt(parser, device))


def _include(entry: Any, root: Path, folder: Path, depth: int = 0) -> Any:
    """Put what `%FILE::ID` names in its place; MONAI would look for the file in the working directory.

    Args:
        entry: of a config.
        root: the bundle's folder.
        folder: of the config.
        depth: how many files include this one.
    """
    if isinstance(entry, dict):
        return {key: _include(value, root, folder, depth) for key, value in entry.items()}
    if isinstance(entry, list):
        return [_include(value, root, folder, depth) for value in entry]
    named = MACRO.fullmatch(entry) if isinstance(entry, str) else None
    if named is None:
        return entry
    path = next((place / named["path"] for place in (folder, root) if (place / named["path"]).is_file()), None)
    if path is None or os.path.realpath(path) not in {os.path.realpath(one) for one in code_files(root)}:
        raise BundleError(f"{folder}: {entry}: expected a file in the bundle's configs. Put it there.")
    if depth >= MAX_FILES:
        raise BundleError(f"{path}: more than {MAX_FILES} files include each other. Take one out.")
    included = ConfigParser(ConfigParser.load_config_file(str(require_regular(path))))
    part = included[named["id"].replace("#", "::")] if named["id"] else included.get()
    return _include(copy.deepcopy(part), root, path.parent, depth + 1)


def _adapt(parser: ConfigParser, device: torch.device) -> Iterator[str]:
    """Change entries that cannot work here, as little as possible; yield a note for each change."""
    network = parser.get().get("network_def")
    target = str(network.get("_target_", "")).rpartition(".")[2] if isinstance(network, dict) else ""
    dropped = target == "SwinUNETR" and "img_size" not in inspect.signature(nets.SwinUNETR).parameters
    if dropped and network.pop("img_size", None) is not None:
        yield "network_def::img_size is left out, for MONAI's SwinUNETR has no such argument any more"
    if device.type != "cuda":
        for where in _off_gpu(parser.get(), device):
            yield f"{where} is set to {device}, for the config names a GPU"


def _off_gpu(entry: Any, device: torch.device, where: str = "") -> Iterator[str]:
    """Set devices that are GPUs to another one, and yield where they are."""
    pairs = list(entry.items() if isinstance(entry, dict) else enumerate(entry) if isinstance(entry, list) else ())
    for key, value in pairs:
        place = f"{where}::{key}" if where else str(key)
        if not isinstance(value, str):
            yield from _off_gpu(value, device, place)
            continue
        plain = re.fullmatch(r"cuda(:\d+)?", value) and str(key) in ("device", "map_location")
        changed = str(device) if plain else CUDA.sub(f"torch.device('{device}')", value)
        if changed != value and place != "device":
            entry[key] = changed
            yield place
