"""Which formats are known by the ends of their files' names."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from tomoseg.core.errors import UsageError

OutputTypeName = Literal["nifti", "nrrd", "dicom-seg", "dicom-labelmap", "rtstruct"]
NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
DETACHED_SUFFIXES = (".nhdr", ".mhd")  # the voxels are in another file
SEGMENTATION_SUFFIX = ".seg.nrrd"  # 3D Slicer's; never a scan
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)

# deflate shrinks by at most 1032:1 (https://zlib.net/zlib_tech.html), so a header that declares more than this
# is damaged, and must not make anybody reserve the memory it asks for
DEFLATE_LIMIT = 1032


def has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    """Tell whether a file's name ends in one of these, in any case."""
    return name.lower().endswith(suffixes)


def is_nifti(path: Path) -> bool:
    """Tell by its name whether a file is NIfTI, which MONAI reads without the package itk."""
    return has_suffix(path.name, NIFTI_SUFFIXES)


def missing_reader(path: Path) -> str:
    """Return why MONAI cannot read a volume on this computer; nothing where it can."""
    if is_nifti(path) or find_spec("itk") is not None:
        return ""
    return "MONAI needs the package itk-io to read it; install itk-io, or convert it to NIfTI"


def strip_suffix(name: str) -> str:
    """Return a file's name without what tells its format."""
    for suffix in (SEGMENTATION_SUFFIX, *VOLUME_SUFFIXES, ".dcm"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


@dataclass(frozen=True)
class OutputType:
    """A format for labels.

    Args:
        name: what the command line calls it.
        suffixes: that a file's name may end in.
        ending: of the names of files in an output folder.
        packages: that it needs, where a platform may lack them.
        of_series: whether it refers to a DICOM series, and so needs one.
    """

    name: OutputTypeName
    suffixes: tuple[str, ...]
    ending: str
    packages: tuple[str, ...] = ()
    of_series: bool = False


OUTPUT_TYPES: dict[str, OutputType] = {
    kind.name: kind
    for kind in (
        OutputType("nifti", NIFTI_SUFFIXES, "_seg.nii.gz"),
        OutputType("nrrd", (".nrrd",), SEGMENTATION_SUFFIX),
        OutputType("dicom-seg", (".dcm",), "_seg.dcm", ("highdicom",), of_series=True),
        OutputType("dicom-labelmap", (".dcm",), "_labelmap.dcm", ("highdicom",), of_series=True),
        OutputType("rtstruct", (".dcm",), "_rtstruct.dcm", of_series=True),
    )
}


def names_output_file(output: Path) -> bool:
    """Tell whether an output names one file of labels, and not a folder for any number of them."""
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
        if has_suffix(output.name, VOLUME_SUFFIXES) and not output.is_dir():
            raise UsageError(f"{output}: labels cannot be written as that; use {' or '.join(NIFTI_SUFFIXES)}")
        return kinds[0]
    for kind in kinds:
        if has_suffix(output.name, kind.suffixes):
            return kind
    raise UsageError(f"{output}: expected a name that ends in {' or '.join(kinds[0].suffixes)} for {name}")
