"""Read the values of DICOM images in any supported transfer syntax."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, encaps
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from tomoseg.core.errors import VolumeError, errors_as
from tomoseg.core.quiet import native_output
from tomoseg.core.reading import require_room
from tomoseg.data.dicom.codestream import CodestreamError, check_codestream
from tomoseg.data.dicom.file_reader import read_dataset
from tomoseg.data.dicom.slices import Slice
from tomoseg.data.formats import DEFLATE_LIMIT
from tomoseg.data.volume import by

CORRUPT_NOTICE = b"Corrupt JPEG data"
ALWAYS_PLAUSIBLE_BYTES = 1 << 26  # JPEG 2000 stores an image of one value, however large, in some hundred bytes

# pydicom tries GDCM first, which crashes on damaged streams more readily than these
DECODERS = dict.fromkeys(JPEG2000TransferSyntaxes, "pylibjpeg") | dict.fromkeys(JPEGLSTransferSyntaxes, "pyjpegls")


def read_pixels(slices: Sequence[Slice]) -> NDArray[np.float32]:
    """Return the values with slope and intercept applied, (I, J, K) float32: columns, rows, slices.

    Args:
        slices: in the order of their places; missing ones are interpolated.

    Raises:
        VolumeError: a file is damaged, or stored in a way that cannot be read.
    """
    rows, columns = slices[0].size
    files: dict[Path, list[tuple[int, Slice]]] = defaultdict(list)
    for index, one in enumerate(slices):
        files[one.frame.path].append((index, one))
    array: NDArray[np.float32] | None = None
    for path, members in files.items():
        stored = _read_stored(path)
        if stored.shape[1:] != (rows, columns) or len(stored) < max(one.frame.number for _, one in members):
            expected = f"expected images of {by((rows, columns))} pixels, got {by(stored.shape)}"
            raise VolumeError(f"{path}: its header is damaged: {expected}")
        if array is None:  # only now, for a damaged header may ask for any size
            count = round(slices[-1].place) + 1
            filled = [one.place for one in slices] != list(range(count))
            require_room(str(path), (len(slices) + count * filled) * rows * columns)
            array = np.empty((len(slices), rows, columns), np.float32)
        for index, one in members:
            # in double precision, as ITK has it: large intercepts would cost float32 its last digits
            array[index] = stored[one.frame.number - 1] * np.float64(one.slope) + one.intercept
    assert array is not None
    return np.asarray((_fill(array, slices) if filled else array).transpose(2, 1, 0))


def _fill(array: NDArray[np.float32], slices: Sequence[Slice]) -> NDArray[np.float32]:
    """Return a slice (J, I) for each index of the grid, interpolated linearly between those that are there."""
    places = [one.place for one in slices]
    filled = np.empty((round(places[-1]) + 1, *array.shape[1:]), np.float32)
    for index in range(len(filled)):
        after = min(max(bisect_left(places, index), 1), len(places) - 1)
        share = (index - places[after - 1]) / (places[after] - places[after - 1])
        filled[index] = array[after - 1] * (1 - share) + array[after] * share
    return filled


def hash_pixels(path: Path) -> str:
    """Return the SHA-256 of a file's stored values, and of their type and shape.

    Raises:
        VolumeError: as for `read_pixels`.
    """
    stored = _read_stored(path)
    return sha256(f"{stored.dtype}{stored.shape}".encode() + stored.tobytes()).hexdigest()


def _read_stored(path: Path) -> NDArray[Any]:
    """Return the stored values of a file, (frames, rows, columns)."""
    # damaged bytes make pydicom and its decoders raise errors of any kind
    with errors_as(VolumeError, f"{path}: its pixels cannot be read", Exception):
        dataset = read_dataset(path, pixels=True)
        _require_declared_size(dataset, path)
        stored = int(dataset.BitsStored)
        high = int(dataset.get("HighBit", stored - 1))
        if not 1 <= stored <= high + 1 <= int(dataset.BitsAllocated):
            raise ValueError(f"BitsStored {stored} and HighBit {high} do not fit together")
        pixels = _decode(dataset)
        # a stream of JPEG 2000 has its own sign and width, which lossy values may need all of
        if pixels.dtype.kind in "iu" and dataset.file_meta.TransferSyntaxUID not in JPEG2000TransferSyntaxes:
            pixels = _without_unused_bits(pixels, stored, high)
    return pixels[None] if pixels.ndim == 2 else pixels


def _require_declared_size(dataset: Dataset, path: Path) -> None:
    """Refuse a header that declares more pixels than its file can hold."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    declared = int(dataset.Rows) * int(dataset.Columns) * frames * (int(dataset.BitsAllocated) // 8)
    size = path.stat().st_size
    if declared > ALWAYS_PLAUSIBLE_BYTES * frames or declared > max(size * DEFLATE_LIMIT, ALWAYS_PLAUSIBLE_BYTES):
        raise VolumeError(
            f"{path}: truncated or damaged: the header declares {declared} bytes of pixels, the file has {size} bytes"
        )


def _decode(dataset: Dataset) -> NDArray[Any]:
    """Return the stored values without the unused bits."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:  # bare elements, as of a message: how they are written was found out in reading them
        syntax = ImplicitVRLittleEndian if dataset.is_implicit_VR else ExplicitVRLittleEndian
        dataset.file_meta.TransferSyntaxUID = syntax
    if syntax.is_encapsulated:
        for stream in _streams(dataset):
            check_codestream(stream, syntax, int(dataset.Rows), int(dataset.Columns), int(dataset.BitsAllocated))
    if syntax in JPEGTransferSyntaxes:  # GDCM aborts where BitsStored is less than the 8 bits of the stream
        dataset.BitsStored = dataset.BitsAllocated
    decoder = DECODERS.get(syntax, "")
    if hasattr(dataset, "pixel_array_options"):
        dataset.pixel_array_options(decoding_plugin=decoder, correct_unused_bits=False)
    else:  # pydicom 2, which MONAI Label needs
        dataset.convert_pixel_data({"pyjpegls": "jpeg_ls"}.get(decoder, decoder))
    if syntax not in JPEGTransferSyntaxes:
        return np.asarray(dataset.pixel_array)
    with native_output() as said:
        pixels = np.asarray(dataset.pixel_array)
    if CORRUPT_NOTICE in said[0]:  # it goes on with grey, and says so on the screen only
        raise CodestreamError("the compressed image is damaged")
    return pixels


def _streams(dataset: Dataset) -> Iterator[bytes]:
    """Yield the compressed frames."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    tables = (dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths"))
    if hasattr(encaps, "generate_frames"):
        return encaps.generate_frames(
            dataset.PixelData, number_of_frames=frames, extended_offsets=tables if all(tables) else None
        )
    return iter(encaps.generate_pixel_data_frame(dataset.PixelData, frames))


def _without_unused_bits(pixels: NDArray[Any], stored: int, high: int) -> NDArray[Any]:
    """Return the values without what old scanners keep in the bits that they do not use, such as overlays."""
    width = 8 * pixels.itemsize  # a stream of few bits makes an array of fewer than BitsAllocated
    if stored == width or high >= width:
        return pixels
    return (pixels << (width - 1 - high)) >> (width - stored)  # arithmetic: the sign is kept
