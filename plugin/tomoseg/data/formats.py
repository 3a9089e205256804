"""Formats of volumes, recognised by the suffixes of their files."""

from importlib.util import find_spec
from pathlib import Path

NIFTI_SUFFIXES = (".nii.gz", ".nii")
ITK_SUFFIXES = (".nrrd", ".nhdr", ".mha", ".mhd")
PAIR_SUFFIXES = (".hdr", ".img", ".hdr.gz", ".img.gz")  # NIfTI in two files
DETACHED_SUFFIXES = (".nhdr", ".mhd")  # the voxels are in another file
SPLIT_ENDING = "_labels"  # of the folder with a file for each label, beside their label map
SEGMENTATION_SUFFIX = ".seg.nrrd"  # 3D Slicer's; never a scan
VOLUME_SUFFIXES = (*NIFTI_SUFFIXES, *ITK_SUFFIXES)
SINGLE_FILE_SUFFIXES = tuple(suffix for suffix in VOLUME_SUFFIXES if suffix not in DETACHED_SUFFIXES)
MGH_SUFFIXES = (".mgz", ".mgh")  # FreeSurfer's
NIBABEL_SUFFIXES = (*NIFTI_SUFFIXES, ".nii.bz2", ".nii.zst", *PAIR_SUFFIXES, *MGH_SUFFIXES)
SCAN_SUFFIXES = (*ITK_SUFFIXES, *NIBABEL_SUFFIXES)  # that are read, though no training or result has them

# deflate shrinks by at most 1032:1 (https://zlib.net/zlib_tech.html), so a header that declares more than this
# is damaged, and must not reserve the memory that it declares
DEFLATE_LIMIT = 1032


def has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    """Return whether a file's name ends in one of these, in any case."""
    return name.lower().endswith(suffixes)


def is_nifti(path: Path) -> bool:
    """Return whether a file is NIfTI by its name; MONAI reads it without the package itk."""
    return has_suffix(path.name, NIFTI_SUFFIXES)


def missing_reader(path: Path) -> str:
    """Return why MONAI cannot read a volume on this computer; nothing where it can."""
    if not has_suffix(path.name, VOLUME_SUFFIXES):
        return "MONAI cannot read it. Convert it to NIfTI"
    if is_nifti(path) or find_spec("itk") is not None:
        return ""
    return "MONAI needs the package itk-io to read it. Install itk-io, or convert it to NIfTI"


def pair_of(path: Path) -> tuple[Path, Path]:
    """Return the files of header and voxels: those of NIfTI in two files by one of them, or one file twice."""
    if not has_suffix(path.name, PAIR_SUFFIXES):
        return path, path
    stem = strip_suffix(path.name)
    header = path.name[len(stem) :].replace("img", "hdr").replace("IMG", "HDR")
    return path.with_name(stem + header), path.with_name(stem + header.replace("hdr", "img").replace("HDR", "IMG"))


def strip_suffix(name: str) -> str:
    """Return a file's name without the suffix of its format."""
    for suffix in (SEGMENTATION_SUFFIX, *SCAN_SUFFIXES, ".dcm", ".zip"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
