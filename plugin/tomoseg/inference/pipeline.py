"""A bundle with its weights loaded, run on one volume after the other: by the engine, or by MONAI where it must be."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import Options
from tomoseg.core.errors import BackendError, BundleError, TomosegError, UsageError, one_line, root_cause
from tomoseg.core.quiet import quiet
from tomoseg.data.geometry import Grid
from tomoseg.data.labels import split_side
from tomoseg.data.volume import Volume
from tomoseg.inference.backends import Backend, choose_backend, choose_precision, make_backend
from tomoseg.inference.config import InferenceConfig
from tomoseg.inference.memory import is_out_of_memory
from tomoseg.inference.sliding_window.decision import Interpolated
from tomoseg.inference.sliding_window.ensemble import averaged
from tomoseg.inference.sliding_window.placement import NotRecognisedError, Placement, identity_placement, place
from tomoseg.inference.sliding_window.recognise import Recipe, recognise_inferer, recognise_postprocessing
from tomoseg.inference.sliding_window.stream import Limits, OnWindow, Output, segment_streamed
from tomoseg.inference.sliding_window.uncertainty import sigmoid_entropy, softmax_entropy
from tomoseg.inference.sliding_window.windows import place_windows
from tomoseg.inference.weights import asks_for_int8, hash_weights, weights_in_use
from tomoseg.transforms.cleaner import cleaning_remarks
from tomoseg.transforms.cleaners import CLEANERS
from tomoseg.transforms.non_finite import ReplaceNonFinited

Shape = tuple[int, int, int]


@dataclass
class Prediction:
    """What a bundle makes of one volume.

    Args:
        array: (C, I, J, K), as the bundle's post-processing leaves it; C is 1 for a label map.
        affine: 4×4, voxel indices of `array` to RAS+ mm.
        seconds: time of each stage.
        remarks: what was done otherwise than usual.
        entropy: (I, J, K) float32 in the scan's grid, where it was asked for.
        windows, skipped: how many windows there were, and how many of them did not need to run.
        planned_ram_bytes, planned_vram_bytes: predicted peak, 0 where nothing was predicted.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    seconds: dict[str, float]
    remarks: list[str] = field(default_factory=list)
    entropy: NDArray[np.float32] | None = None
    windows: int = 0
    skipped: int = 0
    planned_ram_bytes: int = 0
    planned_vram_bytes: int = 0


def add_up(predictions: Sequence[Prediction]) -> Prediction:
    """Return what several predictions took together; array and affine are those of the last."""
    seconds: dict[str, float] = {}
    for one in predictions:
        for stage, taken in one.seconds.items():
            seconds[stage] = seconds.get(stage, 0.0) + taken
    return replace(
        predictions[-1],
        seconds=seconds,
        remarks=list(dict.fromkeys(remark for one in predictions for remark in one.remarks)),
        windows=sum(one.windows for one in predictions),
        skipped=sum(one.skipped for one in predictions),
        planned_ram_bytes=max(one.planned_ram_bytes for one in predictions),
        planned_vram_bytes=max(one.planned_vram_bytes for one in predictions),
    )


class Pipeline:
    """The inference config of one bundle with its weights loaded.

    Args:
        bundle: the bundle.
        device: where the network runs.
        options: how it is run.

    Raises:
        BundleError: the config or the checkpoint is missing, damaged, or does not fit the other.
        UsageError: the options do not go together, or not with the bundle.
    """

    def __init__(self, bundle: Bundle, device: torch.device, options: Options) -> None:
        self.bundle = bundle
        self.device = device
        self._options = options
        self._config = config = InferenceConfig(bundle, device, options.overlap)
        self._mirror_axes = config.mirror_axes if options.tta else ()
        if options.tta and not self._mirror_axes:
            raise UsageError(f"bundle {bundle.name}: declares no mirror_axes in its inference config, so no --tta")
        skip_empty = config.skip_empty if options.skip_empty is None else options.skip_empty
        self._limits = Limits(options.max_memory_bytes, skip_empty)
        int8 = asks_for_int8(options)
        if int8 and options.precision not in ("auto", "int8"):
            raise UsageError(f"checkpoint: one is in int8, which does not go with --precision {options.precision}")
        precision = choose_precision("int8" if int8 else options.precision, device, config.amp)
        name = choose_backend(options.backend, device, precision)
        if options.compile and (options.backend == "openvino" or int8):
            raise UsageError("compile: is for the torch backend; use --backend torch")
        name = "torch" if options.compile else name
        self._cleaners = [CLEANERS[name]("image") for name in options.clean]
        weights = weights_in_use(config, options)
        self._networks = [config.load_network(one.checkpoint) for one in weights]
        self.checkpoint_sha256 = hash_weights(weights)
        self._backends: list[Backend] = [
            make_backend(name, network, device, precision, one.sha256, options.compile, one.int8)
            for network, one in zip(self._networks, weights, strict=True)
        ]
        self._backend_remark = ""

    @property
    def backend(self) -> str:
        return self._backends[0].name

    @property
    def precision(self) -> str:
        return self._backends[0].precision

    @property
    def replaces_non_finite(self) -> bool:
        """Whether NaN and infinite values are replaced, by the options or by the bundle's own preprocessing."""
        steps = [*self._cleaners, *self._config.preprocessing.transforms]
        return any(isinstance(step, ReplaceNonFinited) for step in steps)

    def clean(self, volume: Volume) -> Volume:
        """Run the cleaning that the options ask for.

        Raises:
            VolumeError: there is nothing in the volume that could be cleaned.
            MissingPackageError: a library for it is not installed.
        """
        if not self._cleaners:
            return volume
        image = MetaTensor(np.stack(volume.channels), affine=torch.tensor(volume.grid.affine))
        image.meta["filename_or_obj"] = volume.source
        data = {"image": image}
        with quiet():
            for cleaner in self._cleaners:  # one by one, for Compose makes RuntimeErrors of all that is raised
                data = cleaner(data)
        image = data["image"]
        first, *further = image.numpy()
        remarks = (*volume.remarks, *cleaning_remarks(image))
        return replace(volume, array=first, further=tuple(further), remarks=remarks)

    def prepare(self, volume: Volume) -> dict[str, Any]:
        """Run the bundle's preprocessing.

        Raises:
            BundleError: it fails, or leaves values that are not finite.
        """
        self._config.reader.volume = volume
        try:
            with torch.no_grad(), quiet(), self._stage("preprocessing", {}):
                data = dict(self._config.preprocessing({self._config.image_key: volume.source}))
        finally:
            self._config.reader.volume = None
        if self.replaces_non_finite and not data[self._config.image_key].isfinite().all():
            raise BundleError(f"bundle {self.bundle.name}: preprocessing leaves NaN or infinity in {volume.source}")
        return data

    def predict(
        self,
        data: dict[str, Any],
        scan: Grid,
        name: str,
        on_window: OnWindow | None = None,
        target: Grid | None = None,
    ) -> Prediction:
        """Run network and post-processing on what `prepare` returned.

        Args:
            data: what `prepare` returned.
            scan: the scan's grid.
            name: what errors call the scan.
            on_window: called with the windows that are done and all of them.
            target: another grid for the result, in the same mm; what the engine does not know stays in the scan's.

        Raises:
            BundleError: the bundle's own transforms or network fail on it.
            MemoryLimitError: it needs more memory than the options allow.
        """
        with torch.no_grad(), quiet():
            try:
                return self._run_streamed(data, scan, name, on_window, target)
            except NotRecognisedError as reason:
                asked_for = {
                    "uncertainty": self._options.uncertainty,
                    "tta": self._options.tta,
                    "precision int8": self.precision == "int8",  # it was checked on windows that the engine cuts
                }
                for option, asked in asked_for.items():
                    if asked:
                        raise BundleError(f"bundle {self.bundle.name}: no --{option} for {reason}") from reason
                beyond = "" if self._options.max_memory is None else "; --max-memory does not hold for it"
                remark = f"run by MONAI itself, for the engine does not know {reason}{beyond}"
            return self._run_dense(data, remark)  # not in the `except`, which keeps all that was made until then

    def _run_streamed(
        self, data: dict[str, Any], scan: Grid, name: str, on_window: OnWindow | None, target: Grid | None
    ) -> Prediction:
        """Blend, restore and decide slab by slab; then run what the bundle does with label maps."""
        config = self._config
        recipe = recognise_postprocessing(
            config.postprocessing, config.prediction_key, config.preprocessing, config.image_key
        )
        inferer = recognise_inferer(self._config.inferer)
        image = data[self._config.image_key]
        placement = place(image, scan)
        if target is not None and recipe.interpolated:
            placement, scan = placement.seen_from(scan, target), target
        self._refuse_swapped_sides(np.asarray(image.affine))
        outputs = _Outputs(recipe, placement, scan.shape, tuple(image.shape[1:]), self._options.uncertainty)
        seconds: dict[str, float] = {}
        with self._stage("loading", seconds):
            self._compile((inferer.sw_batch_size, image.shape[0], *place_windows(image.shape[1:], inferer).roi_size))
        predict = averaged(self._backends, self._mirror_axes)
        limits = replace(self._limits, batch_size=self._backends[0].batch_size)
        streaming: dict[str, float] = {}
        with self._stage("network", streaming):
            tally = segment_streamed(
                image.as_tensor().to(self.device), inferer, predict, outputs.make, limits, name, on_window
            )
        seconds["network"] = tally.network_s
        seconds["blending"] = streaming["network"] - tally.network_s - tally.restoring_s
        seconds["restoring"] = tally.restoring_s
        array, affine = outputs.labels, scan.affine
        if not recipe.interpolated:
            data[self._config.prediction_key] = MetaTensor(torch.from_numpy(array.astype(np.float32)), meta=image.meta)
        elif recipe.rest.transforms:
            labels = torch.from_numpy(array.astype(np.float32))  # as AsDiscreted gives them
            data[self._config.prediction_key] = MetaTensor(labels, affine=torch.tensor(scan.affine))
        if recipe.rest.transforms:
            with self._stage("postprocessing", seconds):
                array, affine = _as_array(recipe.rest(data)[self._config.prediction_key], scan.affine)
        return Prediction(
            array=array,
            affine=affine,
            seconds=seconds,
            remarks=[*cleaning_remarks(image), *filter(None, [self._backend_remark]), *tally.remarks],
            entropy=outputs.entropy,
            windows=tally.windows,
            skipped=tally.skipped,
            planned_ram_bytes=tally.plan.ram_bytes,
            planned_vram_bytes=tally.plan.vram_bytes,
        )

    def _run_dense(self, data: dict[str, Any], remark: str) -> Prediction:
        """Run the bundle's own inferer and post-processing on the whole volume."""
        image = data[self._config.image_key]
        seconds: dict[str, float] = {}
        with self._stage("network", seconds):
            scores = self._config.inferer(image[None].to(self.device), averaged(self._torch_backends()))
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        with self._stage("postprocessing", seconds):
            data[self._config.prediction_key] = scores[0]
            result = self._config.postprocessing(data)[self._config.prediction_key]
            array, affine = _as_array(result, image.affine.cpu().numpy())
        return Prediction(array=array, affine=affine, seconds=seconds, remarks=[*cleaning_remarks(image), remark])

    def _compile(self, shape: tuple[int, ...]) -> None:
        """Make the backends ready for windows of this shape; a network that OpenVINO does not know runs on torch."""
        try:
            for backend in self._backends:
                backend.prepare(shape)
        except BackendError as reason:
            if self._options.backend != "auto" or self._options.compile or self.precision == "int8":
                raise
            self._backend_remark = f"run by torch, for {one_line(reason)}"
            self._backends = self._torch_backends()

    def _torch_backends(self) -> list[Backend]:
        """Return the networks as PyTorch runs them, whatever they are."""
        return [
            make_backend("torch", network, self.device, self.precision, "", compiled=False)
            for network in self._networks
        ]

    def _refuse_swapped_sides(self, affine: NDArray[np.float64]) -> None:
        across = [axis for axis in self._mirror_axes if io_orientation(affine)[axis, 0] == 0]
        labels = self.bundle.label_table.values() if across else ()
        sided = [label.name for label in labels if label.side is not None or split_side(label.name)[1]]
        if sided:
            raise BundleError(
                f"bundle {self.bundle.name}: mirror_axes: axis {across[0]} runs from left to right, and the label "
                f"{sided[0]!r} has a side; take it out"
            )

    @contextmanager
    def _stage(self, name: str, seconds: dict[str, float]) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        except (TomosegError, NotRecognisedError):
            raise
        except Exception as error:  # a bundle may run any transform, and so raise anything
            if is_out_of_memory(root_cause(error)):
                raise MemoryError(one_line(root_cause(error))) from error
            raise BundleError(f"bundle {self.bundle.name}: {name} failed: {one_line(root_cause(error))}") from error
        seconds[name] = time.perf_counter() - start


class _Outputs:
    """The arrays that the engine fills."""

    def __init__(self, recipe: Recipe, placement: Placement, scan: Shape, network: Shape, uncertainty: bool) -> None:
        self.labels: NDArray[Any] = np.empty(0)
        self.entropy = np.zeros(scan, np.float32) if uncertainty else None
        self._recipe = recipe
        self._placement = placement
        self._shape = scan if recipe.interpolated else network
        self._where = placement if recipe.interpolated else identity_placement(network)

    def make(self, scores: int) -> list[Output]:
        """Return what is to be made of so many scores."""
        decision = self._recipe.decide(scores)
        if self._recipe.threshold is None:
            self.labels = np.zeros((1, *self._shape), np.uint8 if scores <= 256 else np.uint16)
            outputs = [Output(self.labels[0], self._where, decision, _all)]
        else:
            self.labels = np.zeros((scores, *self._shape), np.uint8)
            outputs = [
                Output(values, self._where, decision, partial(_one, index)) for index, values in enumerate(self.labels)
            ]
        if self.entropy is not None:
            entropy = softmax_entropy if self._recipe.threshold is None else sigmoid_entropy
            chosen = partial(entropy, activated=self._recipe.activation is None)
            outputs.append(Output(self.entropy, self._placement, Interpolated(), chosen))
        return outputs


def _all(scores: torch.Tensor) -> torch.Tensor:
    return scores


def _one(index: int, scores: torch.Tensor) -> torch.Tensor:
    return scores[index : index + 1]


def _as_array(result: Any, affine: NDArray[np.float64]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    if isinstance(result, MetaTensor):
        affine = np.asarray(result.affine.cpu(), dtype=np.float64)
    return torch.as_tensor(result).cpu().numpy(), affine
