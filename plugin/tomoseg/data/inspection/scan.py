"""Inspect one scan: its properties and its errors."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from tomoseg.core.errors import shorten
from tomoseg.core.json_records import to_json
from tomoseg.core.memory import explain_failure
from tomoseg.core.notes import collect_notes
from tomoseg.core.quiet import note_warnings
from tomoseg.data.geometry import MAX_ROUNDING_VOXELS, Grid
from tomoseg.data.header import Header, read_headers
from tomoseg.data.inspection.voxels import VoxelSummary, count_voxels
from tomoseg.data.masks import ROUNDED
from tomoseg.data.volume import SeriesSummary, by

Role = Literal["scan", "image", "label"]
# called with the path of each file or series before it is read
OnScan = Callable[[Path], None]
Result = TypeVar("Result")

MAX_LIKELY_LABELS = 128  # of a file that may be a label map; the largest that people share have 117 labels
MAX_LABEL_VALUES = 1000  # of a file that should be one


@dataclass(frozen=True)
class ScanFindings:
    """Findings of one file, or of one DICOM series.

    Attributes:
        path: the file, or the folder that was searched for the series.
        role: "image" or "label" of a pair, else "scan".
        readable: whether it is one 3D volume, as far as was looked.
        format: "NIfTI", "FreeSurfer", "NRRD", "MetaImage" or "DICOM"; "" if unknown.
        dtype: type of the stored values, e.g. "int16".
        grid: where the voxels lie.
        series: the DICOM series.
        modality: "CT", "MR" or what the dataset calls it.
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
    series: SeriesSummary | None = None
    modality: str | None = None
    channels: int = 1
    voxels: VoxelSummary | None = None
    errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_json(self) -> Any:
        """Return it as JSON has it; lengths are in mm, volumes in mL."""
        grid, series = self.grid, self.series
        content = {key: value for key, value in vars(self).items() if key not in ("grid", "series", "channels")}
        content |= {"format": self.format or None, "dtype": self.dtype or None, "shape": grid and grid.shape}
        content["spacing_mm"] = grid and [round(length, 6) for length in grid.spacing]
        content["orientation"] = grid and grid.orientation
        if series is not None:
            content |= {"series": series.uid, "description": series.description, "images": series.images}
        if self.channels > 1:
            content["channels"] = self.channels
        return to_json(content)


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
            header.path, role, header.grid is not None, header.format, header.dtype, header.grid, series,
            series.modality if series else modality, header.channels, notes=header.notes,
            errors=(_without_path(header.reason, header.path),) if header.reason else (),
        )  # fmt: skip
        if not self.voxels or header.grid is None:
            return found
        most = {"image": 0, "label": MAX_LABEL_VALUES, "scan": MAX_LIKELY_LABELS if "int" in header.dtype else 0}[role]
        spacing = header.grid.spacing
        with collect_notes() as reported, note_warnings():
            count = partial(count_voxels, spacing=spacing, most_values=most)
            summaries = _guarded(header.path, lambda: list(map(count, header.read_voxels())))
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
            if role == "label":
                errors += [f"{which}{line}" for line in _label_errors(summary)]
            notes += [f"{which}{line}" for line in _value_notes(summary, role, found.modality)]
        if role != "label" and not voxels.constant:
            name = f"{header.path} (series {series.uid})" if series else str(header.path)
            first = self._seen.setdefault(voxels.sha256, name)
            if first != name:
                notes.append(f"has the same voxels as {first}")
        return replace(found, voxels=voxels, errors=(*found.errors, *errors), notes=(*found.notes, *notes))


def compare_grids(image: Grid, label: Grid) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the errors of a label map that should lie on its scan's grid, and notes."""
    if label.matches(image):
        return (), ()
    if label.shape != image.shape:
        return (f"label map of {by(label.shape)} voxels for a scan of {by(image.shape)}",), ()
    apart = label.distance_mm(image)
    if apart <= MAX_ROUNDING_VOXELS * min(image.spacing):
        return (), (f"the grids of scan and label map lie {apart:.2g} mm apart, as by rounding in a header",)
    turned = "" if label.orientation == image.orientation else f" ({label.orientation} and {image.orientation})"
    remedy = "resample the label map to the scan's grid; if its voxels are right and its header is not, copy the scan's"
    return (f"label map and scan{turned} lie up to {apart:.3g} mm apart; {remedy}",), ()


def _label_errors(voxels: VoxelSummary) -> list[str]:
    if not voxels.whole:
        return ["values that are no integers; expected a label map"]
    if voxels.minimum is not None and round(voxels.minimum) < 0:
        return [f"values down to {voxels.minimum:g}; expected labels of 0 and more"]
    many = voxels.values is None and voxels.maximum is not None
    return [f"more than {MAX_LABEL_VALUES} different values; expected a label map"] if many else []


def _value_notes(voxels: VoxelSummary, role: Role, modality: str | None) -> list[str]:
    if role == "label":
        notes = ["nothing is labelled in it"] if voxels.minimum == voxels.maximum == 0 else []
        return notes + [ROUNDED] * bool(voxels.whole and voxels.rounding)
    if voxels.minimum is None:
        return []
    if voxels.constant:
        return [f"every voxel holds {voxels.minimum:g}"]
    notes = []
    if voxels.constant_slices and voxels.values is None:  # few values: a label map, which has empty slices
        axis = ("first", "second", "third")[voxels.slice_axis]
        notes.append(f"{voxels.constant_slices} of {voxels.slices} slices along the {axis} axis hold one value each")
    if modality == "CT" and voxels.hounsfield:
        notes.append(voxels.hounsfield)
    return notes


def _guarded(path: Path, action: Callable[[], Result]) -> Result | str:
    """Return what the action returns, or one line that says why it failed."""
    try:
        return action()
    except Exception as error:  # nibabel, SimpleITK, pydicom and its decoders: what no reader foresaw is this scan's
        return _without_path(explain_failure(error, shorten(str(path), 300), "to read it"), path)


def _without_path(reason: str, path: Path) -> str:
    return reason.removeprefix(f"{shorten(str(path), len(reason))}: ")
