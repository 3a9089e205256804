"""One scan in, one segmentation out."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
from monai.data import MetaTensor
from numpy.typing import NDArray

from tomoseg.bundle.confidence import ExpectedDice
from tomoseg.bundle.domain import read_domain
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.registry import find_bundle
from tomoseg.core.errors import MemoryLimitError, VolumeError
from tomoseg.core.memory import megabytes, release_unused
from tomoseg.core.reading import ReadOptions, read_with
from tomoseg.core.run_stats import RunStats
from tomoseg.data.geometry import Grid
from tomoseg.data.plausibility import at_border, scan_warnings, volume_warnings
from tomoseg.data.read import read_volume
from tomoseg.data.source import ScanSource
from tomoseg.data.volume import DicomSeries, Volume, require_finite
from tomoseg.inference.backends import computes_faster
from tomoseg.inference.device import choose_device
from tomoseg.inference.domain import compare, join, tell
from tomoseg.inference.label_map import find_label_table, require_labels, to_label_map
from tomoseg.inference.localisation.assembly import MergedLabels, assemble
from tomoseg.inference.localisation.crop import nearest
from tomoseg.inference.localisation.locator import FindHead, LocatedRegions, Locator
from tomoseg.inference.localisation.registration import register
from tomoseg.inference.pipeline import Pipeline
from tomoseg.inference.segmentation import Segmentation
from tomoseg.inference.set_pipeline import SetPipeline, load_pipeline
from tomoseg.inference.sliding_window.peak_memory import PeakMemory
from tomoseg.inference.sliding_window.stream import OnWindow
from tomoseg.inference.threads import use_threads
from tomoseg.report.records import OutOfDomain

if TYPE_CHECKING:
    from tomoseg.data.read import Source


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan that is ready for the network, without its own voxels; the other fields are those of `Volume`.

    Attributes:
        data: output of the bundle's preprocessing. Empty for a scan that is segmented in crops.
        image_key: under which `data` has the network's input.
        located: where the crops are; None for a scan that is segmented whole.
        stats: times and memory so far.
        out_of_domain: as `Segmentation` has it; None for a scan that is segmented in crops, too.
        warnings: reasons why the scan may not suit the bundle.
    """

    data: dict[str, Any]
    image_key: str
    located: LocatedRegions | None
    grid: Grid
    name: str
    header: nib.Nifti1Header | None
    series: DicomSeries | None
    stats: RunStats
    out_of_domain: OutOfDomain | None = None
    warnings: tuple[str, ...] = ()

    @property
    def image(self) -> MetaTensor:
        """The network's input, (C, D, H, W), with its affine; KeyError for a scan that is segmented in crops."""
        return self.data[self.image_key]


class Segmenter:
    """A bundle with its weights loaded, ready for any number of scans.

    Args:
        bundle: the bundle.
        options: how it is run.
        like: another of this bundle with the same device and weights, whose networks it shares.
        find_head: finds the template's head in a whole scan.

    Attributes:
        bundle, options: as given.
        names: names of the bundle's labels by their value.
        device: where the networks run, e.g. "cpu" or "cuda:0".
        precision: precision of the networks: "fp32", "bf16", "fp16" or "int8".
        weights: file and SHA-256 of the weights of each network, and its network in int8 where that runs.
        networks: the networks with their weights, one for each checkpoint, as PyTorch modules on the device.

    Raises:
        UsageError: the device or a label does not exist, or the options do not go together.
        UntrustedBundleError: the bundle's code may not run.
        BundleError: the bundle's config or checkpoint is missing, damaged, or does not fit the other.

    Example:
        >>> import tomoseg
        >>> segmenter = tomoseg.Segmenter.from_bundle("hippocampus", device="cpu", backend="torch")
        >>> segmenter("scans/scan.nii.gz").names
        {1: 'anterior', 2: 'posterior'}
    """

    def __init__(
        self,
        bundle: Bundle,
        options: RunOptions | None = None,
        *,
        like: Segmenter | None = None,
        find_head: FindHead = register,
    ) -> None:
        self.bundle = bundle
        self.options = options or RunOptions()
        self.names = bundle.labels
        require_labels(bundle, self.options.labels)
        use_threads(self.options.threads)
        # a backend runs one window at a time
        self._network_lock: threading.Lock = like._network_lock if like else threading.Lock()
        self._domain = read_domain(bundle.root)
        self._locator = Locator(bundle, self.options.roi, find_head)
        device, shared = choose_device(self.options.device), like._pipeline if like else None
        self._pipeline: Pipeline | SetPipeline = load_pipeline(bundle, device, self.options, shared)
        pipeline = self._pipeline
        self.device, self.precision = str(pipeline.device), pipeline.networks.precision
        self.weights, self.networks = pipeline.networks.weights, pipeline.networks.modules

    @classmethod
    def from_bundle(cls, name_or_folder: str | os.PathLike[str], *, trust: bool = False, **options: Any) -> Segmenter:
        """Load a bundle by its registered name, an unambiguous beginning of one, or its folder.

        Args:
            name_or_folder: the bundle.
            trust: as for `find_bundle`.
            options: as `RunOptions` takes them, e.g. `device="cpu", backend="torch", max_memory="6GB"`.
        """
        return cls(find_bundle(name_or_folder, trust=trust), RunOptions(**options))

    @property
    def backend(self) -> str:
        """What runs the network: "openvino", "torch" or "torch.compile"; of each result, `stats` says what ran it."""
        return self._pipeline.networks.backend

    @property
    def advice(self) -> str:
        """One line on a faster precision that was not measured to be safe; empty where there is none."""
        if (self.options.precision, self.precision, self.backend) != ("auto", "fp32", "openvino"):
            return ""
        if not computes_faster("bf16"):
            return ""
        why = "was not measured with these weights, or not found safe"
        return f"--precision bf16 takes half of the network's time here, or less, but {why}: tomoseg doctor --measure"

    def __call__(
        self,
        source: Source | Volume,
        on_window: OnWindow | None = None,
        series: str | None = None,
        phase: str | None = None,
    ) -> Segmentation:
        """Segment one scan; several threads may call it, and one at a time runs the network.

        Args:
            source: path of a NIfTI, NRRD or MetaImage file, of a folder with a DICOM series or of a multi-frame DICOM
                file; a nibabel image, a SimpleITK image, or a volume that was read already. For a bundle of several
                channels: a 4D NIfTI file or image, or a list with one of these for each channel.
            on_window: called with the number of windows that are done and of all of them.
            series: SeriesInstanceUID of the series where the folder holds several.
            phase: "KEYWORD=VALUE" of the images where a DICOM series has several at each place.

        Raises:
            VolumeError: the scan is missing, damaged, not 3D, or holds non-finite values.
            BundleError: the bundle fails on it.
            MemoryLimitError: it needs more memory than the options allow.
        """
        result = self.predict(self.prepare(source, series, phase=phase), on_window)
        return replace(result, read_scan=self._reader(source, series, phase))

    def prepare(
        self,
        source: Source | Volume | ScanSource,
        series: str | None = None,
        as_it_is: bool = False,
        phase: str | None = None,
    ) -> Prepared:
        """Read, clean and preprocess a scan; another one may be predicted meanwhile. Otherwise as for a call.

        Several threads may; but each takes memory, so that under a limit only one should.

        Args:
            source: as for a call, or a scan on disk.
            series: as for a call.
            as_it_is: take it for a crop that the bundle was trained on, however large it is.
            phase: as for a call.
        """
        if self.options.max_memory_bytes is not None:
            release_unused()
        with PeakMemory(self._pipeline.device) as peak:
            start = time.perf_counter()
            volume, expected = self._reader(source, series, phase)(), self.bundle.input_channels
            if len(volume.channels) != expected:
                raise VolumeError(f"{volume.source}: expected {expected} channels, got {len(volume.channels)}")
            if not self._pipeline.replaces_non_finite and volume is source:
                require_finite(volume)
            warnings = scan_warnings(volume, self.bundle.modality, self.bundle.hounsfield)
            seconds = {"reading": time.perf_counter() - start}
            if self.options.clean:
                start = time.perf_counter()
                volume = self._pipeline.clean(volume)
                seconds["cleaning"] = time.perf_counter() - start
            start = time.perf_counter()
            located, data = None if as_it_is else self._locator.locate(volume), {}
            unlike = OutOfDomain(0.0) if self._domain else None
            if located is not None:
                seconds["locating"] = time.perf_counter() - start
            else:
                start = time.perf_counter()
                data = self._pipeline.prepare(volume)
                image = data[self._pipeline.config.image_key]
                if not warnings and bool((image == image.flatten()[:1]).all()):
                    warnings.append("what the bundle's preprocessing leaves of it holds one value: is this a scan?")
                unlike = compare(image, volume.grid, self._domain)
                seconds["preprocessing"] = time.perf_counter() - start
        limit = self.options.max_memory_bytes
        if limit is not None and peak.bytes > limit:
            raise MemoryLimitError(
                f"{volume.source}: reading and resampling alone took {megabytes(peak.bytes)} MB of memory, "
                f"--max-memory allows {megabytes(limit)} MB; allow more"
            )
        # the volume's own voxels go: the network needs the memory
        stats = RunStats(seconds, peak_bytes=peak.bytes, notes=volume.notes)
        return Prepared(
            data=data, image_key=self._pipeline.config.image_key, located=located,
            grid=volume.grid, name=volume.source, header=volume.header, series=volume.series,
            stats=stats, out_of_domain=unlike and replace(unlike, reasons=(*warnings, *unlike.reasons)),
            warnings=(*volume.warnings, *warnings, *tell(unlike)),
        )  # fmt: skip

    def _reader(
        self, source: Source | Volume | ScanSource, series: str | None, phase: str | None
    ) -> Callable[[], Volume]:
        """Return what reads a scan; it goes with results, also into other processes, without the networks."""
        allowed = self._pipeline.replaces_non_finite
        return partial(_read, source, series, phase, self.bundle.input_channels, allowed, self.options.reading)

    def predict(self, prepared: Prepared, on_window: OnWindow | None = None) -> Segmentation:
        """Run network and post-processing on a scan; otherwise as for a call.

        Args:
            prepared: the scan, from `prepare`.
            on_window: called with the number of finished windows and of all windows.
        """
        with self._network_lock, PeakMemory(self._pipeline.device) as peak:
            if prepared.located is None:
                prediction = self._pipeline.predict(prepared.data, prepared.grid, prepared.name, on_window)
                labels = to_label_map(self.bundle, prediction.array, prediction.affine, prepared.grid)
                found, ran = MergedLabels(labels, prediction.entropy), prediction.stats
                table, expected = find_label_table(self.bundle, labels), prediction.expected_dice
                unlike = None  # `prepare` has compared it
            else:
                found, ran, expected, unlike = self._predict_crops(prepared, prepared.located, on_window)
                table = prepared.located.localisation.label_table
        if ran.planned_bytes:
            ran = replace(ran, planned_bytes=max(ran.planned_bytes, prepared.stats.peak_bytes))
        result = Segmentation(
            labels=found.labels, label_table=table, algorithm=self.bundle.name, version=self.bundle.version,
            grid=prepared.grid, header=prepared.header, series=prepared.series,
            entropy=found.entropy, location=found.location, places=found.places, expected_dice=expected,
            out_of_domain=join(prepared.out_of_domain, unlike), hounsfield=self.bundle.hounsfield,
            warnings=(*prepared.warnings, *found.warnings, *tell(unlike)),
            stats=prepared.stats + ran + RunStats(peak_bytes=peak.bytes, peak_vram_bytes=peak.vram_bytes),
        )  # fmt: skip
        if self.options.labels:
            result = result.keep(self.options.labels)
        return replace(result, warnings=(*result.warnings, *self._volume_warnings(result)))

    def probabilities(self, prepared: Prepared, grid: Grid | None = None) -> NDArray[np.float32]:
        """Return the network's output for a scan after its activation, interpolated linearly at the voxels of a grid.

        The network runs as for `predict`: on the same backend, and the mean over checkpoints and mirrorings counts. It
        runs on no more than the grid covers, and on at least one window.

        Args:
            prepared: a scan that is segmented whole; of another, prepare the crops with `as_it_is`.
            grid: where the probabilities are wanted, in the mm of the scan, e.g. a part of the scan's own grid; None
                for the scan's own.

        Returns:
            (label, i, j, k) float32 in [0, 1], background first where the bundle has it. Over the labels they sum to 1,
            unless labels may overlap. They take 4 bytes a label and voxel.

        Raises:
            ValueError: only crops of the scan are segmented.
            BundleError: the network fails on it.

        Example:
            >>> prepared = segmenter.prepare("scan.nii.gz")
            >>> segmenter.probabilities(prepared).argmax(axis=0)  # the labels, unless post-processing changes them
        """
        if prepared.located is not None:
            raise ValueError(f"{prepared.name}: only crops of this scan are segmented; prepare them with as_it_is=True")
        with self._network_lock:
            return self._pipeline.probabilities(prepared.data, grid or prepared.grid)

    def _volume_warnings(self, result: Segmentation) -> list[str]:
        """Return why labels may be wrong, by the volumes that the bundle declares to be plausible."""
        if all(label.volume_ml is None for label in result.label_table):
            return []
        voxel_ml = result.grid.voxel_volume_ml
        volumes_ml = {value: count * voxel_ml for value, count in result.voxel_counts.items()}
        trained_on = f"a {self.bundle.modality} as {self.bundle.name} was trained on"
        return volume_warnings(result.label_table, volumes_ml, at_border(result.labels), trained_on)

    def _predict_crops(
        self, prepared: Prepared, located: LocatedRegions, on_window: OnWindow | None
    ) -> tuple[MergedLabels, RunStats, dict[int, ExpectedDice], OutOfDomain | None]:
        """Segment the structures of a scan, each in its crop.

        Returns:
            The labels of the scan, what that took, how good they likely are, and how unlike the training cases.
        """
        ran, expected, unlike = RunStats(), dict[int, ExpectedDice](), None
        last: Mapping[int, ExpectedDice] = {}
        data: dict[str, Any] = {}

        def predict(crop: Volume, target: Grid) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
            nonlocal ran, last, data
            start = time.perf_counter()
            data = self._pipeline.prepare(crop)
            ran += RunStats({"preprocessing": time.perf_counter() - start})
            found = self._pipeline.predict(data, crop.grid, prepared.name, target=target)
            ran += found.stats
            last = found.expected_dice
            grid = target if Grid(found.array.shape[-3:], found.affine).matches(target) else crop.grid
            labels, entropy = to_label_map(self.bundle, found.array, found.affine, grid), found.entropy
            if grid is not target:
                labels = nearest(labels, grid, target)
                entropy = None if entropy is None else nearest(entropy, grid, target)
            return labels, entropy

        def finish(done: int, total: int) -> None:
            nonlocal unlike
            region = located.places[done - 1].region
            one = compare(data[self._pipeline.config.image_key], None, self._domain)
            if one is not None:
                reasons = tuple(f"{region.name}: {reason}" for reason in one.reasons)
                unlike = join(unlike, replace(one, reasons=reasons))
            values = region.labels
            expected.update({values[value]: one for value, one in last.items() if value in values})
            if on_window is not None:
                on_window(done, total)

        return assemble(located, prepared.grid, predict, finish), ran, expected, unlike


def _read(
    source: Source | Volume | ScanSource,
    series: str | None,
    phase: str | None,
    channels: int,
    allow_non_finite: bool,
    reading: ReadOptions,
) -> Volume:
    if isinstance(source, Volume):
        return source
    with read_with(reading):
        if isinstance(source, ScanSource):
            return source.read(channels, allow_non_finite=allow_non_finite)
        return read_volume(source, series, channels=channels, allow_non_finite=allow_non_finite, phase=phase)
