"""A bundle's inference config, made ready to run on one volume after the other.

Everything comes from the config: MONAI's `ConfigParser` builds the bundle's own transforms, network and inferer. Only
reading and writing files is left to the caller: `LoadImaged` is handed the volume that was read and checked already,
and `SaveImaged` is left out.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import ImageReader, MetaTensor
from monai.transforms import Compose, LoadImaged, SaveImage, SaveImaged
from numpy.typing import NDArray

from tomoseg.bundle import Bundle
from tomoseg.engine import NotRecognisedError, place, recognise_inferer, recognise_postprocessing, segment_streamed
from tomoseg.errors import BundleError, one_line
from tomoseg.geometry import Grid
from tomoseg.volumes import Volume


class VolumeReader(ImageReader):  # type: ignore[misc]
    """Hands a volume that is in memory to the `LoadImaged` of a bundle."""

    volume: Volume

    def verify_suffix(self, filename: Any) -> bool:
        return True

    def read(self, data: Any, **kwargs: Any) -> Volume:
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
        return img.array, meta


@dataclass(frozen=True)
class Prediction:
    """What a bundle makes of one volume.

    Args:
        array: (C, I, J, K), as the bundle's post-processing leaves it; C is 1 for a label map.
        affine: 4×4, voxel indices of `array` to RAS+ mm.
        seconds: time of each stage.
        remark: why MONAI's own inferer and inverse were run in place of the engine; empty if they were not.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    seconds: dict[str, float]
    remark: str = ""


class Pipeline:
    """The inference config of one bundle with its weights loaded.

    Args:
        bundle: the bundle.
        device: where the network runs.
        overlap: share of the window by which neighbours overlap, in [0, 1); None for the config's.

    Raises:
        BundleError: the config or the checkpoint is missing, damaged, or does not fit the other.
    """

    def __init__(self, bundle: Bundle, device: torch.device, overlap: float | None = None) -> None:
        self.bundle = bundle
        self.device = device
        self._config = bundle.inference_config
        self._parser = _read_config(bundle, self._config)
        self._parser["device"] = f"$torch.device('{device}')"
        if overlap is not None:
            self._require("inferer::overlap", "it has none, so --overlap cannot change it")
            self._parser["inferer::overlap"] = overlap
        self.checkpoint, self._checkpoint_key = self._find_checkpoint()
        self._preprocessing = self._build_transforms("preprocessing")
        self._reader = VolumeReader()
        self._image_key, self._prediction_key = self._connect(self._preprocessing)
        self._inferer = self._build("inferer")
        self._network = self._load_network()

    def __call__(self, volume: Volume) -> Prediction:
        """Run preprocessing, network and post-processing on one volume.

        Raises:
            BundleError: the bundle's own transforms or network fail on it.
        """
        self._reader.volume = volume
        seconds: dict[str, float] = {}
        with torch.no_grad(), _quiet():
            with self._stage("preprocessing", seconds):
                data = self._preprocessing({self._image_key: volume.source})
            try:
                array, affine = self._run_streamed(data, volume.grid, seconds)
                remark = ""
            except NotRecognisedError as reason:
                array, affine = self._run_dense(data, seconds)
                remark = f"run by MONAI itself, for the engine does not know {reason}"
        return Prediction(array=array, affine=affine, seconds=seconds, remark=remark)

    def _run_streamed(
        self, data: dict[str, Any], scan: Grid, seconds: dict[str, float]
    ) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Blend, restore and label slab by slab; then run what the bundle does with label maps."""
        recipe = recognise_postprocessing(self._postprocessing, self._prediction_key)
        inferer = recognise_inferer(self._inferer)
        image = data[self._image_key]
        placement = place(image, scan)
        with self._stage("network", seconds):
            labels, restoring = segment_streamed(
                image.as_tensor().to(self.device), placement, scan.shape, inferer, self._network, recipe.activation
            )
        seconds["network"] -= restoring
        seconds["restoring"] = restoring
        if not recipe.rest.transforms:
            return labels[None], scan.affine
        with self._stage("postprocessing", seconds):
            data[self._prediction_key] = MetaTensor(torch.from_numpy(labels[None]), affine=torch.tensor(scan.affine))
            return _as_array(recipe.rest(data)[self._prediction_key], scan.affine)

    def _run_dense(self, data: dict[str, Any], seconds: dict[str, float]) -> tuple[NDArray[Any], NDArray[np.float64]]:
        """Run the bundle's own inferer and post-processing on the whole volume."""
        image = data[self._image_key]
        with self._stage("network", seconds):
            scores = self._inferer(image[None].to(self.device), self._network)
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        with self._stage("postprocessing", seconds):
            data[self._prediction_key] = scores[0]
            return _as_array(self._postprocessing(data)[self._prediction_key], image.affine.cpu().numpy())

    @contextmanager
    def _stage(self, name: str, seconds: dict[str, float]) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        except (MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a bundle may run any transform, and so raise anything
            raise BundleError(f"bundle {self.bundle.name}: {name} failed: {one_line(_cause(error))}") from error
        seconds[name] = time.perf_counter() - start

    def _require(self, key: str, why: str) -> None:
        if key not in self._parser:
            raise BundleError(f"{self._config}: expected the entry {key!r}: {why}")

    def _build(self, key: str) -> Any:
        self._require(key, "tomoseg runs it")
        try:
            with _quiet():
                return self._parser.get_parsed_content(key)
        except Exception as error:  # the config may call anything
            raise BundleError(f"{self._config}: {key!r} cannot be built: {one_line(_cause(error))}") from error

    def _build_transforms(self, key: str) -> Any:
        transforms = self._build(key)
        if not isinstance(transforms, Compose):
            raise BundleError(f"{self._config}: {key!r}: expected a Compose, got {type(transforms).__name__}")
        return transforms

    def _connect(self, preprocessing: Any) -> tuple[str, str]:
        """Put our reader behind LoadImaged, drop SaveImaged; return the keys of the image and of the prediction."""
        loaders = [step for step in preprocessing.transforms if isinstance(step, LoadImaged)]
        if not loaders:
            raise BundleError(f"{self._config}: 'preprocessing': expected a LoadImaged, got none")
        keys = loaders[0].keys
        if len(keys) != 1:
            raise BundleError(f"{self._config}: 'preprocessing': expected LoadImaged with one image, got {list(keys)}")
        loaders[0].register(self._reader)
        self._postprocessing = self._build_transforms("postprocessing")
        savers = [step for step in self._postprocessing.transforms if isinstance(step, SaveImaged | SaveImage)]
        self._postprocessing.transforms = [step for step in self._postprocessing.transforms if step not in savers]
        prediction = next((str(saver.keys[0]) for saver in savers if isinstance(saver, SaveImaged)), "pred")
        return str(keys[0]), prediction

    def _find_checkpoint(self) -> tuple[Path, str]:
        """Return the checkpoint's file and the name of the weights in it, as the config's CheckpointLoader says."""
        for key, entry in self._parser.get().items():
            members = {f"{key}::{index}": item for index, item in enumerate(entry)} if isinstance(entry, list) else {}
            for where, item in {key: entry, **members}.items():
                if isinstance(item, dict) and str(item.get("_target_", "")).endswith("CheckpointLoader"):
                    return Path(str(self._build(f"{where}::load_path"))), next(iter(item.get("load_dict", {})), "model")
        return self.bundle.root / "models" / "model.pt", "model"

    def _load_network(self) -> torch.nn.Module:
        weights = _read_weights(self.checkpoint, self._checkpoint_key)
        network = self._build("network_def")
        if not isinstance(network, torch.nn.Module):
            raise BundleError(f"{self._config}: 'network_def': expected a network, got {type(network).__name__}")
        expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        got = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        if expected != got:
            raise BundleError(f"{self.checkpoint}: {_difference(expected, got)}; is it the checkpoint of this bundle?")
        network.load_state_dict(weights)
        return network.to(self.device).eval()


def _as_array(result: Any, affine: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    if isinstance(result, MetaTensor):
        affine = np.asarray(result.affine.cpu(), dtype=np.float64)
    return torch.as_tensor(result).cpu().numpy(), affine


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
        raise BundleError(f"{path}: cannot be read as a checkpoint: {one_line(_cause(error))}") from error
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


def _cause(error: BaseException) -> BaseException:
    """Return the error that MONAI wrapped: its own messages quote whole configs and batches."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep MONAI's warnings for developers off the screen of somebody who only segments."""
    level = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
