"""DICOM files, read through pydicom: regular files only, and deflated ones up to a limit."""

import zlib
from io import BufferedReader
from pathlib import Path
from typing import Any

from pydicom import FileDataset, dcmread
from pydicom.filereader import _read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tomoseg.core.files import open_regular

MAX_INFLATED_BYTES = 1 << 30  # pydicom inflates a whole file at once, even for its header
BLOCK_BYTES = 1 << 20  # inflated at once


def read_dataset(path: Path, tags: list[str] | None = None, *, pixels: bool = False) -> FileDataset:
    """Read the elements of a DICOM file, with or without its preamble; damaged bytes raise errors of any kind.

    Args:
        path: the file.
        tags: keywords of the elements that are wanted; by default all.
        pixels: read on to the pixels and beyond.

    Raises:
        OSError: it is no regular file, or cannot be opened.
        ValueError: its elements would be too large once they are inflated.
    """
    wanted: Any = tags
    with open_regular(path) as file:
        _require_inflated_size(file)
        return dcmread(file, force=True, stop_before_pixels=not pixels, specific_tags=wanted)


def _require_inflated_size(file: BufferedReader) -> None:
    if file.read(132)[128:] != b"DICM":
        file.seek(0)
    if _read_file_meta_info(file).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        stream, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not stream.eof and (block := stream.unconsumed_tail or file.read(BLOCK_BYTES)):
            count += len(stream.decompress(block, BLOCK_BYTES))
            if count > MAX_INFLATED_BYTES:
                raise ValueError(f"its elements inflate to more than {MAX_INFLATED_BYTES >> 20} MiB")
    file.seek(0)
