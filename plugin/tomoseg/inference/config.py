"""A bundle's inference config, built by MONAI's `ConfigParser`: transforms, network, inferer and weights.

Everything comes from the config. Only reading and writing files is left to the caller: `LoadImaged` gets the volume
that was read and checked already, and `SaveImaged` is left out.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import ImageReader
from monai.transforms import Compose, LoadImaged, MeanEnsembled, SaveImage, SaveImaged
from numpy.typing import NDArray

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.trust import require_trusted
from tomoseg.core.errors import BundleError, one_line, root_cause
from tomoseg.core.files import require_regular
from tomoseg.core.quiet import suppress_warnings
from tomoseg.data.volume import Volume
from tomoseg.inference.device import CPU

_VOLUME: ContextVar[Volume] = ContextVar("volume")  # of each thread its own


@contextmanager
def volume_to_load(volume: Volume) -> Iterator[None]:
    """Let the `LoadImaged` of a bundle load this volume in the current thread, for any path."""
    token = _VOLUME.set(volume)
    try:
        yield
    finally:
        _VOLUME.reset(token)


class VolumeReader(ImageReader):  # type: ignore[misc]
    """Hands the volume of `volume_to_load` to the `LoadImaged` of a bundle, which passes nothing but a path."""

    def verify_suffix(self, filename: Any) -> bool:
        """Accept every name: the volume is read already."""
        return True

    def read(self, data: Any, **kwargs: Any) -> Volume:
        """Return the volume of the current call."""
        return _VOLUME.get()

    def get_data(self, img: Any) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Return the array, (I, J, K) or (I, J, K, channel), and MONAI's metadata."""
        affine = np.array(img.grid.affine)
        meta = {
            "affine": affine,
            "original_affine": affine.copy(),
            "space": "RAS",
            "spatial_shape": np.array(img.grid.shape),
            "original_channel_dim": 0 if img.other_channels else "no_channel",
        }
        # a copy, for transforms may change it in place; in the order that MONAI would bring it to
        return np.stack(img.channels) if img.other_channels else np.array(img.array, order="C"), meta


class InferenceConfig:
    """The inference config of one bundle.

    Args:
        bundle: the bundle.
        device: where its network runs; the CPU is enough to read what the config declares.
        overlap: of the sliding window; None for the bundle's own.

    Attributes:
        preprocessing, postprocessing: the bundle's transforms.
        image_key, prediction_key: keys of the image and the prediction.
        inferer: the bundle's inferer.
        checkpoints: its weights; of several networks, the logits are averaged.
        checkpoint_key: what weights are called where a file holds more than them.

    Raises:
        UntrustedBundleError: the bundle's code may not run.
        BundleError: an entry is missing, or cannot be built.
    """

    def __init__(self, bundle: Bundle, device: torch.device = CPU, overlap: float | None = None) -> None:
        require_trusted(bundle)
        self._path = bundle.inference_config
        self._root = bundle.root
        self._device = device
        self._parser = ConfigParser()
        try:
            self._parser.read_config(str(require_regular(self._path)))
        except Exception as error:  # of json, of yaml or of MONAI
            raise BundleError(f"{self._path}: cannot be read: {one_line(error)}") from error
        self._parser["bundle_root"] = literal(str(bundle.root))
        self._parser["device"] = f"$torch.device('{device}')"
        if overlap is not None:
            self._require("inferer::overlap", "it has none, so --overlap cannot change it")
            self._parser["inferer::overlap"] = overlap
        self.checkpoints, self.checkpoint_key = self._find_checkpoints()
        self.preprocessing = self._build_transforms("preprocessing")
        self.postprocessing = self._build_transforms("postprocessing")
        self.image_key, self.prediction_key = self._connect()
        self.inferer = self._build("inferer")
        if self.nnunet_windows:  # MONAI's inferer has no argument for it
            self.inferer.nnunet_windows = True

    @property
    def amp(self) -> bool:
        """Whether the bundle's evaluator runs with automatic mixed precision."""
        return bool(self._build("evaluator::amp", False))

    @property
    def skip_empty(self) -> bool:
        """Whether the bundle declares that windows of one value need to run only once."""
        return bool(self._build("skip_empty", False))

    @property
    def nnunet_windows(self) -> bool:
        """Whether the bundle declares that windows lie, and weigh, as nnU-Net's; MONAI's own evaluator ignores it."""
        return self._build("nnunet_windows", False) is True

    @property
    def tta(self) -> bool:
        """Whether the bundle declares that predictions are averaged over the mirrorings unless the user says no."""
        return self._build("tta", False) is True

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes of the network's input, 0 to 2 along (D, H, W), along which the network was trained with mirrored data.

        Raises:
            BundleError: they are none of these.
        """
        axes = self._build("mirror_axes", [])
        if not isinstance(axes, list | tuple) or not set(axes) <= {0, 1, 2} or len(set(axes)) < len(axes):
            raise BundleError(f"{self._path}: 'mirror_axes': expected some of [0, 1, 2], got {axes}")
        return tuple(axes)

    def build_network(self) -> torch.nn.Module:
        """Return the bundle's network, new, with the weights that its constructor gives it.

        Raises:
            BundleError: it cannot be built.
        """
        network = self._build("network_def")
        if not isinstance(network, torch.nn.Module):
            raise BundleError(f"{self._path}: 'network_def': expected a network, got {type(network).__name__}")
        return copy.deepcopy(network)  # the parser gives the same one each time

    @property
    def network_definition(self) -> Any:
        """The entry `network_def` with its references resolved, without building it."""
        parser = ConfigParser(copy.deepcopy(self._parser.get()))  # it caches its entries, built or not
        try:
            return parser.get_parsed_content("network_def", instantiate=False, eval_expr=False).get_config()
        except Exception as error:  # MONAI's parser, on a config that may refer to anything
            raise BundleError(f"{self._path}: 'network_def' cannot be read: {one_line(root_cause(error))}") from error

    def load_network(self, checkpoint: Path) -> torch.nn.Module:
        """Return the bundle's network with the weights of a checkpoint, on the device.

        Raises:
            BundleError: the checkpoint cannot be read, or does not fit the network.
        """
        weights = read_weights(checkpoint, self.checkpoint_key)
        network = self.build_network()
        expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        got = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        if expected != got:
            raise BundleError(f"{checkpoint}: {_difference(expected, got)}; is it the checkpoint of this bundle?")
        network.load_state_dict(weights)
        return network.to(self._device).eval().requires_grad_(False)

    def _require(self, key: str, why: str) -> None:
        if key not in self._parser:
            raise BundleError(f"{self._path}: expected the entry {key!r}: {why}")

    def _build(self, key: str, default: Any = None) -> Any:
        """Return what an entry makes; the default where there is no such entry, which is an error without one."""
        if key not in self._parser and default is not None:
            return default
        self._require(key, "tomoseg runs it")
        try:
            with suppress_warnings():
                return self._parser.get_parsed_content(key)
        except Exception as error:  # the config may call any foreign code
            raise BundleError(f"{self._path}: {key!r} cannot be built: {one_line(root_cause(error))}") from error

    def _build_transforms(self, key: str) -> Any:
        transforms = self._build(key)
        if not isinstance(transforms, Compose):
            raise BundleError(f"{self._path}: {key!r}: expected a Compose, got {type(transforms).__name__}")
        return transforms

    def _connect(self) -> tuple[str, str]:
        """Put our reader behind LoadImaged, drop SaveImaged; return the keys of the image and of the prediction."""
        loaders = [step for step in self.preprocessing.transforms if isinstance(step, LoadImaged)]
        if not loaders:
            raise BundleError(f"{self._path}: 'preprocessing': expected a LoadImaged, got none")
        keys = loaders[0].keys
        if len(keys) != 1:
            raise BundleError(f"{self._path}: 'preprocessing': expected LoadImaged with one image, got {list(keys)}")
        loaders[0].register(VolumeReader())
        steps = self.postprocessing.transforms
        # nor are logits averaged by the config: the caller does it, window by window
        ours = SaveImaged | SaveImage | MeanEnsembled
        self.postprocessing.transforms = [step for step in steps if not isinstance(step, ours)]
        prediction = next((str(step.keys[0]) for step in steps if isinstance(step, SaveImaged)), "pred")
        return str(keys[0]), prediction

    def _find_checkpoints(self) -> tuple[list[Path], str]:
        """Return the checkpoints' files and the name of the weights in them, as the config's CheckpointLoaders say."""
        found: list[tuple[Path, str]] = []
        for key, entry in self._parser.get().items():
            members = {f"{key}::{index}": item for index, item in enumerate(entry)} if isinstance(entry, list) else {}
            for where, item in {key: entry, **members}.items():
                if isinstance(item, dict) and str(item.get("_target_", "")).endswith("CheckpointLoader"):
                    path = Path(str(self._build(f"{where}::load_path")))
                    found.append((path, next(iter(item.get("load_dict", {})), "model")))
        found = found or [(self._root / "models" / "model.pt", "model")]
        return [path for path, _ in found], found[0][1]


def literal(text: str) -> str:
    """Return a config expression for `text`: in a plain string MONAI would give #, @, % and $ a meaning."""
    return "$'" + "".join(c if c.isalnum() or c in "/._-" else f"\\U{ord(c):08x}" for c in text) + "'"


def require_checkpoint(path: Path) -> None:
    """Raise BundleError if there is no file of weights."""
    if not path.is_file():
        raise BundleError(f"{path}: no such checkpoint; train the bundle, or put its weights there")


def unpickle(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """Return what a checkpoint holds: tensors and plain values, for a pickle of unknown origin must not run code.

    Args:
        path: its file.
        allowed: further classes and functions that it may name, as for torch's `safe_globals`.

    Raises:
        BundleError: it cannot be read, or holds something else.
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(require_regular(path), map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises what pickle, zip and the operating system do
        raise BundleError(f"{path}: cannot be read as a checkpoint: {one_line(root_cause(error))}") from error


def read_weights(path: Path, key: str) -> dict[str, torch.Tensor]:
    """Return the weights in a checkpoint, without unpickling code.

    Args:
        path: its file.
        key: where they may lie in it.

    Raises:
        BundleError: it is missing, or holds something else.
    """
    require_checkpoint(path)
    content = unpickle(path)
    weights = content.get(key, content) if isinstance(content, dict) else content
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise BundleError(f"{path}: expected a state dict, or one under {key!r}, got something else")
    return weights


def _difference(expected: dict[str, tuple[int, ...]], got: dict[str, tuple[int, ...]]) -> str:
    for name, shape in expected.items():
        if name not in got:
            return f"expected the weights {name!r}, got {len(got)} others without it"
        if got[name] != shape:
            return f"expected the weights {name!r} of shape {shape}, got {got[name]}"
    return f"got the weights {next(name for name in got if name not in expected)!r}, which the network does not have"
