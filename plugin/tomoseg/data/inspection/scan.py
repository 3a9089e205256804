"""Inspect one scan: its properties and its errors."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from tomoseg.core.errors import TomosegError, one_line, shorten
from tomoseg.core.notes import collect_notes
from tomoseg.core.quiet import note_warnings
from tomoseg.data.geometry import Grid
from tomoseg.data.header import Header, read_headers
from tomoseg.data.inspection.voxels import VoxelSummary, count_voxels, value_warnings
from tomoseg.data.volume import by

Role = Literal["scan", "image", "label"]
# called with the path of each file or series before it is read
OnScan = Callable[[Path], None]
Result = TypeVar("Result")

MAX_LIKELY_LABELS = 128  # of a file that may be a label map; the largest that people share have 117 labels
MAX_LABEL_VALUES = 1000  # of a file that should be one
MAX_ROUNDING_VOXELS = 0.05  # the coordinates of a header are float32, or decimals of 16 characters


@dataclass(frozen=True)
class ScanFindings:
    """Findings of one file, or of one DICOM series.

    Attributes:
        path: the file, or the folder that was searched for the series.
        role: "image" or "label" of a pair, else "scan".
        readable: whether it is one 3D volume, as far as was looked.
        format: "NIfTI", "NRRD", "MetaImage" or "DICOM"; "" if unknown.
        dtype: type of the stored values, e.g. "int16".
        grid: where the voxels lie.
        series: SeriesInstanceUID.
        modality: "CT", "MR" or what the dataset calls it.
        description: SeriesDescription.
        images: number of slices of the series.
        channels: how many the file has.
        voxels: statistics of the voxels, of several channels those of the first; None if they were not read.
        errors: one line each.
        notes: one line each.
    """

    path: Path
    role: Role
    readable: bool
    format: str = ""
    dtype: str = ""
    grid: Grid | None = None
    series: str | None = None
    modality: str | None = None
    description: str = ""
    images: int | None = None
    channels: int = 1
    voxels: VoxelSummary | None = None
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON has it; lengths are in mm, volumes in mL."""
        content: dict[str, Any] = {
            "path": str(self.path),
            "role": self.role,
            "readable": self.readable,
            "errors": list(self.errors),
            "notes": list(self.notes),
            "format": self.format or None,
            "dtype": self.dtype or None,
            "modality": self.modality,
            "shape": self.grid and list(self.grid.shape),
            "spacing_mm": self.grid and [round(length, 6) for length in self.grid.spacing],
            "orientation": self.grid and self.grid.orientation,
            "voxels": self.grid and self.voxels and self.voxels.as_json(),
        }
        if self.series is not None:
            content |= {"series": self.series, "description": self.description, "images": self.images}
        if self.channels > 1:
            content["channels"] = self.channels
        return content


@dataclass
class Inspector:
    """Looks at one scan after the other, and remembers those that it has seen.

    Attributes:
        voxels: read them, too.
        on_scan: called with the path of each scan before it is read.
    """

    voxels: bool = False
    on_scan: OnScan | None = None
    _seen: dict[str, str] = field(default_factory=dict, init=False)
    _series: dict[str, Path] = field(default_factory=dict, init=False)

    def look_at(
        self, path: Path, role: Role = "scan", modality: str | None = None, series: str | None = None, channels: int = 1
    ) -> list[ScanFindings]:
        """Return the findings of a file, or of each DICOM series below a folder; of one series if it is given.

        A 4D file is expected to have so many channels; a file of one may be one of them.
        """
        if self.on_scan is not None:
            self.on_scan(path)
        headers = _guarded(path, lambda: read_headers(path, series, channels))
        if isinstance(headers, str):
            return [ScanFindings(path, role, readable=False, modality=modality, errors=(headers,))]
        return [self._look_at(header, role, modality) for header in headers if role != "scan" or self._is_new(header)]

    def _is_new(self, header: Header) -> bool:
        """Return whether a series was not found before, below a folder above this one."""
        if header.series is None:
            return True
        first = self._series.setdefault(header.series.uid, header.path)
        return first == header.path or not header.path.is_relative_to(first)

    def _look_at(self, header: Header, role: Role, modality: str | None) -> ScanFindings:
        series = header.series
        found = ScanFindings(
            path=header.path,
            role=role,
            readable=header.grid is not None,
            format=header.format,
            dtype=header.dtype,
            grid=header.grid,
            series=series.uid if series else None,
            modality=series.modality if series else modality,
            description=series.description if series else "",
            images=series.images if series else None,
            channels=header.channels,
            errors=(_without_path(header.reason, header.path),) if header.reason else (),
            notes=header.notes,
        )
        if not self.voxels or header.grid is None:
            return found
        most = {"image": 0, "label": MAX_LABEL_VALUES, "scan": MAX_LIKELY_LABELS if "int" in header.dtype else 0}[role]
        spacing = header.grid.spacing
        with collect_notes() as reported, note_warnings():
            summaries = _guarded(
                header.path, lambda: [count_voxels(part, spacing, most) for part in header.read_voxels()]
            )
        if isinstance(summaries, str):
            return replace(found, readable=False, errors=(summaries,))
        voxels = summaries[0]
        errors: list[str] = []
        notes = [note for note in reported if note not in found.notes]
        for number, summary in enumerate(summaries):
            which = f"channel {number}: " if len(summaries) > 1 else ""
            if summary.non_finite:
                size = math.prod(header.grid.shape)
                errors.append(f"{which}NaN or infinity in {summary.non_finite} of {size} voxels")
            judged = _judge_labels(summary) if role == "label" else _judge_values(summary, found.modality)
            for reported, lines in zip((errors, notes), judged, strict=True):
                reported += [f"{which}{line}" for line in lines]
        if role != "label" and not voxels.constant:
            name = f"{header.path} (series {series.uid})" if series else str(header.path)
            first = self._seen.setdefault(voxels.sha256, name)
            if first != name:
                notes.append(f"has the same voxels as {first}")
        return replace(found, voxels=voxels, errors=(*found.errors, *errors), notes=(*found.notes, *notes))


def compare_grids(image: Grid, label: Grid) -> tuple[str, str]:
    """Return the errors of a label map that should lie on its scan's grid, and notes."""
    if label.matches(image):
        return "", ""
    if label.shape != image.shape:
        return f"label map of {by(label.shape)} voxels for a scan of {by(image.shape)}", ""
    apart = label.distance_mm(image)
    if apart <= MAX_ROUNDING_VOXELS * min(image.spacing):
        return "", f"the grids of scan and label map lie {apart:.2g} mm apart, as by rounding in a header"
    turned = "" if label.orientation == image.orientation else f" ({label.orientation} and {image.orientation})"
    remedy = "resample the label map to the scan's grid; if its voxels are right and its header is not, copy the scan's"
    return f"label map and scan{turned} lie up to {apart:.3g} mm apart; {remedy}", ""


def _judge_labels(voxels: VoxelSummary) -> tuple[list[str], list[str]]:
    """Return the problems of a label map, and notes on it."""
    if not voxels.whole:
        return ["values that are no integers; expected a label map"], []
    if voxels.minimum is not None and voxels.minimum < 0:
        return [f"values down to {voxels.minimum:g}; expected labels of 0 and more"], []
    if voxels.values is None and voxels.maximum is not None:
        return [f"more than {MAX_LABEL_VALUES} different values; expected a label map"], []
    return [], ["nothing is labelled in it"] if voxels.maximum == 0 else []


def _judge_values(voxels: VoxelSummary, modality: str | None) -> tuple[list[str], list[str]]:
    """Return the problems of a scan, and notes on it."""
    if voxels.minimum is None:
        return [], []
    if voxels.constant:
        return [], [f"every voxel holds {voxels.minimum:g}"]
    notes = []
    if voxels.constant_slices and voxels.values is None:  # few values: a label map, which has empty slices
        axis = ("first", "second", "third")[voxels.slice_axis]
        notes.append(f"{voxels.constant_slices} of {voxels.slices} slices along the {axis} axis hold one value each")
    warning = value_warnings(voxels) if modality == "CT" else None
    return [], [*notes, *([warning] if warning else [])]


def _guarded(path: Path, action: Callable[[], Result]) -> Result | str:
    """Return what the action returns, or one line that says why it failed: the other scans still matter."""
    try:
        return action()
    except TomosegError as error:
        return _without_path(one_line(error), path)
    except MemoryError:
        return "not enough memory to read it"
    except Exception as error:  # nibabel, SimpleITK, pydicom and its decoders: what no reader foresaw is this scan's
        return f"unexpected {type(error).__name__}: {one_line(error)}"


def _without_path(reason: str, path: Path) -> str:
    return reason.removeprefix(f"{shorten(str(path), len(reason))}: ")
