"""The networks of an inference config with the weights that MONAI gives them, without the rest of its run."""

import hashlib
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine
from monai.bundle import ConfigParser, ReferenceResolver
from monai.handlers import CheckpointLoader

from tomoseg.core.errors import BundleError, errors_as
from tomoseg.core.files import require_regular, sha256
from tomoseg.core.quiet import suppress_warnings
from tomoseg.inference.checkpoints import Weights, fit_names, read_weights

NETWORK_ENTRIES = ("evaluator::networks", "network_def", "network")
WEIGHTS = {"network_def", "network", "networks"}  # entries that an expression of `initialize` may load
RUN = {"dataset", "dataloader", "evaluator", "trainer"}  # and those that weights do not need
DEFAULT = "models/model.pt"  # of a config without any loader


@dataclass(frozen=True)
class LoadedNetwork:
    """A network with its weights.

    Attributes:
        module: the network.
        checkpoint: the file that its weights come from; None if they come from several, or from none.
        sha256: of the file, or of the state dict if there is no such file.
        loaded: whether anything loads weights, the constructor of a compiled network included.
    """

    module: torch.nn.Module
    checkpoint: Path | None
    sha256: str
    loaded: bool = True


def load_weights(parser: ConfigParser, build: Callable[[str], Any], path: Path, root: Path) -> list[LoadedNetwork]:
    """Build the networks of a config and load their weights as a run of MONAI does.

    Of the config, only the expressions of `initialize` that refer to a network run, and the enabled CheckpointLoaders,
    wherever they stand. Neither the dataset nor another handler is built.

    Args:
        parser: of the inference config; its networks get the weights.
        build: returns the object of an entry of this parser.
        path: the config's file, for errors.
        root: the bundle's folder, where relative paths begin.

    Raises:
        BundleError: something cannot be built, or a checkpoint is missing, damaged, or does not fit.
    """
    key = next((key for key in NETWORK_ENTRIES if key in parser), "network_def")
    built = build(key)
    modules = list(built) if isinstance(built, list | tuple) else [built]
    if not all(isinstance(module, torch.nn.Module) for module in modules):
        raise BundleError(f"{path}: {key!r}: expected a network, got {type(modules[0]).__name__}")
    config = parser.get()
    sources: dict[int, list[Path | None]] = {id(module): [] for module in modules}
    for index, entry in enumerate(config.get("initialize") or ()):
        reached = set(_references(parser, entry))
        if reached & WEIGHTS and not reached & RUN:
            build(f"initialize::{index}")
            for known in sources.values():
                known.append(None)
    places = list(_find_loaders(config))
    for place in places:
        loader = build(place)
        if not isinstance(loader, CheckpointLoader):  # disabled
            continue
        targets = [id(target) for target in loader.load_dict.values() if id(target) in sources]
        if targets:
            checkpoint = root / str(loader.load_path)  # an absolute path stays
            _run(loader, checkpoint, sources.keys())
            for target in targets:
                sources[target].append(checkpoint)
    if not places and not any(sources.values()) and not isinstance(modules[0], torch.jit.ScriptModule):
        checkpoint = root / DEFAULT
        for module in modules:
            _put(module, read_weights(checkpoint, ""), checkpoint, strict=True)
            sources[id(module)].append(checkpoint)
    return [_describe(module, sources[id(module)]) for module in modules]


def find_key(config: dict[str, Any]) -> str:
    """Return the name of the network's weights in a checkpoint, as the first loader has it; empty without one."""
    for place in _find_loaders(config):
        entry: Any = config
        for key in place.split(ReferenceResolver.sep):
            entry = entry[int(key)] if isinstance(entry, list) else entry[key]
        loaded = entry.get("load_dict")
        names = list(loaded) if isinstance(loaded, dict) else []
        of_network = [name for name in names if re.match(r"\$?@network", str(loaded[name]))]
        return str(next(iter(of_network or names), ""))
    return ""


def _references(parser: ConfigParser, entry: Any) -> Iterator[str]:
    """Yield the top-level entries that an entry refers to, directly or through others."""
    waiting, seen = [entry], set[str]()
    while waiting:
        for reference in ReferenceResolver.find_refs_in_config(waiting.pop(), ""):
            name = reference.split(ReferenceResolver.sep)[0]
            if name and name not in seen:
                seen.add(name)
                yield name
                if name in parser:
                    waiting.append(parser[name])


def _find_loaders(config: Any, place: str = "") -> Iterator[str]:
    """Yield the places of the CheckpointLoaders in a config, in its order."""
    members = enumerate(config) if isinstance(config, list) else config.items() if isinstance(config, dict) else ()
    for key, member in members:
        where = f"{place}{ReferenceResolver.sep}{key}" if place else str(key)
        if isinstance(member, dict) and str(member.get("_target_", "")).endswith("CheckpointLoader"):
            yield where
        yield from _find_loaders(member, where)


def _run(loader: CheckpointLoader, checkpoint: Path, networks: Collection[int]) -> None:
    """Load a checkpoint into networks as a loader does at the start of a run."""
    wanted = {key: target for key, target in loader.load_dict.items() if id(target) in networks}
    if len({id(target) for target in wanted.values()}) < len(wanted):
        raise BundleError(f"{checkpoint}: 'load_dict': expected one entry for the network, got {', '.join(wanted)}")
    for key, target in wanted.items():
        weights = read_weights(checkpoint, str(key))
        if loader.strict_shape:
            _put(target, weights, checkpoint, loader.strict)
            continue
        # errors of torch, ignite or MONAI, which skips the weights of another shape
        with errors_as(BundleError, f"{checkpoint}: cannot be loaded", Exception, root=True), suppress_warnings():
            loader.load_path = str(require_regular(checkpoint))
            loader(Engine(lambda engine, batch: None))


def _put(network: torch.nn.Module, weights: Weights, checkpoint: Path, strict: bool) -> None:
    own = network.state_dict()
    weights = fit_names(weights, list(own))
    reason = difference(own, weights)
    if not strict:  # names may differ, and shapes may not
        reason = difference({name: own[name] for name in own.keys() & weights}, weights, names=False)
    if reason:
        raise BundleError(f"{checkpoint}: {reason}; is it the checkpoint of this bundle?")
    network.load_state_dict(weights, strict=strict)


def difference(expected: Weights, got: Weights, names: bool = True) -> str:
    """Return how two state dicts differ, by shapes and, unless it is left out, by names; empty if they do not."""
    for name, tensor in expected.items():
        if name not in got:
            return f"expected the weights {name!r}, got {len(got)} others without it"
        if got[name].shape != tensor.shape:
            return f"expected the weights {name!r} of shape {tuple(tensor.shape)}, got {tuple(got[name].shape)}"
    strange = next((name for name in got if names and name not in expected), None)
    return f"got the weights {strange!r}, which the network does not have" if strange else ""


def _describe(module: torch.nn.Module, sources: list[Path | None]) -> LoadedNetwork:
    if len(sources) == 1 and sources[0] is not None:
        return LoadedNetwork(module, sources[0], sha256(sources[0]))
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    loaded = bool(sources) or isinstance(module, torch.jit.ScriptModule)
    return LoadedNetwork(module, None, digest.hexdigest(), loaded)
