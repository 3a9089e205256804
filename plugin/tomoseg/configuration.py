"""A bundle's inference config, built by MONAI's `ConfigParser`: transforms, network, inferer and weights.

Everything comes from the config. Only reading and writing files is left to the caller: `LoadImaged` is handed the
volume that was read and checked already, and `SaveImaged` is left out.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import ImageReader
from monai.transforms import Compose, LoadImaged, SaveImage, SaveImaged
from numpy.typing import NDArray

from tomoseg.bundle import Bundle
from tomoseg.errors import BundleError, one_line
from tomoseg.silence import quiet
from tomoseg.volumes import Volume


class VolumeReader(ImageReader):  # type: ignore[misc]
    """Hands a volume that is in memory to the `LoadImaged` of a bundle."""

    volume: Volume | None = None

    def verify_suffix(self, filename: Any) -> bool:
        return True

    def read(self, data: Any, **kwargs: Any) -> Volume | None:
        return self.volume

    def get_data(self, img: Any) -> tuple[NDArray[np.float32], dict[str, Any]]:
        affine = np.array(img.grid.affine)
        meta = {
            "affine": affine,
            "original_affine": affine.copy(),
            "space": "RAS",
            "spatial_shape": np.array(img.grid.shape),
            "original_channel_dim": "no_channel",
        }
        # a copy, for transforms may change it in place; in the order that MONAI would bring it to
        return np.array(img.array, order="C"), meta


class InferenceConfig:
    """The inference config of one bundle.

    Args:
        bundle: the bundle.
        device: where its network runs.
        overlap: of the sliding window; None for the bundle's own.

    Attributes:
        preprocessing, postprocessing: the bundle's transforms.
        image_key, prediction_key: what they call the image and the prediction.
        reader: what LoadImaged reads from.
        inferer: the bundle's inferer.
        checkpoint: its weights.

    Raises:
        BundleError: an entry is missing, or cannot be built.
    """

    def __init__(self, bundle: Bundle, device: torch.device, overlap: float | None) -> None:
        self._path = bundle.inference_config
        self._root = bundle.root
        self._device = device
        self._parser = _read_config(bundle, self._path)
        self._parser["device"] = f"$torch.device('{device}')"
        if overlap is not None:
            self._require("inferer::overlap", "it has none, so --overlap cannot change it")
            self._parser["inferer::overlap"] = overlap
        self.checkpoint, self._checkpoint_key = self._find_checkpoint()
        self.reader = VolumeReader()
        self.preprocessing = self._build_transforms("preprocessing")
        self.postprocessing = self._build_transforms("postprocessing")
        self.image_key, self.prediction_key = self._connect()
        self.inferer = self._build("inferer")

    @property
    def amp(self) -> bool:
        """Whether the bundle's evaluator runs with automatic mixed precision."""
        return bool(self._build("evaluator::amp")) if "evaluator::amp" in self._parser else False

    @property
    def skip_empty(self) -> bool:
        """Whether the bundle declares that windows of one value need to run only once."""
        return bool(self._build("skip_empty")) if "skip_empty" in self._parser else False

    @property
    def mirror_axes(self) -> tuple[int, ...]:
        """Axes of the network's input, 0 to 2 along (D, H, W), along which the network was trained with mirrored data.

        Raises:
            BundleError: they are none of these.
        """
        axes = self._build("mirror_axes") if "mirror_axes" in self._parser else []
        if not isinstance(axes, list | tuple) or not set(axes) <= {0, 1, 2} or len(set(axes)) < len(axes):
            raise BundleError(f"{self._path}: 'mirror_axes': expected some of [0, 1, 2], got {axes}")
        return tuple(axes)

    def load_network(self, checkpoint: Path) -> torch.nn.Module:
        """Return the bundle's network with the weights of a checkpoint, on the device.

        Raises:
            BundleError: the checkpoint cannot be read, or does not fit the network.
        """
        weights = _read_weights(checkpoint, self._checkpoint_key)
        network = self._build("network_def")
        if not isinstance(network, torch.nn.Module):
            raise BundleError(f"{self._path}: 'network_def': expected a network, got {type(network).__name__}")
        network = copy.deepcopy(network)  # the parser gives the same one each time
        expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        got = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        if expected != got:
            raise BundleError(f"{checkpoint}: {_difference(expected, got)}; is it the checkpoint of this bundle?")
        network.load_state_dict(weights)
        return network.to(self._device).eval().requires_grad_(False)

    def _require(self, key: str, why: str) -> None:
        if key not in self._parser:
            raise BundleError(f"{self._path}: expected the entry {key!r}: {why}")

    def _build(self, key: str) -> Any:
        self._require(key, "tomoseg runs it")
        try:
            with quiet():
                return self._parser.get_parsed_content(key)
        except Exception as error:  # the config may call anything
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
        loaders[0].register(self.reader)
        savers = [step for step in self.postprocessing.transforms if isinstance(step, SaveImaged | SaveImage)]
        self.postprocessing.transforms = [step for step in self.postprocessing.transforms if step not in savers]
        prediction = next((str(saver.keys[0]) for saver in savers if isinstance(saver, SaveImaged)), "pred")
        return str(keys[0]), prediction

    def _find_checkpoint(self) -> tuple[Path, str]:
        """Return the checkpoint's file and the name of the weights in it, as the config's CheckpointLoader says."""
        for key, entry in self._parser.get().items():
            members = {f"{key}::{index}": item for index, item in enumerate(entry)} if isinstance(entry, list) else {}
            for where, item in {key: entry, **members}.items():
                if isinstance(item, dict) and str(item.get("_target_", "")).endswith("CheckpointLoader"):
                    return Path(str(self._build(f"{where}::load_path"))), next(iter(item.get("load_dict", {})), "model")
        return self._root / "models" / "model.pt", "model"


def _read_config(bundle: Bundle, path: Path) -> ConfigParser:
    parser = ConfigParser()
    try:
        parser.read_config(str(path))
    except Exception as error:  # json, yaml and MONAI's own
        raise BundleError(f"{path}: cannot be read: {one_line(error)}") from error
    parser["bundle_root"] = _literal(str(bundle.root))
    return parser


def _literal(text: str) -> str:
    """Return a config expression for `text`: in a plain string MONAI would give #, @, % and $ a meaning."""
    return "$'" + "".join(c if c.isalnum() or c in "/._-" else f"\\U{ord(c):08x}" for c in text) + "'"


def _read_weights(path: Path, key: str) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise BundleError(f"{path}: no such checkpoint; train the bundle, or put its weights there")
    try:
        # weights_only: a pickle of unknown origin must not run code
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip, torch and the operating system each have their own
        raise BundleError(f"{path}: cannot be read as a checkpoint: {one_line(root_cause(error))}") from error
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


def root_cause(error: BaseException) -> BaseException:
    """Return the error that MONAI wrapped: its own messages quote whole configs and batches."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
