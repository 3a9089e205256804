"""Scans of several channels, such as the sequences of an MRI: one 4D NIfTI file, or a file for each."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib

from tomoseg.core.errors import VolumeError
from tomoseg.data.formats import NIBABEL_SUFFIXES, has_suffix, strip_suffix
from tomoseg.data.nifti import from_nibabel, load_nifti, read_voxels
from tomoseg.data.volume import Volume, by

CHANNEL_NUMBER = re.compile(r"_(\d{4})$")  # of a channel at the end of a name, as nnU-Net has it: case_0000.nii.gz
FIRST_CHANNEL = "_0000"


def channel_number(path: Path) -> int | None:
    """Return the number of the channel that a file's name ends in; None where it ends otherwise."""
    found = CHANNEL_NUMBER.search(strip_suffix(path.name))
    return None if found is None else int(found[1])


def channel_file(path: Path, number: int) -> Path:
    """Return what the file of one channel is called.

    Args:
        path: what the scan is called, without a number.
        number: of the channel.
    """
    stem = strip_suffix(path.name)
    return path.with_name(f"{stem}_{number:04}{path.name[len(stem) :]}")


def without_number(path: Path) -> Path:
    """Return what a scan is called, by the file of one of its channels."""
    stem = strip_suffix(path.name)
    return path.with_name(CHANNEL_NUMBER.sub("", stem) + path.name[len(stem) :])


def further_files(paths: Sequence[Path], channels: int) -> dict[Path, tuple[Path, ...]]:
    """Return the files of the channels after the first, by that of the first; none where not all of them are there.

    Args:
        paths: scans; of several channels of one scan only the first stays.
        channels: number of channels of a scan.
    """
    found: dict[Path, tuple[Path, ...]] = dict.fromkeys(paths, ())
    for path in paths if channels > 1 else ():
        others = tuple(channel_file(without_number(path), number) for number in range(1, channels))
        if channel_number(path) == 0 and all(other.is_file() for other in others) and not _has_channels(path):
            found[path] = others
    together = {other for others in found.values() for other in others}
    return {path: others for path, others in found.items() if path not in together}


def _has_channels(path: Path) -> bool:
    """Return whether a file holds several channels itself, so that its number is that of a case."""
    try:
        return channels_of(path) is not None
    except (VolumeError, OSError):  # the reader will report the error
        return False


def channels_of(path: Path) -> int | None:
    """Return how many channels a 4D NIfTI file has by its header; None for any other file.

    Raises:
        VolumeError: it is damaged.
        OSError: it cannot be read.
    """
    if not has_suffix(path.name, NIBABEL_SUFFIXES) or not path.is_file() or path.stat().st_size == 0:
        return None
    return _along_last(load_nifti(path))


def split_4d(image: nib.spatialimages.SpatialImage, channels: int, name: str) -> Volume:
    """Return the volume of a nibabel image (I, J, K, channel), or (I, J, K, 1, channel) as ITK writes vectors.

    Raises:
        VolumeError: it is damaged, or has another number of channels.
    """
    got = _along_last(image)
    if got != channels:
        raise VolumeError(f"{name}: {expectation(channels)}, got {by(image.shape)}")
    voxels = read_voxels(image, name).reshape(*image.shape[:3], channels)
    parts = [from_nibabel(type(image)(voxels[..., c], image.affine, image.header), name) for c in range(channels)]
    return join(parts, name)


def join(parts: Sequence[Volume], name: str) -> Volume:
    """Return one volume of several channels that were read one by one.

    Raises:
        VolumeError: one of them has channels itself, or they do not lie on one grid.
    """
    first = parts[0]
    for part in parts:
        if part.other_channels:
            raise VolumeError(f"{part.source}: expected one channel of several, got {len(part.channels)}")
        if not part.grid.matches(first.grid):
            raise VolumeError(
                f"{part.source}: expected the grid of {first.source}, {by(first.grid.shape)}, for both are channels of "
                f"one scan; got {by(part.grid.shape)} elsewhere. Resample it first"
            )
    others = tuple(part.array for part in parts[1:])
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    warnings = tuple(dict.fromkeys(warning for part in parts for warning in part.warnings))
    return replace(first, other_channels=others, source=name, notes=notes, warnings=warnings)


def expectation(channels: int) -> str:
    """Return what a scan of so many channels may be."""
    return f"expected {channels} channels in one 4D NIfTI file, or in {channels} files CASE_0000, CASE_0001 and so on"


def _along_last(image: nib.spatialimages.SpatialImage) -> int | None:
    shape = image.shape
    if len(shape) == 5 and shape[3] == 1:
        shape = (*shape[:3], shape[4])
    return int(shape[3]) if len(shape) == 4 and shape[3] > 1 else None
