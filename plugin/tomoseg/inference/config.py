"""A bundle's inference config, built by MONAI's `ConfigParser`: transforms, network, inferer and weights.

Everything comes from the config. Only reading and writing files is left to the caller: `LoadImaged` gets the volume
that was read and checked already, and `SaveImaged` is left out.
"""

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import cached_property, partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, ImageReader
from monai.transforms import AsDiscreted, Compose, Invertd, LoadImaged, MeanEnsembled, SaveImage, SaveImaged
from monai.utils.enums import CommonKeys
from numpy.typing import NDArray

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.trust import require_trusted
from tomoseg.core.errors import BundleError, errors_as
from tomoseg.core.quiet import suppress_warnings
from tomoseg.data.volume import Volume
from tomoseg.inference.checkpoints import fit_names, numpy_values, read_weights
from tomoseg.inference.device import CPU
from tomoseg.inference.loaded_weights import LoadedNetwork, difference, find_key, load_weights
from tomoseg.inference.parser import Scripts, make_parser

# classes whose iteration is the inferer on the network, and entries of theirs that make it another
PLAIN_EVALUATOR = re.compile(r"(monai\.[\w.]+\.|tomoseg\.)?(Supervised|Ensemble|Streaming)Evaluator")
SCORING = ("key_val_metric", "additional_metrics")
OTHER_ITERATION = ("iteration_update", "prepare_batch")
_VOLUME: ContextVar[Iterator[Volume]] = ContextVar("volume")  # of each thread its own


@contextmanager
def volume_to_load(volume: Volume, images: int = 1) -> Iterator[None]:
    """Let the `LoadImaged` of a bundle load this volume in the current thread, for any path.

    Args:
        volume: the volume.
        images: how many images it loads; of several, each is one channel.
    """
    channels = (replace(volume, array=one, other_channels=()) for one in volume.channels)
    token = _VOLUME.set(cycle([volume] if images == 1 else channels))
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
        return next(_VOLUME.get())

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
        bundle: as given.
        preprocessing, postprocessing: the bundle's transforms.
        image_keys: keys of the loaded images: one, or one for each channel.
        image_key, prediction_key: keys of the network's input and of the prediction.
        inferer: the bundle's inferer.
        scripts: the bundle's own Python modules.
        notes: what had to be changed in the config.
        amp: whether the bundle's evaluator runs with automatic mixed precision.
        skip_empty: whether the bundle declares that windows of one value need to run only once.
        tta: whether it declares that predictions are averaged over the mirrorings unless the user says no.
        nnunet_windows: whether it declares that windows lie, and weigh, as nnU-Net's; MONAI's evaluator ignores it.
        checkpoint_key: name of the network's weights in a file that holds more than them.

    Raises:
        UntrustedBundleError: the bundle's code may not run.
        BundleError: an entry is missing, or cannot be built.
    """

    def __init__(self, bundle: Bundle, device: torch.device = CPU, overlap: float | None = None) -> None:
        require_trusted(bundle)
        self.bundle = bundle
        self._path = bundle.inference_config
        self._root = bundle.root
        self._device = device
        self.scripts = Scripts(bundle.root)
        self._parser, self.notes = make_parser(bundle, device)
        self._parser["bundle_root"] = literal(str(bundle.root.absolute()))  # relative paths begin in it
        self._parser["device"] = f"$torch.device('{device}')"
        if overlap is not None:
            self._require("inferer::overlap", "it has none, so --overlap cannot change it")
            self._parser["inferer::overlap"] = overlap
        self.checkpoint_key = find_key(self._parser.get())
        self.preprocessing = self._build_transforms("preprocessing")
        self.postprocessing = self._build_transforms("postprocessing")
        self.image_keys = self._connect_loader(bundle.input_channels)
        self.image_key = self.image_keys[0] if len(self.image_keys) == 1 else str(CommonKeys.IMAGE)
        self.prediction_key = self._drop_writers()
        self._keep_labels_whole()
        self.inferer = self._build("inferer")
        self.amp, self.skip_empty = (bool(self._build(key, False)) for key in ("evaluator::amp", "skip_empty"))
        self.tta, self.nnunet_windows = (self._build(key, False) is True for key in ("tta", "nnunet_windows"))
        if self.nnunet_windows:  # MONAI's inferer has no argument for it
            self.inferer.nnunet_windows = True

    @cached_property
    def networks(self) -> list[LoadedNetwork]:
        """The networks with the weights that MONAI gives them; of several, the logits are averaged.

        Raises:
            BundleError: one cannot be built, or its checkpoint is missing, damaged, or does not fit.
        """
        parser = ConfigParser(copy.deepcopy(self._parser.get()))  # whose networks no other parser has
        return load_weights(parser, partial(self._build, parser=parser), self._path, self._root)

    @property
    def checkpoints(self) -> list[Path]:
        """The file of the weights of each network.

        Raises:
            BundleError: as for `networks`; or the weights of one do not come from a single file.
        """
        files = [one.checkpoint for one in self.networks]
        if None in files:
            raise BundleError(f"{self._path}: its weights come from no single file. Give one with --checkpoint.")
        return [file for file in files if file is not None]

    @property
    def own_iteration(self) -> str:
        """What makes the evaluator do more than to run the inferer on the network; empty where nothing does."""
        entry = self._parser.get().get("evaluator")
        if not isinstance(entry, dict):
            return ""
        target = str(entry.get("_target_", "SupervisedEvaluator"))
        own = "" if PLAIN_EVALUATOR.fullmatch(target) else target
        return own or next((key for key in OTHER_ITERATION if key in entry), "")

    def run_evaluator(self, data: dict[str, Any], network: torch.nn.Module) -> dict[str, Any]:
        """Return what an iteration of the bundle's evaluator gives its post-processing.

        Args:
            data: what the preprocessing made of one scan.
            network: with its weights, on the device.

        Raises:
            BundleError: the evaluator cannot be built.
        """
        found: dict[str, Any] = {}
        parser = ConfigParser(copy.deepcopy(self._parser.get()))
        parser["evaluator"] = {key: entry for key, entry in parser["evaluator"].items() if key not in SCORING} | {
            "val_data_loader": DataLoader(Dataset([data]), batch_size=1, num_workers=0),
            "network": network, "postprocessing": lambda output: found.update(output) or output, "val_handlers": [],
        }  # fmt: skip
        self._build("evaluator", parser=parser).run()
        return found

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
        # MONAI's parser, on a config that may refer to anything
        with errors_as(BundleError, f"{self._path}: 'network_def' cannot be read", Exception, root=True):
            return parser.get_parsed_content("network_def", instantiate=False, eval_expr=False).get_config()

    def load_network(self, checkpoint: Path) -> torch.nn.Module:
        """Return the bundle's network with the weights of a checkpoint, on the device.

        Raises:
            BundleError: the checkpoint cannot be read, or does not fit the network.
        """
        network = self.build_network()
        own = network.state_dict()
        weights = fit_names(read_weights(checkpoint, self.checkpoint_key), list(own))
        if reason := difference(own, weights):
            raise BundleError(f"{checkpoint}: {reason}; is it the checkpoint of this bundle?")
        network.load_state_dict(weights)
        return self.ready(network)

    def ready(self, network: torch.nn.Module) -> torch.nn.Module:
        """Return a network on the device, as inference needs it."""
        for parameter in network.parameters():  # TorchScript has them, and no `requires_grad_` of its own
            parameter.requires_grad_(False)
        return network.to(self._device).eval()

    def _require(self, key: str, why: str) -> None:
        if key not in self._parser:
            raise BundleError(f"{self._path}: expected the entry {key!r}: {why}")

    def _build(self, key: str, default: Any = None, parser: ConfigParser | None = None) -> Any:
        """Return what an entry makes; the default where there is no such entry, which is an error without one."""
        if key not in self._parser and default is not None:
            return default
        self._require(key, "tomoseg runs it")
        # the config may call any foreign code
        failing = errors_as(BundleError, f"{self._path}: {key!r} cannot be built", Exception, root=True)
        known = torch.serialization.safe_globals(numpy_values())
        with failing, suppress_warnings(), self.scripts.importable(), known:
            return (parser or self._parser).get_parsed_content(key)

    def _build_transforms(self, key: str) -> Any:
        transforms = self._build(key)
        if not isinstance(transforms, Compose):
            raise BundleError(f"{self._path}: {key!r}: expected a Compose, got {type(transforms).__name__}")
        return transforms

    def _connect_loader(self, channels: int) -> tuple[str, ...]:
        """Put our reader behind LoadImaged, and return the keys of the loaded images."""
        steps = self.preprocessing.transforms
        loader = next((step for step in steps if isinstance(step, LoadImaged)), None)
        if loader is None:
            raise BundleError(f"{self._path}: 'preprocessing': expected a LoadImaged, got none")
        keys = tuple(map(str, loader.keys))
        if len(keys) > 1:  # what no other step takes is no input, such as the label of evaluation
            taken = {str(key) for step in steps if step is not loader for key in getattr(step, "keys", ())}
            if left_out := [key for key in keys if key not in taken]:
                keys = loader.keys = tuple(key for key in keys if key in taken)
                self.notes += (f"'preprocessing' loads no {', '.join(left_out)}, for a scan has none",)
            if len(keys) not in (1, channels):
                raise BundleError(
                    f"{self._path}: 'preprocessing': expected LoadImaged with one image or with one for each of "
                    f"{channels} channels, got {list(keys)}"
                )
        loader.register(VolumeReader())
        return keys

    def _drop_writers(self) -> str:
        """Drop SaveImaged, and return the key of the prediction."""
        steps = self.postprocessing.transforms
        # nor are logits averaged by the config: the caller does it, window by window
        ours = SaveImaged | SaveImage | MeanEnsembled
        self.postprocessing.transforms = [step for step in steps if not isinstance(step, ours)]
        return next((str(step.keys[0]) for step in steps if isinstance(step, SaveImaged)), "pred")

    def _keep_labels_whole(self) -> None:
        """Restore labels by nearest neighbour: linearly, label 1 would lie between 0 and 2."""
        key, decided = self.prediction_key, False
        steps = self.postprocessing.transforms
        last = max((index for index, step in enumerate(steps) if isinstance(step, AsDiscreted)), default=-1)
        for index, step in enumerate(steps):
            if isinstance(step, AsDiscreted) and key in step.keys:
                decided = True
            if not decided or index < last or not isinstance(step, Invertd) or key not in step.keys:
                continue
            nearest = [nearest or name == key for name, nearest in zip(step.keys, step.nearest_interp, strict=True)]
            if nearest != list(step.nearest_interp):
                step.nearest_interp = tuple(nearest)
                self.notes += ("'postprocessing' interpolates labels; they are restored with nearest_interp: true",)


def literal(text: str) -> str:
    """Return a config expression for `text`: in a plain string MONAI would give #, @, % and $ a meaning."""
    return "$'" + "".join(c if c.isalnum() or c in "/._-" else f"\\U{ord(c):08x}" for c in text) + "'"
