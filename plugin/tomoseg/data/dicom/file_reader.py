"""DICOM files, read through pydicom: regular files only, deflated ones up to a limit, small faults put right."""

import re
import zlib
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from pydicom import Dataset, FileDataset, dcmread
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.filereader import _read_file_meta_info
from pydicom.uid import DeflatedExplicitVRLittleEndian

from tomoseg.core.files import open_regular
from tomoseg.core.notes import take_note

MAX_INFLATED_BYTES = 1 << 30  # pydicom inflates a whole file at once, even for its header
BLOCK_BYTES = 1 << 20  # inflated at once
MARK = b"DICM"  # follows the preamble
START_BYTES = 1 << 12  # in which the character set lies
CHARACTER_SET = re.compile(rb"\x08\0\x05\0(?:CS(.)\0|(.)\0\0\0)", re.DOTALL)  # its tag and its length
WRITTEN_NUMBERS, WHOLE_NUMBERS = ("DS", "IS"), ("US", "UL", "SS", "SL")  # as text, and in binary
TEXTS = ("AE", "CS", "DS", "IS", "LO", "LT", "SH", "ST", "UC", "UT")
AnyDataset = TypeVar("AnyDataset", bound=Dataset)


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
        file = _correct_start(file)
        _require_inflated_size(file)
        return correct(dcmread(file, force=True, stop_before_pixels=not pixels, specific_tags=wanted))


def correct(dataset: AnyDataset) -> AnyDataset:
    """Return a dataset after numbers with a decimal comma, or of another type than the standard's, were put right.

    Elements that are decoded already, and items of sequences, stay unchanged.
    """
    for tag in list(dataset.keys()):
        raw = dataset.get_item(tag)
        if not (isinstance(raw, RawDataElement) and raw.value and dictionary_has_tag(tag)):
            continue
        kind = dictionary_VR(tag)
        if kind in WRITTEN_NUMBERS and raw.VR in (None, "OB", "UN", *TEXTS):
            if b"," in raw.value:
                take_note("some of its numbers have a decimal comma")
            dataset[tag] = raw._replace(VR=kind, value=raw.value.replace(b",", b"."))
        elif kind in WHOLE_NUMBERS and raw.VR in TEXTS and raw.value.strip(b" \0").isdigit():
            dataset[tag] = DataElement(tag, kind, int(raw.value.strip(b" \0")))
    return dataset


def _correct_start(file: BufferedReader) -> Any:
    """Return a file with the preamble that it has lost, and with no NUL within its character set."""
    start = file.peek(START_BYTES)
    if start.startswith(MARK):
        return BytesIO(bytes(128) + file.read())
    found = CHARACTER_SET.search(start)
    first, length = (found.end(), ord(found[1] or found[2])) if found else (0, 0)
    names = start[first : first + length]
    if b"\0" not in names.rstrip(b"\0 "):
        return file
    names = b"\\".join(name.replace(b"\0", b" ").strip() for name in names.split(b"\\"))
    content = file.read()
    return BytesIO(content[:first] + names.ljust(length) + content[first + length :])


def _require_inflated_size(file: BinaryIO) -> None:
    if file.read(132)[128:] != MARK:
        file.seek(0)
    if _read_file_meta_info(file).get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
        stream, count = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while not stream.eof and (block := stream.unconsumed_tail or file.read(BLOCK_BYTES)):
            count += len(stream.decompress(block, BLOCK_BYTES))
            if count > MAX_INFLATED_BYTES:
                raise ValueError(f"its elements inflate to more than {MAX_INFLATED_BYTES >> 20} MiB")
    file.seek(0)
