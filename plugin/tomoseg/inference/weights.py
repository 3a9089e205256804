"""Choose the weights of a run: the bundle's or others, in floating point or in int8."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.core.files import sha256
from tomoseg.inference.backends.int8_network import Int8Network, find_int8, int8_path
from tomoseg.inference.checkpoints import require_checkpoint
from tomoseg.inference.config import InferenceConfig

INT8_SUFFIX = ".xml"
NO_FILE = "no single file"  # of weights that a config makes of several files, or of none


@dataclass(frozen=True)
class CheckpointSet:
    """The weights of one network.

    Attributes:
        checkpoint: their file; None if they come from no single one.
        sha256: of the file, or of the state dict if there is no such file.
        int8: the network in int8 that was made from them, where it is run in their place.
    """

    checkpoint: Path | None
    sha256: str
    int8: Int8Network | None = None


def asks_for_int8(options: RunOptions) -> bool:
    """Return whether int8 networks run, by the precision or by a checkpoint that is one."""
    return options.precision == "int8" or any(Path(path).suffix == INT8_SUFFIX for path in options.checkpoints)


def weights_in_use(config: InferenceConfig, options: RunOptions) -> list[CheckpointSet]:
    """Return the weights of all networks whose logits are averaged.

    Raises:
        BundleError: a file is missing, or a network in int8 was not made from the weights that it stands for.
        MissingPackageError: there is int8, and OpenVINO is not installed.
    """
    if not options.checkpoints and not asks_for_int8(options):
        return [CheckpointSet(one.checkpoint, one.sha256) for one in config.networks]
    paths = [Path(path) for path in options.checkpoints] or config.checkpoints
    return [_find(config, path, asks_for_int8(options)) for path in paths]


def hash_weights(weights: Sequence[CheckpointSet]) -> list[str]:
    """Return the SHA-256 of the files of the weights, then of the networks in int8."""
    return [one.sha256 for one in weights] + [one.int8.sha256 for one in weights if one.int8]


def name_weights(weights: Sequence[CheckpointSet], root: Path) -> list[str]:
    """Return the files of the weights as `hash_weights` does their hashes; those of a bundle relative to its folder."""
    files = [one.checkpoint for one in weights] + [one.int8.xml for one in weights if one.int8]
    return [
        NO_FILE if file is None else file.absolute().as_posix().removeprefix(f"{root.as_posix()}/") for file in files
    ]


def find_weights(bundle: Bundle, options: RunOptions) -> list[CheckpointSet]:
    """Return the weights of a bundle, or of a set of bundles, in use; raises as `weights_in_use` does."""
    bundles = [member for member, _ in bundle.members] or [bundle]
    configs = [InferenceConfig(one, overlap=options.overlap) for one in bundles]
    return [one for config in configs for one in weights_in_use(config, options)]


def _find(config: InferenceConfig, path: Path, int8: bool) -> CheckpointSet:
    if path.suffix == INT8_SUFFIX:  # of one of the bundle's own checkpoints, wherever it lies
        own = {_hash(checkpoint): checkpoint for checkpoint in config.checkpoints}
        network = find_int8(path, list(own), config.network_definition)
        return CheckpointSet(own[network.checkpoint_sha256], network.checkpoint_sha256, network)
    key = _hash(path)
    return CheckpointSet(path, key, find_int8(int8_path(path), [key], config.network_definition) if int8 else None)


def _hash(path: Path) -> str:
    require_checkpoint(path)
    return sha256(path)
