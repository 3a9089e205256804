"""A bundle's transforms and networks, run on one volume after the other: by the engine, else by MONAI."""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureTyped, Lambdad, LoadImaged, MapLabelValued, Spacingd
from nibabel.orientations import io_orientation
from numpy.typing import NDArray
from scipy import ndimage

from tomoseg.bundle.confidence import RAW_TEMPERATURE, ExpectedDice, expect_dice, read_confidence
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.core.errors import BundleError, TomosegError, UsageError, one_line, root_cause
from tomoseg.core.memory import is_out_of_memory
from tomoseg.core.quiet import suppress_warnings
from tomoseg.core.reading import read_with, require_room
from tomoseg.core.run_stats import RunStats
from tomoseg.data.geometry import Grid
from tomoseg.data.labels import split_side
from tomoseg.data.volume import Volume
from tomoseg.inference.config import InferenceConfig, volume_to_load
from tomoseg.inference.networks import Networks, load_networks
from tomoseg.inference.sliding_window.blend import blend_whole
from tomoseg.inference.sliding_window.ensemble import averaged
from tomoseg.inference.sliding_window.fused_postprocessing import recognise_inferer, recognise_postprocessing
from tomoseg.inference.sliding_window.placement import NotRecognisedError, place, scan_grid
from tomoseg.inference.sliding_window.probabilities import to_probabilities
from tomoseg.inference.sliding_window.restore import neighbours
from tomoseg.inference.sliding_window.stream import Limits, OnWindow
from tomoseg.inference.sliding_window.windows import place_windows
from tomoseg.inference.streaming import Engine, as_prediction
from tomoseg.transforms import CLEANERS, ReplaceNonFinited
from tomoseg.transforms.cleaner import cleaning_notes


@dataclass(frozen=True)
class Prediction:
    """What a bundle makes of one volume.

    Attributes:
        array: (C, I, J, K), as the bundle's post-processing leaves it; C is 1 for a label map.
        affine: 4×4, voxel indices of `array` to RAS+ mm.
        stats: times and memory.
        entropy: (I, J, K) float32 in the scan's grid, if requested.
        sums: (temperature, logit, 5), as `StreamedLabels` has them; None where MONAI ran the bundle, or where its
            post-processing gives labels other values.
        expected_dice: by the values of the labels, where it is known.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    stats: RunStats
    entropy: NDArray[np.float32] | None = None
    sums: NDArray[np.float64] | None = None
    expected_dice: Mapping[int, ExpectedDice] = field(default_factory=dict)


class DevicePreprocessing:
    """A bundle's preprocessing, which runs on a GPU from where the scan is loaded: the scan crosses to it once.

    Args:
        steps: the bundle's transforms; a step is put behind the one that loads.
        keys: keys of the images.
        device: where they run.

    Attributes:
        note: why they run on the CPU, which they do from then on; empty otherwise.
    """

    def __init__(self, steps: Compose, keys: Sequence[str], device: torch.device) -> None:
        self._steps = steps
        self._move: EnsureTyped | None = None
        self.note = ""
        if device.type != "cpu":
            self._move = EnsureTyped(keys, device=device)
            loader = next(index for index, step in enumerate(steps.transforms) if isinstance(step, LoadImaged))
            steps.transforms = [*steps.transforms[: loader + 1], self._move, *steps.transforms[loader + 1 :]]

    def __call__(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return what the bundle's preprocessing makes of a path."""
        if self._move is not None:
            try:
                return dict(self._steps(data))
            except Exception as error:  # foreign transforms may not support a GPU, and its memory is small
                self.note = f"preprocessed on the CPU: {one_line(root_cause(error))}"
            self._steps.transforms = [step for step in self._steps.transforms if step is not self._move]
            self._move = None
        return dict(self._steps(data))


class Pipeline:
    """The inference config of one bundle with its weights loaded.

    Several threads may prepare and clean volumes, and one predicts.

    Args:
        bundle: the bundle.
        device: where the network runs.
        options: how it is run.
        networks: those of another pipeline of the bundle; None to load them.

    Attributes:
        config: the bundle's inference config.
        networks: its networks.
        replaces_non_finite: whether the options or the bundle's own preprocessing replace NaN and infinite values.
        temperatures: as `Engine` has them.

    Raises:
        BundleError: the config or the checkpoint is missing, damaged, or does not fit the other.
        UsageError: the options do not go together, or not with the bundle.
    """

    def __init__(
        self, bundle: Bundle, device: torch.device, options: RunOptions, networks: Networks | None = None
    ) -> None:
        self.bundle = bundle
        self.device = device
        self._options = options
        self.config = config = InferenceConfig(bundle, device, options.overlap)
        mirrored = config.tta if options.tta is None else options.tta
        self._mirror_axes = config.mirror_axes if mirrored else ()
        if options.tta and not self._mirror_axes:
            raise UsageError(f"bundle {bundle.name}: declares no mirror_axes in its inference config, so no --tta")
        skip_empty = config.skip_empty if options.skip_empty is None else options.skip_empty
        self._limits = Limits(options.max_memory_bytes, skip_empty)
        self._cleaners = [CLEANERS[name]("image") for name in options.clean]
        steps = [*self._cleaners, *config.preprocessing.transforms]
        self.replaces_non_finite = any(isinstance(step, ReplaceNonFinited) for step in steps)
        # under a limit, its memory is counted in RAM
        where = device if options.max_memory is None else torch.device("cpu")
        self._preprocess = DevicePreprocessing(config.preprocessing, config.image_keys, where)
        self.networks = networks or load_networks(config, device, options)
        self._confidence = read_confidence(bundle.root, [one.sha256 for one in self.networks.weights])
        self.temperatures: tuple[float, ...] = (self._confidence.temperature if self._confidence else RAW_TEMPERATURE,)
        # a bundle's transforms may keep state: Invertd switches off what the preprocessing records
        self._transforms_lock = threading.Lock()

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
        with suppress_warnings():
            for cleaner in self._cleaners:  # one by one, for Compose makes RuntimeErrors of all that is raised
                data = cleaner(data)
        image = data["image"]
        first, *other_channels = image.numpy()
        notes = (*volume.notes, *cleaning_notes(image))
        return replace(volume, array=first, other_channels=tuple(other_channels), notes=notes)

    def prepare(self, volume: Volume) -> dict[str, Any]:
        """Run the bundle's preprocessing.

        Raises:
            BundleError: it fails, or leaves values that are not finite.
        """
        key = self.config.image_key
        self._require_room(volume)
        with (
            self._transforms_lock,
            volume_to_load(volume, len(self.config.image_keys)),
            torch.no_grad(),
            suppress_warnings(),
            self._stage("preprocessing", {}),
        ):
            data = self._preprocess(dict.fromkeys(self.config.image_keys, volume.source))
        if self.replaces_non_finite and not data[key].isfinite().all():
            raise BundleError(f"bundle {self.bundle.name}: preprocessing leaves NaN or infinity in {volume.source}")
        return data

    def _require_room(self, volume: Volume) -> None:
        """Refuse a scan that the bundle would resample to more voxels than may be taken: its header may lie."""
        step = next((one for one in self.config.preprocessing.transforms if isinstance(one, Spacingd)), None)
        wanted = np.resize(step.spacing_transform.pixdim, 3) if step is not None else np.zeros(3)
        if (wanted > 0).all():
            voxels = np.prod(volume.grid.shape) * volume.grid.voxel_volume_ml * 1000 / np.prod(wanted)
            with read_with(self._options.reading):
                require_room(f"{volume.source}, resampled to {tuple(wanted.tolist())} mm", int(voxels))

    def predict(
        self, data: dict[str, Any], scan: Grid, name: str, on_window: OnWindow | None = None, target: Grid | None = None
    ) -> Prediction:
        """Run network and post-processing on what `prepare` returned, which is left unchanged.

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
        with torch.no_grad(), suppress_warnings():
            try:
                return self._run_streamed(data, scan, name, on_window, target)
            except NotRecognisedError as reason:
                note = self._describe_fallback(reason)
            return self._run_dense(data, note)  # not in the `except`, which keeps all that was made until then

    def probabilities(self, data: dict[str, Any], grid: Grid) -> NDArray[np.float32]:
        """Return the network's output (label, i, j, k) at the voxels of a grid, for what `prepare` returned.

        Only the part of the volume that the grid covers is run, or one window around it where that is larger.

        Args:
            data: what `prepare` returned, which is left unchanged.
            grid: in the mm of the scan.

        Raises:
            BundleError: the network fails on it.
        """
        image = data[self.config.image_key]
        size = np.array(image.shape[1:])
        window, first, activated, overlapping, engine = size, False, True, False, None
        nearest_axes: tuple[int, ...] = ()
        with torch.no_grad(), suppress_warnings(), self._stage("network", {}):
            try:
                engine = self._engine(image)
                window = np.minimum(place_windows(image.shape[1:], engine.inferer).roi_size, size)
                first, activated = engine.fused.activation is not None, engine.fused.activated
                overlapping = engine.fused.threshold is not None
                nearest_axes = place(image, scan_grid(image)).nearest_axes
                backends, _ = self.networks.compiled(image.shape, engine.inferer)
            except NotRecognisedError as reason:
                self._describe_fallback(reason)
                engine = None
                backends = self.networks.on_torch()
            predict = averaged(backends, self._mirror_axes)
            matrix = np.linalg.solve(np.asarray(image.affine, dtype=np.float64), grid.affine)
            ends = np.indices((2, 2, 2)).reshape(3, 8) * (np.array(grid.shape)[:, None] - 1)
            # beyond the outermost voxel centres the outermost counts, as when labels are restored
            corners = np.clip(matrix[:3, :3] @ ends + matrix[:3, 3:], 0, size[:, None] - 1)
            low, high = corners.min(axis=1), corners.max(axis=1)
            extent = np.maximum(window, np.ceil(high) - np.floor(low) + 1).astype(int)
            start = np.clip(np.round((low + high - extent + 1) / 2).astype(int), 0, size - extent)
            d, h, w = map(slice, start, start + extent)
            part = image.as_tensor()[:, d, h, w].to(self.device)
            if engine is None:
                # a copy, for a backend may write its next window over this one
                logits = self.config.inferer(part[None], lambda batch: predict(batch).clone())[0].float()
            else:
                logits = blend_whole(part, engine.inferer, predict)
            if first:
                logits = to_probabilities(logits, activated, overlapping)
        # what the labels are made of is interpolated: logits, unless the bundle activates them first
        matrix[:3, 3] -= start
        for axis in nearest_axes:  # the nearest slice at each of the grid's along the axis that runs most along it
            along = int(np.abs(matrix[axis, :3]).argmax())
            places = matrix[axis, along] * np.arange(grid.shape[along]) + matrix[axis, 3]
            slices = neighbours(places, 0, logits.shape[axis + 1] - 1, logits.device, nearest=True).lower
            logits = logits.index_select(axis + 1, slices)
            matrix[axis] = np.eye(4)[along]
        where = (matrix[:3, :3], matrix[:3, 3], grid.shape)
        found = [ndimage.affine_transform(one, *where, order=1, mode="nearest") for one in logits.cpu().numpy()]
        array = torch.from_numpy(np.stack(found))
        return (array if first else to_probabilities(array, activated, overlapping)).numpy()

    def _describe_fallback(self, reason: NotRecognisedError) -> str:
        """Return a note that says why MONAI runs the bundle; refuse what only the engine can."""
        asked_for = {
            "uncertainty": self._options.uncertainty,
            "tta": self._options.tta,
            "checkpoint several times": bool(self.config.own_iteration) and len(self.networks.modules) > 1,
            "precision int8": self.networks.precision == "int8",  # it was checked on windows that the engine cuts
        }
        for option, asked in asked_for.items():
            if asked:
                raise BundleError(f"bundle {self.bundle.name}: no --{option} for {reason}") from reason
        without = {
            "--max-memory does not hold for it": self._options.max_memory is not None,
            "it does not average mirrored predictions": bool(self._mirror_axes),
            "its windows are not those of nnU-Net": self.config.nnunet_windows,
        }
        beyond = "".join(f"; {what}" for what, missing in without.items() if missing)
        return f"run by MONAI itself: the engine does not support {reason}{beyond}"

    def _engine(self, image: MetaTensor) -> Engine:
        """Return what streams an image; NotRecognisedError where the bundle does something else."""
        config = self.config
        if config.own_iteration:
            raise NotRecognisedError(f"the evaluator's {config.own_iteration}")
        fused = recognise_postprocessing(
            config.postprocessing, config.preprocessing, config.image_key, config.prediction_key
        )
        inferer = recognise_inferer(config.inferer)
        self._require_sides(image)
        return Engine(
            inferer, fused, self.networks, self.device, self._limits, self._mirror_axes,
            self._options.uncertainty, self.temperatures,
        )  # fmt: skip

    def _run_streamed(
        self, data: dict[str, Any], scan: Grid, name: str, on_window: OnWindow | None, target: Grid | None
    ) -> Prediction:
        """Blend, restore and decide slab by slab; then run what the bundle does with label maps."""
        image = data[self.config.image_key]
        engine = self._engine(image)
        with self._stage("network", {}):
            found = engine.label(image, scan, name, on_window, target)
        array, affine, ran = found.array, (found.grid or scan).affine, found.stats
        ran = replace(ran, notes=(*self._notes(image), *ran.notes))
        if engine.fused.rest.transforms:
            labels = as_prediction(torch.from_numpy(array), image, found.grid)
            array, affine, seconds = self._postprocess(engine.fused.rest, data, labels, affine)
            ran += RunStats(seconds)
        changed = any(isinstance(step, MapLabelValued | Lambdad) for step in engine.fused.rest.transforms)
        overlapping = engine.fused.threshold is not None
        if changed or (overlapping and len(array) != len(found.array)) or found.sums is None:
            return Prediction(array, affine, ran, found.entropy)
        expected = expect_dice(found.sums[0], overlapping, self.bundle.channels, self._confidence)
        return Prediction(array, affine, ran, found.entropy, found.sums, expected)

    def _run_dense(self, data: dict[str, Any], note: str) -> Prediction:
        """Run the bundle's own inferer, or its evaluator, and its post-processing on the whole volume."""
        image = data[self.config.image_key]
        seconds: dict[str, float] = {}
        backends = self.networks.on_torch()
        with self._stage("network", seconds):
            if self.config.own_iteration:
                (network,) = self.networks.modules
                data = self.config.run_evaluator(data, network)
                logits = data[self.config.prediction_key][None]
            else:
                logits = self.config.inferer(image[None].to(self.device), averaged(backends))
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
        image_affine = image.affine.cpu().numpy()
        found = logits[0] if isinstance(logits, torch.Tensor) else [one[0] for one in logits]
        array, affine, after = self._postprocess(self.config.postprocessing, data, found, image_affine)
        notes = (*self._notes(image), note)
        ran = RunStats(seconds | after, backend=backends[0].name, precision=backends[0].precision, notes=notes)
        return Prediction(array, affine, ran)

    def _postprocess(
        self, steps: Any, data: dict[str, Any], prediction: Any, affine: NDArray[np.float64]
    ) -> tuple[NDArray[Any], NDArray[np.float64], dict[str, float]]:
        """Run a bundle's transforms on a prediction; return its array, its 4×4 affine, and the time that it took.

        Args:
            steps: the transforms.
            data: what `prepare` returned.
            prediction: (C, D, H, W), or several of them where the network returns several.
            affine: that of a result that carries none.
        """
        key, seconds = self.config.prediction_key, dict[str, float]()
        with self._transforms_lock, self._stage("postprocessing", seconds):
            result = steps({**data, key: prediction})[key]
            if isinstance(result, MetaTensor):
                affine = np.asarray(result.affine.cpu(), dtype=np.float64)
            array = torch.as_tensor(result).cpu().numpy()
        return array, affine, seconds

    def _notes(self, image: MetaTensor) -> tuple[str, ...]:
        return (*self.config.notes, *cleaning_notes(image), *([self._preprocess.note] if self._preprocess.note else []))

    def _require_sides(self, image: MetaTensor) -> None:
        # a bundle that mirrors by default was trained so, and recognises sides by their surroundings
        asked = () if self.config.tta else self._mirror_axes
        across = [axis for axis in asked if io_orientation(np.asarray(image.affine))[axis, 0] == 0]
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
            with self.config.scripts.importable():
                yield
        except (TomosegError, NotRecognisedError):
            raise
        except Exception as error:  # the bundle's transforms, inferer and network are foreign code
            if is_out_of_memory(root_cause(error)):
                raise MemoryError(one_line(root_cause(error))) from error
            raise BundleError(f"bundle {self.bundle.name}: {name} failed: {one_line(root_cause(error))}") from error
        seconds[name] = time.perf_counter() - start
