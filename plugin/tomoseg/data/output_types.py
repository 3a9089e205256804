"""The formats of label maps: one table, whose entries hold their writers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tomoseg.core.errors import UsageError
from tomoseg.data.formats import NIFTI_SUFFIXES, SCAN_SUFFIXES, SEGMENTATION_SUFFIX, has_suffix

if TYPE_CHECKING:  # each writer is imported when it is used: NIfTI needs no pydicom
    from tomoseg.data.segments import LabelMap


OutputTypeName = Literal["nifti", "nrrd", "dicom-seg", "dicom-labelmap", "dicom-sr", "rtstruct"]


@dataclass(frozen=True)
class OutputType:
    """A format of label maps.

    Attributes:
        name: as the command line calls it.
        suffixes: that a file's name may end in.
        ending: of the names of files in an output folder.
        write: writes a file, atomically.
        packages: that it needs, where a platform may lack them.
        of_series: whether it refers to a DICOM series, and so needs one.
        further_endings: of the names of the files that it writes beside this one.
    """

    name: str
    suffixes: tuple[str, ...]
    ending: str
    write: Callable[[Path, LabelMap], None]
    packages: tuple[str, ...] = ()
    of_series: bool = False
    further_endings: tuple[str, ...] = ()

    def further_files(self, path: Path) -> list[Path]:
        """Return the files that are written beside a file of this format."""
        stem = path.name.removesuffix(self.ending) if path.name.endswith(self.ending) else path.stem
        return [path.with_name(f"{stem}{ending}") for ending in self.further_endings]


def _write_nifti(path: Path, found: LabelMap) -> None:
    from tomoseg.data.nifti import write_label_map

    labels = found.labels if found.labels.ndim == 3 else found.labels.transpose(1, 2, 3, 0)  # its fourth axis
    write_label_map(path, labels, found.grid, found.header)


def _write_nrrd(path: Path, found: LabelMap) -> None:
    from tomoseg.data.nrrd_segmentation import write_nrrd_segmentation

    write_nrrd_segmentation(path, found.labels, found.grid, found.label_table)


def _write_dicom_seg(path: Path, found: LabelMap, labelmap: bool = False) -> None:
    from tomoseg.data.dicom.seg_writer import write_dicom_seg

    write_dicom_seg(path, found, labelmap)


def _write_rtstruct(path: Path, found: LabelMap) -> None:
    from tomoseg.data.dicom.rtstruct import write_rtstruct

    write_rtstruct(path, found)


def _write_dicom_sr(path: Path, found: LabelMap) -> None:
    from tomoseg.data.dicom.sr_writer import write_dicom_sr

    write_dicom_sr(path, found, *OUTPUT_TYPES["dicom-sr"].further_files(path))


DICOM = (".dcm",)
HIGHDICOM = ("highdicom",)
SEG_ENDING = "_seg.dcm"
DICOM_LABELMAP = partial(_write_dicom_seg, labelmap=True)
OUTPUT_TYPES: dict[str, OutputType] = {
    entry.name: entry
    for entry in (
        OutputType("nifti", NIFTI_SUFFIXES, "_seg.nii.gz", _write_nifti),
        OutputType("nrrd", (".nrrd",), SEGMENTATION_SUFFIX, _write_nrrd),
        OutputType("dicom-seg", DICOM, SEG_ENDING, _write_dicom_seg, HIGHDICOM, of_series=True),
        OutputType("dicom-labelmap", DICOM, "_labelmap.dcm", DICOM_LABELMAP, HIGHDICOM, of_series=True),
        OutputType("dicom-sr", DICOM, "_sr.dcm", _write_dicom_sr, HIGHDICOM, True, (SEG_ENDING,)),
        OutputType("rtstruct", DICOM, "_rtstruct.dcm", _write_rtstruct, of_series=True),
    )
}


def combine(names: Sequence[str]) -> OutputType:
    """Return a format that writes the files of several formats, e.g. of "dicom-sr" and "rtstruct".

    Args:
        names: of the formats, which refer to a DICOM series.

    Raises:
        UsageError: there is none, or one of them refers to no series.
    """
    foreign = [name for name in names if name not in OUTPUT_TYPES or not OUTPUT_TYPES[name].of_series]
    if foreign or not names:
        wanted = ", ".join(name for name, kind in OUTPUT_TYPES.items() if kind.of_series)
        raise UsageError(f"output types: expected some of {wanted}, got {', '.join(foreign) or 'none'}")
    named = [OUTPUT_TYPES[name] for name in dict.fromkeys(names)]
    kinds = [kind for kind in named if not any(kind.ending in other.further_endings for other in named)]
    endings = tuple(ending for kind in kinds for ending in (kind.ending, *kind.further_endings))

    def write(path: Path, found: LabelMap) -> None:
        for kind in kinds:
            kind.write(path.with_name(path.name.removesuffix(endings[0]) + kind.ending), found)

    packages = tuple({package for kind in kinds for package in kind.packages})
    name = "+".join(kind.name for kind in kinds)
    return replace(kinds[0], name=name, write=write, packages=packages, further_endings=endings[1:])


def names_output_file(output: Path) -> bool:
    """Return whether an output names one file of labels, and not a folder for any number of them."""
    return any(has_suffix(output.name, kind.suffixes) for kind in OUTPUT_TYPES.values()) and not output.is_dir()


def choose_output_type(name: str | None, output: Path) -> OutputType:
    """Return the format that was asked for by name, else the one that the output's name ends in, else NIfTI.

    Raises:
        UsageError: there is no such format, or the output's name ends as that of another.
    """
    if name is not None and name not in OUTPUT_TYPES:
        raise UsageError(f"output type: expected {', '.join(OUTPUT_TYPES)}, got {name!r}")
    kinds = [kind for kind in OUTPUT_TYPES.values() if name in (None, kind.name)]
    if not names_output_file(output):
        if has_suffix(output.name, SCAN_SUFFIXES) and not output.is_dir():
            raise UsageError(f"{output}: labels cannot be written as that. Use {' or '.join(NIFTI_SUFFIXES)}")
        return kinds[0]
    for kind in kinds:
        if has_suffix(output.name, kind.suffixes):
            return kind
    raise UsageError(f"{output}: expected a name that ends in {' or '.join(kinds[0].suffixes)} for {name}")
