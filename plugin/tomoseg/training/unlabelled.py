"""Scans without label map that a training learns from: those that can be read and are none of the dataset's own."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tomoseg.core.errors import UsageError
from tomoseg.core.files import real_path
from tomoseg.data.datasets import Dataset
from tomoseg.data.formats import missing_reader
from tomoseg.data.inspection.scan import Inspector, OnScan
from tomoseg.data.scan_files import is_volume, visible_files

OWN = "is one of the dataset's own scans"


@dataclass(frozen=True)
class Unlabelled:
    """Scans of a folder.

    Attributes:
        scans: sound ones, sorted.
        left_out: why each of the others is not used, its path first.
        own: number of scans of the dataset itself, left out so that validation cases stay out of the training.
    """

    scans: tuple[Path, ...]
    left_out: tuple[str, ...]
    own: int

    @property
    def summary(self) -> str:
        """How many there are, in one line."""
        own = f"; {self.own} more are the dataset's own, and left out" if self.own else ""
        return f"{len(self.scans)} unlabelled scans{own}"


def check_unlabelled(folder: Path, dataset: Dataset, on_scan: OnScan | None = None) -> Unlabelled:
    """Return the scans below a folder that a training can learn from; all are read.

    Args:
        folder: searched to its depth for NIfTI, NRRD and MetaImage files.
        dataset: the labelled one.
        on_scan: called with the path of each scan before it is read.

    Raises:
        UsageError: there is no such folder, or it has no usable scan.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder of scans, got {'a file' if folder.exists() else 'nothing'}")
    labels = {real_path(pair.label) for pair in dataset.pairs}
    found = [path for path in visible_files(folder) if is_volume(path) and real_path(path) not in labels]
    if not found:
        raise UsageError(f"{folder}: expected NIfTI, NRRD or MetaImage files, got none")
    inspector, channels = Inspector(True, on_scan), len(dataset.channels)
    tests = (one for path in dataset.test for one in inspector.look_at(path, "image", channels=channels))
    known = {pair.sha256 for pair in dataset.pairs} | {one.voxels.sha256 for one in tests if one.voxels}
    scans, left_out, own = [], [], 0
    for path in found:
        sha256, errors = _look_at(path, inspector, channels)
        if errors:
            left_out.append(f"{path}: {errors[0]}")
        elif sha256 in known:
            own += 1
        else:
            scans.append(path)
    if not scans:
        why = left_out[0] if left_out else f"{found[0]}: {OWN}"
        raise UsageError(f"{folder}: expected scans beside those of the dataset, got {len(found)}, none usable: {why}")
    return Unlabelled(tuple(scans), tuple(left_out), own)


def hash_scans(scans: Sequence[Path]) -> str:
    """Return the SHA-256 of the names and sizes of scans: no training goes on with others."""
    digest = hashlib.sha256()
    for path in scans:
        digest.update(f"{path.name} {path.stat().st_size}\n".encode())
    return digest.hexdigest()


def _look_at(path: Path, inspector: Inspector, channels: int) -> tuple[str, list[str]]:
    """Return the SHA-256 of a scan's voxels, and why it cannot be used."""
    if why := missing_reader(path):
        return "", [why]
    findings = inspector.look_at(path, "image", channels=channels)
    if len(findings) != 1:
        return "", [f"expected one scan, got {len(findings)}"]
    (found,) = findings
    if found.errors or found.voxels is None:
        return "", list(found.errors) or ["cannot be read"]
    if found.channels != channels:
        return "", [f"expected {channels} channels in one 4D NIfTI file, got one"]
    return found.voxels.sha256, ["every voxel has the same value"] if found.voxels.constant else []
