"""JPEG, JPEG-LS and JPEG 2000 streams, checked before a decoder sees them.

The decoders are C and C++ libraries that trust what a stream says of itself: a damaged one makes them abort the whole
process, write past their buffers, or work for minutes. This module checks the fields that they trust; the compressed
values themselves may be anything.
"""

import re
import struct
from collections.abc import Iterator

from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes

# markers of JPEG (ITU-T T.81, table B.1) and of JPEG-LS (T.87, C.1.1)
START, END, TABLES, ARITHMETIC, SCAN = 0xD8, 0xD9, 0xC4, 0xCC, 0xDA
JFIF, LAST_NO_SEGMENT = 0xE0, 0xBF
JPEG_FRAMES, JPEG_LS_FRAMES = {0xC0, 0xC1, 0xC3}, {0xF7}  # sequential, and lossless; hierarchy is not allowed in DICOM
# what may stand between compressed values: a stuffed byte, fill bytes, a restart
NO_MARKER = {"jpeg": re.compile(rb"\xff[^\x00\xd0-\xd7\xff]"), "jpeg-ls": re.compile(rb"\xff[^\x00-\x7f\xd0-\xd7\xff]")}
# markers of JPEG 2000 (T.800, table A.2)
CODESTREAM, TILE, END_OF_CODESTREAM = b"\xff\x4f\xff\x51", b"\xff\x90", b"\xff\xd9"
JP2 = b"\x00\x00\x00\x0cjP  "  # a file around the codestream, which the standard forbids and some write
MAX_TILES = 1 << 12


class CodestreamError(Exception):
    """A stream that is truncated, damaged, or does not belong to the header of its file."""


def check_codestream(code: bytes, syntax: str, rows: int, columns: int, bits: int) -> None:
    """Raise CodestreamError unless a frame's stream is whole and says of itself what the DICOM header says.

    Args:
        code: the stream of one frame.
        syntax: UID of the transfer syntax; those that compress otherwise are not checked.
        rows: Rows of the image.
        columns: Columns of the image.
        bits: BitsAllocated.
    """
    try:
        if syntax in JPEG2000TransferSyntaxes or syntax.startswith("1.2.840.10008.1.2.4.20"):  # and high-throughput
            size, precision = _check_jpeg_2000(code)
        elif syntax in JPEGTransferSyntaxes:
            size, precision = _check_jpeg(code, "jpeg", JPEG_FRAMES)
        elif syntax in JPEGLSTransferSyntaxes:
            size, precision = _check_jpeg(code, "jpeg-ls", JPEG_LS_FRAMES)
        else:
            return
    except (struct.error, IndexError) as error:
        raise CodestreamError("the compressed image is truncated") from error
    if size != (rows, columns):
        raise CodestreamError(f"the compressed image has {size[0]}×{size[1]} pixels, expected {rows}×{columns}")
    if bits not in (8, 16):
        raise CodestreamError(f"expected 8 or 16 bits a pixel of a compressed image, got {bits}")
    if not 2 <= precision <= bits:
        raise CodestreamError(f"the compressed image has {precision} bits a pixel, expected at most {bits}")


def _check_jpeg(code: bytes, kind: str, frames: set[int]) -> tuple[tuple[int, int], int]:
    """Return (rows, columns) and the bits of a pixel."""
    if code[:2] != bytes((0xFF, START)):
        raise CodestreamError("the compressed image does not start as one")
    size, precision, component = (0, 0), 0, -1
    tables: set[int] = set()
    for marker, start, stop in _segments(code):
        if marker in frames and not precision:
            precision, rows, columns, components, component, sampling = struct.unpack_from(">BHHBBB", code, start)
            size = (rows, columns)
            if components != 1 or stop - start != 9 or not (0x11 <= sampling <= 0x44):
                raise CodestreamError(f"the compressed image has {components} values a pixel, expected 1")
        elif marker == TABLES:
            tables |= set(_tables(code[start:stop]))
        elif marker == SCAN:
            components, scanned, selected = struct.unpack_from(">BBB", code, start)
            known = kind == "jpeg-ls" or selected >> 4 in tables
            if not precision or components != 1 or scanned != component or stop - start != 6 or not known:
                break
            found = NO_MARKER[kind].search(code, stop)
            if found is None:
                raise CodestreamError("the compressed image is truncated")
            if code[found.end() - 1] != END:
                break
            return size, precision
        elif marker <= LAST_NO_SEGMENT or marker in (START, END, ARITHMETIC, *range(0xC0, 0xD0)):
            break
        elif marker == JFIF and code[start : start + 5] == b"JFIF\0" and code[start + 5 : start + 6] != b"\1":
            raise CodestreamError("the compressed image is of an unknown version of JFIF")  # on which GDCM aborts
    raise CodestreamError("the header of the compressed image is damaged")


def _segments(code: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment of a JPEG header, and where its contents [start, stop) are."""
    at = 2
    while True:
        if code[at] != 0xFF:
            raise CodestreamError("the header of the compressed image is damaged")
        while code[at] == 0xFF:
            at += 1
        (length,) = struct.unpack_from(">H", code, at + 1)
        if length < 2 or at + 1 + length > len(code):
            raise CodestreamError("the header of the compressed image is damaged or truncated")
        yield code[at], at + 3, at + 1 + length
        at += 1 + length


def _tables(contents: bytes) -> Iterator[int]:
    """Yield the numbers of the Huffman tables for differences in a segment (T.81, B.2.4.2)."""
    at = 0
    while at < len(contents):
        number, counts = contents[at], contents[at + 1 : at + 17]
        # more codes of a length than there are bit patterns left
        room = 1
        for count in counts:
            room = 2 * room - count
            if room < 0:
                break
        at += 17 + sum(counts)
        if len(counts) < 16 or room < 0 or at > len(contents) or number & 0xF > 3 or number >> 4 > 1:
            raise CodestreamError("a table of the compressed image is damaged")
        if number >> 4 == 0:
            yield number


def _check_jpeg_2000(code: bytes) -> tuple[tuple[int, int], int]:
    """Return (rows, columns) and the bits of a pixel."""
    at = code.find(CODESTREAM) if code.startswith(JP2) else 0
    if code[at : at + 4] != CODESTREAM:
        raise CodestreamError("the compressed image does not start as one")
    length, _, right, bottom, left, top, *tiling, components, depth, across, down = struct.unpack_from(
        ">HH4L4LHBBB", code, at + 4
    )
    width, height, tiles_left, tiles_top = tiling
    if length != 41 or (components, across, down) != (1, 1, 1):
        raise CodestreamError(f"the compressed image has {components} values a pixel, expected 1")
    if min(width, height) == 0 or tiles_left > left or tiles_top > top:
        raise CodestreamError("the header of the compressed image is damaged")
    if -(-(right - tiles_left) // width) * -(-(bottom - tiles_top) // height) > MAX_TILES:
        raise CodestreamError(f"the compressed image has more than {MAX_TILES} tiles; its header is damaged")
    at += 4 + length
    while code[at : at + 2] != TILE:
        (marker, length) = struct.unpack_from(">HH", code, at)
        if marker < 0xFF30 or length < 2:
            raise CodestreamError("the header of the compressed image is damaged")
        at += 2 + length
    while code[at : at + 2] == TILE:
        (part,) = struct.unpack_from(">L", code, at + 6)  # 0: up to the end
        if not part:
            end = code.rfind(END_OF_CODESTREAM, at)
            part = (end if end > 0 else len(code)) - at
        at += part
        if part in range(1, 14) or not 0 <= at <= len(code):
            raise CodestreamError("the compressed image is truncated")
    if code[at : at + 2] not in (END_OF_CODESTREAM, b"", b"\0", b"\0\0"):
        raise CodestreamError("the compressed image is damaged")
    return (bottom - top, right - left), (depth & 0x7F) + 1
