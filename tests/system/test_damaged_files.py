"""Damaged files of every format end in a volume or in an error that names the file; none crashes, hangs or eats memory.

Each input is a good file whose bytes were changed, cut, moved and overwritten, most of them where headers are. The
readers run in a process of their own, because a decoder that crashes takes its process with it. What makes a reader
fail is kept in a folder that the failure names. 200 inputs a run, 10,000 with `scripts/test --all`; or as many as
`TOMOSEG_FUZZ_INPUTS` says.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from support import fuzz_worker
from support.dicoms import write_enhanced, write_series
from tomoseg import Grid

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory as Linux has it")

WORKER = Path(fuzz_worker.__file__)
SECONDS, BYTES = 30, 512 << 20  # more is a hang, and more memory than files of some kB can need
SHAPE = (34, 36, 3)
GRID = Grid(SHAPE, np.diag([-0.8, -0.9, 2.5, 1]))
NUMBERS = [
    b"0",
    b"-1",
    b"1",
    b"2",
    b"65536",
    b"4294967296",
    b"99999999999999999999",
    b"nan",
    b"inf",
    b"1e308",
    b"-7.5",
    b"",
]
EXTREMES = [b"\x00", b"\xff", b"\x7f\xff", b"\xff\x7f", b"\x80\x00", b"\x00\x80", b"\x01\x00", b"\x00\x01"]


@dataclass(frozen=True)
class Seed:
    """A good scan.

    Attributes:
        source: a file or a folder to read.
        file: whose bytes are damaged.
        zipped: whether the damage is inside of the gzip stream.
    """

    source: Path
    file: Path
    zipped: bool = False


def values(dtype: str = "int16") -> Any:
    i, j, k = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    noise = np.random.default_rng(0).integers(0, 9, SHAPE)
    return (40 * np.sin(i / 5) + j + 60 + 3 * k + noise).astype(dtype)


def series(syntax: str, dtype: str = "int16") -> Callable[[Path], Seed]:
    def make(folder: Path) -> Seed:
        return Seed(folder / "series", write_series(folder / "series", values(dtype), GRID, syntax=syntax)[1])

    return make


def enhanced(syntax: str) -> Callable[[Path], Seed]:
    return lambda folder: alone(write_enhanced(folder / "all.dcm", values(), GRID, syntax=syntax))


def nifti(name: str, zipped: bool = False) -> Callable[[Path], Seed]:
    def make(folder: Path) -> Seed:
        nib.save(nib.Nifti1Image(values(), GRID.affine), folder / name)
        return Seed(folder / name, folder / name, zipped)

    return make


def itk(name: str, compressed: bool, data: str = "") -> Callable[[Path], Seed]:
    def make(folder: Path) -> Seed:
        image = sitk.GetImageFromArray(values().transpose(2, 1, 0))
        image.SetSpacing(GRID.spacing)
        sitk.WriteImage(image, str(folder / name), compressed)
        return Seed(folder / name, folder / (data or name))

    return make


def alone(path: Path) -> Seed:
    return Seed(path, path)


KINDS: dict[str, Callable[[Path], Seed]] = {
    "NIfTI": nifti("scan.nii"),
    "NIfTI, zipped": nifti("scan.nii.gz"),
    "NIfTI before it was zipped": nifti("scan.nii.gz", zipped=True),
    "NRRD": itk("scan.nrrd", False),
    "NRRD, zipped": itk("scan.nrrd", True),
    "NRRD header": itk("scan.nhdr", True),
    "MetaImage": itk("scan.mha", False),
    "MetaImage, zipped": itk("scan.mha", True),
    "MetaImage header": itk("scan.mhd", False),
    "voxels of a MetaImage": itk("scan.mhd", True, "scan.zraw"),
    "DICOM implicit": series(ImplicitVRLittleEndian),
    "DICOM explicit": series(ExplicitVRLittleEndian),
    "DICOM big endian": series(ExplicitVRBigEndian),
    "DICOM RLE": series(RLELossless),
    "DICOM JPEG": series(JPEGBaseline8Bit, "uint8"),
    "DICOM JPEG lossless": series(JPEGLosslessSV1),
    "DICOM JPEG-LS": series(JPEGLSLossless),
    "DICOM JPEG 2000": series(JPEG2000Lossless),
    "DICOM enhanced": enhanced(ExplicitVRLittleEndian),
    "DICOM enhanced, JPEG 2000": enhanced(JPEG2000Lossless),
}
INPUTS = int(os.environ.get("TOMOSEG_FUZZ_INPUTS", "200"))


class Content(bytes):
    """What a file holds; in a failure only its length, for the file itself is kept."""

    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> Content:
    """Bytes with one to four changes."""
    spots = [
        0,
        *(found.start() for found in re.finditer(rb"\xff\xd8|\xff\x4f|\xe0\x7f\x10\x00|\x7f\xe0\x00\x10", content)),
    ]
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        size = len(changed)
        spot = draw(st.sampled_from(spots))
        place = draw(st.one_of(st.integers(0, max(size - 1, 0)), st.integers(spot, spot + 160), st.integers(0, 1400)))
        place = min(place, max(size - 1, 0))
        length = draw(st.integers(1, 64))
        kind = draw(st.sampled_from(["byte", "extreme", "number", "cut", "drop", "insert", "move"]))
        if kind == "byte":
            changed[place : place + 1] = bytes((draw(st.integers(0, 255)),))
        elif kind == "extreme":  # where a length or a size may stand
            value = draw(st.sampled_from(EXTREMES)) * draw(st.sampled_from([1, 2, 4]))
            changed[place : place + len(value)] = value
        elif kind == "number":  # in a header that is text
            found = re.compile(rb"[-+.0-9]+").search(changed, place)
            if found:
                changed[found.start() : found.end()] = draw(st.sampled_from(NUMBERS))
        elif kind == "cut":
            del changed[place:]
        elif kind == "drop":
            del changed[place : place + length]
        elif kind == "insert":
            changed[place:place] = draw(st.one_of(st.binary(min_size=1, max_size=16), st.just(b"x" * 6000)))
        else:
            start = draw(st.integers(0, max(size - 1, 0)))
            changed[place : place + length] = changed[start : start + length]
    return Content(changed)


class Worker:
    """The process that reads; started again when it dies or hangs."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def read(self, path: Path) -> dict[str, Any]:
        """Return the worker's answer, or how it ended without one."""
        process = self.start()
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # it is gone, and its output has ended
            process.stdin.write(json.dumps(str(path)).encode() + b"\n")
            process.stdin.flush()
        ready = select.select([process.stdout], [], [], SECONDS)[0]
        answer = process.stdout.readline() if ready else b""
        if answer:
            found: dict[str, Any] = json.loads(answer)
            return found
        self.stop()
        return {"ended": "a crash" if ready else f"no answer in {SECONDS} s", "reported": "", "bytes": 0}

    def start(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            command = [sys.executable, str(WORKER)]
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        return self.process

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            with suppress(BrokenPipeError):
                self.process.communicate()
            self.process = None


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    started = Worker()
    yield started
    started.stop()


def check(worker: Worker, seed: Seed, content: bytes, kept: Path) -> str:
    """Read a scan with a changed file; return how that ended."""
    __tracebackhide__ = True
    good = Content(seed.file.read_bytes())
    try:
        seed.file.write_bytes(gzip.compress(content, 1) if seed.zipped else content)
        answer = worker.read(seed.source)
        ended = answer["ended"]
        if answer["bytes"] > BYTES:
            ended = f"{answer['bytes'] >> 20} MB of memory"
        if ended not in ("volume", "error"):
            shutil.copytree(seed.source.parent, kept, dirs_exist_ok=True)
            pytest.fail(f"{ended} {answer['reported']}: reading {kept / seed.source.name}")
        return str(ended)
    finally:
        seed.file.write_bytes(good)


@pytest.mark.parametrize("kind", KINDS)
def test_any_damage_ends_in_a_volume_or_in_our_error(tmp_path: Path, worker: Worker, kind: str) -> None:
    (tmp_path / "good").mkdir()
    seed = KINDS[kind](tmp_path / "good")
    whole = seed.file.read_bytes()
    content = gzip.decompress(whole) if seed.zipped else whole
    assert check(worker, seed, content, tmp_path / "kept") == "volume"
    ended = {"volume": 0, "error": 0}

    @settings(
        max_examples=-(-INPUTS // len(KINDS)), deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(damaged(content))
    def read(changed: Content) -> None:
        ended[check(worker, seed, changed, tmp_path / "kept")] += 1

    read()
    print(kind, ended)  # shown by -rP


# these made GDCM 3.2.6 abort or write past its buffers, and CharLS work for minutes
@pytest.mark.parametrize(
    ("syntax", "place", "value"),
    [
        (JPEGLosslessSV1, 6, b"\x80"),
        (JPEGLosslessSV1, 15, b"\x00"),
        (JPEGLosslessSV1, 18, b"\x05"),
        (JPEGLSLossless, 7, b"\xff\xff\xff\xff"),
        (JPEG2000Lossless, 8, b"\x7f\xff\xff\xff\x7f\xff\xff\xff"),
        (JPEG2000Lossless, 40, b"\x40"),
    ],
)
def test_streams_that_crash_decoders_end_in_an_error(
    tmp_path: Path, worker: Worker, syntax: str, place: int, value: bytes
) -> None:
    seed = series(syntax)(tmp_path)
    dataset = dcmread(seed.file)
    stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
    dataset.PixelData = encapsulate([stream[:place] + value + stream[place + len(value) :]])
    dataset.save_as(tmp_path / "damaged")
    content = (tmp_path / "damaged").read_bytes()
    assert check(worker, seed, content, tmp_path / "kept") == "error"


@pytest.mark.parametrize(("fate", "ended"), [(signal.SIGSEGV, "a crash"), (signal.SIGSTOP, "no answer in 1 s")])
def test_a_crash_and_a_hang_are_seen(
    tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch, fate: signal.Signals, ended: str
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "SECONDS", 1)
    worker.start().send_signal(fate)
    with pytest.raises(pytest.fail.Exception, match=ended):
        check(worker, nifti("scan.nii")(tmp_path), b"", tmp_path / "kept")
    assert (tmp_path / "kept" / "scan.nii").read_bytes() == b""
    assert (tmp_path / "scan.nii").stat().st_size > 0
