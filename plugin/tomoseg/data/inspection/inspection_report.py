"""What a list of files and folders looks like."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tomoseg.core.errors import TomosegError, UsageError, one_line
from tomoseg.core.json_records import to_json
from tomoseg.core.notes import collect_notes
from tomoseg.core.version import __version__
from tomoseg.data.datasets import find_datasets, label_stems, read_dataset
from tomoseg.data.discovery import Scan, find_scans
from tomoseg.data.formats import strip_suffix
from tomoseg.data.inspection.dataset import DatasetFindings, inspect_dataset
from tomoseg.data.inspection.scan import Inspector, OnScan, ScanFindings, compare_grids


@dataclass(frozen=True)
class InspectionReport:
    """Findings of scans and datasets.

    Attributes:
        voxels: whether they were read, or only the headers.
        scans: files and DICOM series that belong to no dataset.
        datasets: labelled datasets.
        notes: on the folders that were searched.
    """

    voxels: bool
    scans: tuple[ScanFindings, ...] = ()
    datasets: tuple[DatasetFindings, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is no error."""
        return not any(scan.errors for scan in self.scans) and all(dataset.ok for dataset in self.datasets)

    def as_json(self) -> Any:
        """Return it for JSON; lengths are in mm, volumes in mL, and unknown values null."""
        found = {"scans": self.scans, "datasets": self.datasets, "notes": self.notes}
        return to_json({"tomoseg": __version__, "ok": self.ok, "voxels_read": self.voxels, **found})


def inspect(
    paths: Sequence[str | os.PathLike[str]], *, voxels: bool = False, on_scan: OnScan | None = None
) -> InspectionReport:
    """Look at scans and at labelled datasets; one scan at a time is in memory.

    Args:
        paths: files, folders with scans, and labelled datasets, or folders with such below them.
        voxels: read them; else the headers only.
        on_scan: called with the path of each scan before it is read.

    Returns:
        The findings; `ok` is true without errors.

    Raises:
        UsageError: there is no path, or a folder without any scan.

    Example:
        >>> import tomoseg
        >>> found = tomoseg.inspect(["scans"], voxels=True)
        >>> found.ok, [scan.grid.shape for scan in found.scans]
        (True, [(40, 56, 40)])
    """
    scans: list[Scan] = []
    folders: list[Path] = []
    notes: list[str] = []
    for path in map(Path, paths):
        if not path.is_dir():
            scans.append(Scan(path))
            continue
        with collect_notes() as reported:
            datasets = find_datasets(path)
            loose = [] if path in datasets else find_scans(path, all_files=True)
        series = Counter(scan.path for scan in loose)  # those of one folder are looked at together
        loose = [scan if series[scan.path] == 1 else Scan(scan.path) for scan in loose]
        notes += reported
        loose = [scan for scan in loose if not any(scan.path.is_relative_to(folder) for folder in datasets)]
        if not loose and not datasets:
            raise UsageError(f"{path}: contains no NIfTI, NRRD or MetaImage file, and no CT or MR series in DICOM")
        scans.extend(loose)
        folders.extend(datasets)
    if not scans and not folders:
        raise UsageError("expected files or folders with scans")
    inspector = Inspector(voxels, on_scan)
    found = _inspect_scans(list(dict.fromkeys(scans)), inspector)
    inspected = tuple(_inspect_folder(one, inspector) for one in dict.fromkeys(folders))
    return InspectionReport(voxels, found, inspected, tuple(notes))


def _inspect_folder(folder: Path, inspector: Inspector) -> DatasetFindings:
    try:
        dataset = read_dataset(folder)
    except TomosegError as error:
        return DatasetFindings(folder, errors=(one_line(error).removeprefix(f"{folder}: "),))
    return inspect_dataset(dataset, inspector)


def _inspect_scans(scans: Sequence[Scan], inspector: Inspector) -> tuple[ScanFindings, ...]:
    """Look at each scan; a file that is called as another with `_seg` or the like at the end is its label map."""
    names = {(scan.path.parent, strip_suffix(scan.path.name)): scan.path for scan in scans}
    owners = {
        names[parent, name]: image
        for (parent, stem), image in names.items()
        for name in label_stems(stem)[1:]
        if (parent, name) in names
    }
    found: list[ScanFindings] = []
    for scan in scans:
        found.extend(inspector.look_at(scan.path, "label" if scan.path in owners else "scan", series=scan.series))
    grids = {one.path: one.grid for one in found}
    for index, one in enumerate(found):
        owner = grids.get(owners[one.path]) if one.path in owners else None
        if owner is None or one.grid is None:
            continue
        errors, notes = compare_grids(owner, one.grid)
        found[index] = replace(one, errors=one.errors + errors, notes=one.notes + notes)
    return tuple(found)
