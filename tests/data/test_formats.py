"""Formats of scans besides .nii and .nii.gz: read exactly, or refused in one line that says why."""

from __future__ import annotations

import bz2
import gzip
import os
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tomoseg import TomosegError, read_volume
from tomoseg.batch.cases import plan_cases
from tomoseg.data.discovery import files_of, find_scans
from tomoseg.data.header import read_headers

ARRAY = np.random.default_rng(0).integers(-900, 900, (7, 8, 9)).astype(np.int16)
AFFINE = np.array([[0, 0, 3.0, -20], [-2, 0, 0, 30], [0, -2.5, 0, 40], [0, 0, 0, 1]])
ZSTANDARD = any(find_spec(module) and find_spec(f"{module}.zstd") for module in ("compression", "backports"))
Write = Callable[[Path], None]


def nifti(kind: Any = nib.Nifti1Image) -> bytes:
    content: bytes = kind(ARRAY, AFFINE).to_bytes()
    return content


def save(name: str, kind: Any) -> Write:
    return lambda folder: nib.save(kind(ARRAY, AFFINE), folder / name)


def put(name: str, content: bytes) -> Write:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return write


def both(*writes: Write) -> Write:
    def write(folder: Path) -> None:
        for one in writes:
            one(folder)

    return write


def rename(name: str, new: str, write: Write) -> Write:
    def change(folder: Path) -> None:
        (folder / name).rename(folder / new)

    return both(write, change)


TWO_MEMBERS = bz2.compress(nifti()[:600]) + bz2.compress(nifti()[600:])
PAIR = save("x.hdr", nib.Nifti1Pair)
GOOD: dict[str, tuple[str, Write]] = {
    "a pair by its header": ("x.hdr", PAIR),
    "a pair by its voxels": ("x.img", PAIR),
    "a pair in capitals": ("x.HDR", rename("x.hdr", "x.HDR", rename("x.img", "x.IMG", PAIR))),
    "a pair of NIfTI-2": ("x.hdr", save("x.hdr", nib.Nifti2Pair)),
    "a packed pair": ("x.hdr.gz", save("x.hdr.gz", nib.Nifti1Pair)),
    "bzip2": ("x.nii.bz2", put("x.nii.bz2", bz2.compress(nifti()))),
    "two members of bzip2": ("x.nii.bz2", put("x.nii.bz2", TWO_MEMBERS)),
    "a .nii.gz that is not packed": ("x.nii.gz", put("x.nii.gz", nifti())),
    "a .nii that is packed": ("x.nii", put("x.nii", gzip.compress(nifti()))),
    "a .nii.gz in bzip2": ("x.nii.gz", put("x.nii.gz", bz2.compress(nifti(nib.Nifti2Image)))),
    "FreeSurfer, packed": ("x.mgz", save("x.mgz", nib.MGHImage)),
    "FreeSurfer": ("x.mgh", save("x.mgh", nib.MGHImage)),
}


@pytest.mark.parametrize("case", GOOD)
def test_other_formats_are_read_exactly(case: str, tmp_path: Path) -> None:
    name, write = GOOD[case]
    write(tmp_path)
    volume = read_volume(tmp_path / name)
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.grid.affine, AFFINE, atol=1e-5)
    (header,) = read_headers(tmp_path / name)
    assert (header.grid, header.dtype) == (volume.grid, "int16")
    (scan,) = find_scans(tmp_path)
    assert sorted(files_of(scan.path)) == sorted(tmp_path.iterdir())
    (planned,) = plan_cases(sorted(tmp_path.iterdir()), tmp_path / "out")  # as a shell gives them for *
    assert planned.input == scan.path


def changed(name: str, offset: int, value: bytes, write: Write) -> Write:
    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:offset] + value + content[offset + len(value) :])

    return both(write, change)


ANALYZE = save("x.hdr", nib.AnalyzeImage)
BAD: dict[str, tuple[str, Write, str]] = {
    "Analyze 7.5": ("x.hdr", ANALYZE, "an Analyze 7.5 file, which does not say which side is left. Convert it"),
    "Analyze 7.5 by its voxels": ("x.img", ANALYZE, "an Analyze 7.5 file, which does not say which side is left"),
    "FreeSurfer without directions": (
        "x.mgh",
        changed("x.mgh", 28, bytes(2), save("x.mgh", nib.MGHImage)),
        "a FreeSurfer file without directions, which does not say which side is left",
    ),
    "FreeSurfer of an unknown type": (
        "x.mgh",
        changed("x.mgh", 20, b"\0\0\0\x63", save("x.mgh", nib.MGHImage)),
        "got something else or a damaged file",
    ),
    "a header without voxels": (
        "x.hdr",
        both(PAIR, lambda folder: (folder / "x.img").unlink()),
        "No such file or directory",
    ),
    "voxels that are cut": ("x.hdr", both(PAIR, put("x.img", ARRAY.tobytes()[:-40])), "truncated or damaged"),
    "a header of something else": ("x.hdr", put("x.hdr", b"ENVI\nsamples = 7\n" * 40), "something else or a damaged"),
    "voxels in a pipe": (
        "x.hdr",
        both(PAIR, lambda folder: (folder / "x.img").unlink(), lambda folder: os.mkfifo(folder / "x.img")),
        "expected a regular file",
    ),
    "bzip2 that is cut": ("x.nii.bz2", put("x.nii.bz2", TWO_MEMBERS[:-20]), "truncated or damaged"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_scan_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    name, write, told = BAD[case]
    write(tmp_path)
    with pytest.raises(TomosegError) as caught:
        read_volume(tmp_path / name)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / name}: ")
    assert told in message
    assert "\n" not in message


def test_a_flipped_bit_of_bzip2_is_an_error(tmp_path: Path) -> None:
    packed = bz2.compress(nifti())
    for at in np.random.default_rng(1).integers(4, len(packed) - 4, 30):
        (tmp_path / "x.nii.bz2").write_bytes(packed[:at] + bytes([packed[at] ^ 4]) + packed[at + 1 :])
        with pytest.raises(TomosegError, match=str(tmp_path)):
            read_volume(tmp_path / "x.nii.bz2")


@pytest.mark.skipif(ZSTANDARD, reason="the package is installed")
def test_zstandard_names_the_package_that_it_needs(tmp_path: Path) -> None:
    (tmp_path / "x.nii.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(600))
    with pytest.raises(TomosegError, match=r"x\.nii\.zst: .*pip install backports\.zstd"):
        read_volume(tmp_path / "x.nii.zst")


@pytest.mark.skipif(not ZSTANDARD, reason="backports.zstd is not installed")
def test_zstandard_is_read_with_its_package(tmp_path: Path) -> None:
    zstd = import_module("compression.zstd" if find_spec("compression") else "backports.zstd")
    packed = zstd.compress(nifti(), options={zstd.CompressionParameter.checksum_flag: 1})  # as its command does
    path = tmp_path / "x.nii.zst"
    path.write_bytes(packed)
    np.testing.assert_array_equal(read_volume(path).array, ARRAY)
    for damaged in (packed[:-30], packed[:80] + b"\0\1\2\3" + packed[84:]):
        path.write_bytes(damaged)
        with pytest.raises(TomosegError, match=r"x\.nii\.zst: "):
            read_volume(path)
