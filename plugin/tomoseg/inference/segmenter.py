"""One scan in, one segmentation out."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import Options
from tomoseg.bundle.registry import find_bundle
from tomoseg.core.errors import BundleError, MemoryLimitError, UsageError, VolumeError, one_line
from tomoseg.data.geometry import Grid
from tomoseg.data.labels import Label, unnamed
from tomoseg.data.plausibility import at_border, doubt_ct, doubt_volumes
from tomoseg.data.read import read_volume
from tomoseg.data.volume import DicomSeries, Volume, refuse_non_finite
from tomoseg.inference.localisation.assembly import Assembly, assemble
from tomoseg.inference.localisation.crop import nearest
from tomoseg.inference.localisation.locator import Located, Locator, Place
from tomoseg.inference.memory import PeakMemory, megabytes, release_unused
from tomoseg.inference.pipeline import Pipeline, Prediction, add_up
from tomoseg.inference.segmentation import Segmentation
from tomoseg.inference.sliding_window.stream import OnWindow
from tomoseg.inference.threads import use_threads
from tomoseg.report.records import Location, Memory

if TYPE_CHECKING:
    from tomoseg.data.read import Source


@dataclass(frozen=True, eq=False)
class Prepared:
    """A scan that is ready for the network, without its own voxels; the fields are those of `Volume`.

    Args:
        data: what the bundle's preprocessing made of it; the network's turn changes it. Empty for a scan of which
            only crops are segmented.
        located: where these are.
        seconds: time of each stage so far.
        peak_bytes: what the process took at most meanwhile.
        doubts: why the scan may be none for the bundle.
    """

    data: dict[str, Any]
    located: Located | None
    grid: Grid
    name: str
    header: nib.Nifti1Header | None
    series: DicomSeries | None
    remarks: tuple[str, ...]
    seconds: dict[str, float]
    peak_bytes: int
    doubts: tuple[str, ...] = ()


class Segmenter:
    """A bundle with its weights loaded, ready for any number of scans.

    Args:
        bundle: the bundle.
        options: how it is run.

    Raises:
        UsageError: the device does not exist, or the options do not go together.
        BundleError: the bundle's config or checkpoint is missing, damaged, or does not fit the other.

    Example:
        >>> import tomoseg
        >>> segmenter = tomoseg.Segmenter.from_bundle("hippocampus", device="cpu", backend="torch")
        >>> segmenter("scans/scan.nii.gz").names
        {1: 'anterior', 2: 'posterior'}
    """

    def __init__(self, bundle: Bundle, options: Options | None = None) -> None:
        self.bundle = bundle
        self.options = options or Options()
        self.names = bundle.labels
        use_threads(self.options.threads)
        self._one_is_prepared = threading.Lock()
        self._one_is_predicted = threading.Lock()
        self._one_is_preprocessed = threading.Lock()
        self._locator = Locator(bundle, self.options.roi)
        self._pipeline = Pipeline(bundle, _choose_device(self.options.device), self.options)

    @classmethod
    def from_bundle(cls, name_or_folder: str | os.PathLike[str], **options: Any) -> Segmenter:
        """Load a bundle by its registered name, an unambiguous beginning of one, or its folder.

        Args:
            name_or_folder: the bundle.
            options: as `Options` takes them, e.g. `device="cpu", backend="torch", max_memory="6GB"`.
        """
        return cls(find_bundle(name_or_folder), Options(**options))

    @property
    def device(self) -> str:
        return str(self._pipeline.device)

    @property
    def backend(self) -> str:
        """What runs the network: "openvino", "torch" or "torch.compile"."""
        return self._pipeline.backend

    @property
    def precision(self) -> str:
        """What the network computes in: "fp32", "bf16", "fp16" or "int8"."""
        return self._pipeline.precision

    @property
    def checkpoint_sha256(self) -> list[str]:
        """SHA-256 of the files of the weights in use, and of their networks in int8 where these are run."""
        return self._pipeline.checkpoint_sha256

    def __call__(
        self,
        source: Source | Volume,
        on_window: OnWindow | None = None,
        series: str | None = None,
    ) -> Segmentation:
        """Segment one scan; other threads wait.

        Args:
            source: path of a NIfTI, NRRD or MetaImage file, of a folder with a DICOM series or of a multi-frame DICOM
                file; a nibabel image, a SimpleITK image, or a volume that was read already. For a bundle of several
                channels: a 4D NIfTI file or image, or a list with one of these for each channel.
            on_window: called with the number of windows that are done and of all of them.
            series: SeriesInstanceUID of the series where the folder holds several.

        Raises:
            VolumeError: the scan is missing, damaged, not 3D, or holds non-finite values.
            BundleError: the bundle fails on it.
            MemoryLimitError: it needs more memory than the options allow.
        """
        return self.predict(self.prepare(source, series), on_window)

    def prepare(self, source: Source | Volume, series: str | None = None, as_it_is: bool = False) -> Prepared:
        """Read, clean and preprocess a scan; another one may be predicted meanwhile. Otherwise as for a call.

        Args:
            source, series: as for a call.
            as_it_is: take it for a crop that the bundle was trained on, however large it is.
        """
        if self.options.max_memory_bytes is not None:
            release_unused()
        with self._one_is_prepared, PeakMemory(self._pipeline.device) as peak:
            start = time.perf_counter()
            allowed = self._pipeline.replaces_non_finite
            expected = self.bundle.input_channels
            if isinstance(source, Volume):
                volume = source
            else:
                volume = read_volume(source, series, channels=expected, allow_non_finite=allowed)
            if len(volume.channels) != expected:
                raise VolumeError(f"{volume.source}: expected {expected} channels, got {len(volume.channels)}")
            if not allowed and volume is source:
                refuse_non_finite(volume)
            doubt = doubt_ct(volume.array) if self.bundle.hounsfield else None
            seconds = {"reading": time.perf_counter() - start}
            if self.options.clean:
                start = time.perf_counter()
                volume = self._pipeline.clean(volume)
                seconds["cleaning"] = time.perf_counter() - start
            start = time.perf_counter()
            located, data = None if as_it_is else self._locator.locate(volume), {}
            if located is not None:
                seconds["locating"] = time.perf_counter() - start
            else:
                start = time.perf_counter()
                data = self._preprocess(volume)
                seconds["preprocessing"] = time.perf_counter() - start
        self._refuse_excess(peak.bytes, volume.source)
        # the volume's own voxels go: the network needs the memory
        return Prepared(
            data=data,
            located=located,
            grid=volume.grid,
            name=volume.source,
            header=volume.header,
            series=volume.series,
            remarks=volume.remarks,
            seconds=seconds,
            peak_bytes=peak.bytes,
            doubts=() if doubt is None else (doubt,),
        )

    def predict(self, prepared: Prepared, on_window: OnWindow | None = None) -> Segmentation:
        """Run network and post-processing on a scan that `prepare` returned; otherwise as for a call."""
        before = prepared.peak_bytes
        location: Location | None = None
        places: tuple[Place, ...] = ()
        warnings: tuple[str, ...] = ()
        with self._one_is_predicted, PeakMemory(self._pipeline.device) as peak:
            if prepared.located is not None:
                prediction, found = self._predict_crops(prepared, prepared.located, on_window)
                labels, location = found.labels, found.location
                places, warnings = found.places, found.warnings
            else:
                prediction = self._pipeline.predict(prepared.data, prepared.grid, prepared.name, on_window)
                labels = self._label_map(prediction, prepared.grid)
        declared = self._locator.localisation
        result = Segmentation(
            labels=labels,
            grid=prepared.grid,
            label_table=self._label_table(labels) if location is None or declared is None else declared.label_table,
            algorithm=self.bundle.name,
            version=self.bundle.version,
            seconds={**prepared.seconds, **prediction.seconds},
            header=prepared.header,
            series=prepared.series,
            remarks=(*prepared.remarks, *prediction.remarks),
            warnings=(*prepared.doubts, *warnings),
            location=location,
            places=places,
            entropy=prediction.entropy,
            windows=prediction.windows,
            skipped_windows=prediction.skipped,
            memory=Memory(
                planned_bytes=max(prediction.planned_ram_bytes, before) if prediction.planned_ram_bytes else 0,
                peak_bytes=max(peak.bytes, before),
                planned_vram_bytes=prediction.planned_vram_bytes,
                peak_vram_bytes=peak.vram_bytes,
            ),
        )
        return replace(result, warnings=(*result.warnings, *self._doubt(result)))

    def _doubt(self, result: Segmentation) -> list[str]:
        """Return why labels may be wrong, by the volumes that the bundle declares to be plausible."""
        if all(label.volume_ml is None for label in result.label_table):
            return []
        voxel_ml = result.grid.voxel_volume_ml
        volumes_ml = {value: count * voxel_ml for value, count in result.voxel_counts.items()}
        trained_on = f"a {self.bundle.modality} as {self.bundle.name} was trained on"
        return doubt_volumes(result.label_table, volumes_ml, at_border(result.labels), trained_on)

    def _preprocess(self, volume: Volume) -> dict[str, Any]:
        with self._one_is_preprocessed:  # the crops of one scan, while the next is read
            return self._pipeline.prepare(volume)

    def _predict_crops(
        self, prepared: Prepared, located: Located, on_window: OnWindow | None
    ) -> tuple[Prediction, Assembly]:
        """Segment the structures of a scan, each in its crop; return what that took, and the labels of the scan."""
        taken: list[Prediction] = []

        def predict(crop: Volume, target: Grid) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
            start = time.perf_counter()
            data = self._preprocess(crop)
            seconds = {"preprocessing": time.perf_counter() - start}
            found = self._pipeline.predict(data, crop.grid, prepared.name, target=target)
            taken.append(replace(found, seconds={**seconds, **found.seconds}))
            if Grid(found.array.shape[-3:], found.affine).matches(target):
                return self._label_map(found, target), found.entropy
            labels = nearest(self._label_map(found, crop.grid), crop.grid, target)
            return labels, None if found.entropy is None else nearest(found.entropy, crop.grid, target)

        declared = self._locator.localisation
        assert declared is not None
        found = assemble(declared, located, prepared.grid, predict, on_window)
        return replace(add_up(taken), entropy=found.entropy), found

    def _refuse_excess(self, taken: int, name: str) -> None:
        limit = self.options.max_memory_bytes
        if limit is not None and taken > limit:
            raise MemoryLimitError(
                f"{name}: reading and resampling alone took {megabytes(taken)} MB of memory, --max-memory allows "
                f"{megabytes(limit)} MB; allow more"
            )

    def _label_table(self, labels: NDArray[Any]) -> tuple[Label, ...]:
        """Return what the label values mean; labels that may overlap are numbered from 1 on."""
        table = self.bundle.label_table
        if labels.ndim == 4:
            named = (table.get(index) or unnamed(index + 1) for index in range(len(labels)))
            return tuple(replace(label, value=value) for value, label in enumerate(named, 1))
        if len(table) == 1 and 0 in table:  # a single score, and so a threshold
            return (replace(table[0], value=1),)
        table.pop(0, None)
        if (
            not set(range(1, int(labels.max(initial=0)) + 1)) <= table.keys()
        ):  # the metadata may say less than the network
            table |= {value: unnamed(value) for value in np.unique(labels).tolist() if value and value not in table}
        return tuple(label for _, label in sorted(table.items()))

    def _label_map(self, prediction: Prediction, grid: Grid) -> NDArray[np.unsignedinteger[Any]]:
        """Return the labels as (I, J, K), or (label, I, J, K), after making sure that they lie in the scan's grid."""
        where = f"bundle {self.bundle.name}: post-processing"
        array = prediction.array
        if array.ndim == 4 and array.shape[0] != 1 and not _is_binary(array):
            raise BundleError(
                f"{where}: expected one label map, got {array.shape[0]} channels; end it with an arg-max or a "
                "threshold (AsDiscreted)"
            )
        if array.ndim == 3 or array.shape[0] == 1:
            array = array.reshape(array.shape[-3:])
        if not Grid(array.shape[-3:], prediction.affine).matches(grid):
            raise BundleError(
                f"{where}: expected labels in the scan's grid {grid.shape}, got {array.shape[-3:]} elsewhere; "
                "the config lacks an Invertd that undoes its preprocessing"
            )
        largest = max(self.names, default=int(array.max(initial=0)))
        kind: type[np.unsignedinteger[Any]] = np.uint8 if largest <= 255 or array.ndim == 4 else np.uint16
        labels = array.astype(kind, copy=False)
        if not np.array_equal(labels, array):
            raise BundleError(f"{where}: expected whole label numbers, got others, e.g. {array.max():g}")
        return labels


def _is_binary(array: NDArray[Any]) -> bool:
    return all(bool(np.isin(channel, (0, 1)).all()) for channel in array)


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}: {one_line(error, 80)}") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device: {name} asked for, but there are {torch.cuda.device_count()} CUDA devices; use --device cpu"
        )
    return device
