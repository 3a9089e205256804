"""NRRD and MetaImage files, read by SimpleITK, and SimpleITK's images."""

from __future__ import annotations

import math
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from tomoseg.core.errors import TomosegError, VolumeError, errors_as, shorten
from tomoseg.core.files import open_regular, require_regular
from tomoseg.core.memory import is_out_of_memory
from tomoseg.core.quiet import hear
from tomoseg.core.reading import require_room
from tomoseg.data.formats import DEFLATE_LIMIT
from tomoseg.data.volume import LPS_TO_RAS, MAX_COORDINATE_MM, Volume, by, make_volume

if TYPE_CHECKING:
    import SimpleITK as sitk

READERS = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
WHOLE_NAME = {"NrrdImageIO": "scan.nrrd", "MetaImageIO": "scan.mha"}  # with header and voxels in one file
MAX_HEADER_BYTES = 1 << 20  # far more than any header has
BLOCK_BYTES = 1 << 20  # decompressed at once
# what places the voxels; ITK works for minutes to find out how numbers without measure are turned
GEOMETRY_FIELDS = {
    "space directions", "space origin", "spacings", "transformmatrix", "orientation", "rotation", "elementspacing",
    "elementsize", "offset", "origin", "position",
}  # fmt: skip
# what ITK's warnings begin with: a place in its sources, and an object in memory
ITK_PLACE = re.compile(r"^WARNING: In .*\n(?:\w+ ?\(0x[0-9a-f]+\): )?")
UNKNOWN = re.compile(r"\bnan\b", re.IGNORECASE)
NO_NUMBER = re.compile(r"\b(?:nan|inf)", re.IGNORECASE)
PLACE_FIELDS = {"space origin", "offset", "origin", "position"}
NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
# what MetaIO can take of a MetaImage header; the rest makes it write past its arrays
META_LINE = re.compile(r"[ \w|.:\[\]-]{1,100}=[^\x00-\x08\x0e-\x1f]*")
BOOLEANS = {"true", "false", "1", "0"}
META_VALUES = {
    "ndims": {"1", "2", "3", "4"},
    "elementtype": {
        "met_char", "met_short", "met_int", "met_long", "met_long_long", "met_uchar", "met_ushort", "met_uint",
        "met_ulong", "met_ulong_long", "met_float", "met_double",
    },
    "binarydata": BOOLEANS, "compresseddata": BOOLEANS,
    "binarydatabyteordermsb": BOOLEANS, "elementbyteordermsb": BOOLEANS,
}  # fmt: skip
MAX_TEXT_LENGTH = 250
MAX_ELEMENT_LENGTH = 16000
# of a field of NRRD, which its reader copies into its error message, past the end of the buffer; a key with a
# value of its own may be as long as it likes
MAX_LINE_LENGTH = 500
HERE = {"LOCAL", "Local", "local"}  # of a MetaImage: the voxels follow the header
# how many bytes of voxels one byte of the file can hold: a digit and a space may stand for a float64
MAX_EXPANSION = {"raw": 1, "text": 4, "compressed": DEFLATE_LIMIT}
# NRRD's spaces that ITK converts from
_listeners: list[object] = []  # SimpleITK does not keep them
KNOWN_SPACES = {
    "right-anterior-superior", "ras", "left-anterior-superior", "las", "left-posterior-superior", "lps",
}  # fmt: skip


@dataclass(frozen=True)
class ItkHeader:
    """The header of a NRRD or a MetaImage file.

    Attributes:
        path: the file.
        fields: their names in lower case.
        length: of the header, in bytes.
        data: the file of the voxels.
    """

    path: Path
    fields: dict[str, str]
    length: int
    data: Path

    @property
    def start(self) -> int:
        """Where the voxels begin in their file, in bytes."""
        return self.length if self.data == self.path else 0

    @property
    def packing(self) -> str:
        """How the voxels are stored."""
        fields = self.fields
        encoding = fields.get("encoding", "raw").lower()
        if encoding in ("ascii", "text", "txt", "hex") or fields.get("binarydata", "true").lower() in ("false", "0"):
            return "text"
        return "compressed" if encoding != "raw" or fields.get("compresseddata", "").lower() in ("true", "1") else "raw"

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on all that it leaves open."""
        if not _is_nrrd(self.path):
            return ()
        fields, found = self.fields, []
        if fields.get("space", "").lower().removesuffix("-time") not in KNOWN_SPACES:
            found.append("where the patient's left, back and head are: taken as LPS, as ITK does")
        if "space directions" not in fields and "nan" in fields.get("spacings", "nan").lower():
            found.append("how large its voxels are: taken as 1 mm")
        if "nan" in fields.get("space origin", "").lower():
            found.append("where its first voxel lies: taken as 0, as ITK does")
        return tuple(f"its header does not say {note}" for note in found)

    def declared(self, reader: sitk.ImageFileReader) -> int:
        """Return how many bytes of voxels it declares."""
        import SimpleITK as sitk

        bits = re.search(r"\d+", sitk.GetPixelIDValueAsString(reader.GetPixelID()))
        values: int = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
        sizes = re.findall(r"\d+", self.fields.get("sizes", ""))  # NRRD's; ITK reports their last 32 bits only
        return max(values, math.prod(map(int, sizes))) * (int(bits[0]) // 8 if bits else 1)


def read_itk(path: Path, channels: int = 1) -> Volume:
    """Read a NRRD or a MetaImage file, of several channels where its voxels may have so many values.

    Raises:
        VolumeError: it is damaged, truncated, not 3D, or has another number of values a voxel.
    """
    with open_itk(path, voxels=True) as (reader, header):
        declared = header.declared(reader)
        require_room(str(path), math.prod(reader.GetSize()), declared)
        _check_stream(header, declared)
        volume = from_itk(reader.Execute(), str(path), channels)
    return replace(volume, notes=header.notes)


@contextmanager
def open_itk(path: Path, *, voxels: bool = False) -> Iterator[tuple[sitk.ImageFileReader, ItkHeader]]:
    """Yield a reader that has read the header of a NRRD or a MetaImage file, and the header.

    Args:
        path: the file.
        voxels: they are going to be read, too.

    Raises:
        VolumeError: the file is damaged or truncated, which may become known only in reading on.
    """
    import SimpleITK as sitk

    header = _read_header(path)
    reader = sitk.ImageFileReader()
    reader.SetImageIO(READERS[path.suffix.lower()])
    _listen_to_itk()
    try:
        with _whole_file(header, voxels) as whole:
            reader.SetFileName(str(require_regular(whole)))
            reader.ReadImageInformation()
            _check_size(header, header.declared(reader))
            yield reader, header
    except TomosegError:
        raise
    except (RuntimeError, OverflowError, MemoryError) as error:
        if is_out_of_memory(error):
            raise MemoryError(f"{path}: {_reason(error)}") from error
        raise VolumeError(f"{path}: truncated or damaged: {_reason(error)}") from error


@cache
def _listen_to_itk() -> None:
    """Hand ITK's output to the listener of its thread, for the rest of the process."""
    import SimpleITK as sitk

    class Listener(sitk.LoggerBase):  # type: ignore[misc]
        def _take(self, text: str) -> None:
            if not hear(ITK_PLACE.sub("", text)):
                print(text, file=sys.stderr)

        DisplayText = DisplayErrorText = DisplayWarningText = DisplayGenericOutputText = DisplayDebugText = _take

    listener = Listener()
    listener.SetAsGlobalITKLogger()
    _listeners.append(listener)


@contextmanager
def _whole_file(header: ItkHeader, voxels: bool) -> Iterator[Path]:
    """Yield a file that ends with its voxels, or could: ITK must not open a file that a header names (ITK #4621)."""
    path = header.path
    if header.data == path:
        yield path
        return
    with TemporaryDirectory(prefix="tomoseg-") as folder:
        whole = Path(folder) / WHOLE_NAME[READERS[path.suffix.lower()]]
        with open_regular(path) as lines, open_regular(header.data) as source, whole.open("wb") as target:
            # of a MetaImage, counted from the start of the file with the voxels
            skipped = header.fields.get("headersize", "0")
            if not re.fullmatch(r"-1|\d{1,18}", skipped):
                raise _damaged(path, f": HeaderSize: {_shown(skipped)}")
            dropped = {b"data file", b"datafile", b"elementdatafile", b"headersize" if skipped != "-1" else b""}
            for line in lines.read(header.length).splitlines():
                if re.split(b"[:=]", line, maxsplit=1)[0].strip().lower() not in dropped and line.strip():
                    target.write(line + b"\n")
            target.write(b"\n" if _is_nrrd(path) else b"ElementDataFile = LOCAL\n")
            source.seek(max(int(skipped), 0))
            if voxels:
                shutil.copyfileobj(source, target, BLOCK_BYTES)
        yield whole


def segment_names(path: Path) -> dict[int, str]:
    """Return what 3D Slicer calls the values of a NRRD file; empty where it was no segmentation.

    Raises:
        VolumeError: its header is damaged.
    """
    fields = _read_header(path).fields
    names = {}
    for field, text in fields.items():
        name, value = fields.get(field.replace("_labelvalue", "_name")), text.removeprefix("=")  # written KEY:=VALUE
        if re.fullmatch(r"segment\d+_labelvalue", field) and value.isdecimal() and name is not None:
            names[int(value)] = name.removeprefix("=").encode(errors="surrogateescape").decode(errors="replace")
    return names


def count_layers(path: Path) -> int:
    """Return how many layers 3D Slicer has put into a NRRD file, for segments that overlap; 1 for any other file.

    Raises:
        VolumeError: its header is damaged.
    """
    fields = _read_header(path).fields
    layered = fields.get("dimension") == "4" and fields.get("kinds", "").startswith("list")
    return int(fields["sizes"].split()[0]) if layered else 1


def from_itk(image: sitk.Image, name: str, channels: int = 1) -> Volume:
    """Return the volume of a SimpleITK image; of one with so many values a voxel, a volume of several channels.

    Raises:
        VolumeError: it is not 3D, or has another number of values a voxel.
    """
    import SimpleITK as sitk

    while image.GetDimension() == 4 and image.GetSize()[3] == 1:  # one volume, too
        image = image[:, :, :, 0]
    components = image.GetNumberOfComponentsPerPixel()
    if image.GetDimension() != 3 or min(image.GetSize()) < 2 or components not in (1, channels):
        raise VolumeError(
            f"{name}: expected a 3D volume with one value a voxel, got {by(image.GetSize())} with {components} values"
        )
    if "complex" in image.GetPixelIDTypeAsString():
        raise VolumeError(f"{name}: expected one real value a voxel, got complex ones. Convert it to grey values first")
    array = sitk.GetArrayFromImage(image)  # (K, J, I), with the channel at the end if there are several
    first, *others = (array[..., index].T for index in range(components)) if components > 1 else (array.T,)
    volume = make_volume(first, LPS_TO_RAS @ affine_of(image), name)
    return replace(volume, other_channels=tuple(np.asarray(one, np.float32) for one in others))


def affine_of(image: sitk.Image | sitk.ImageFileReader) -> NDArray[np.float64]:
    """Return the 4×4 matrix from voxel indices to mm of a 3D image, or of one whose header was read, LPS in files."""
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return affine


def _read_header(path: Path) -> ItkHeader:
    """Return the header, once the file of the voxels is known to be there.

    ITK opens any file that a header names, and would wait for ever at a pipe.
    """
    nrrd = _is_nrrd(path)
    with open_regular(path) as file:
        fields, length = _parse(path, file.read(MAX_HEADER_BYTES), nrrd)
    # the name of the file of the voxels, read as the library does that will open it
    place, data = fields.get("data file", fields.get("datafile")) if nrrd else fields.get("elementdatafile", ""), path
    if place is not None and (nrrd or place not in HERE):
        # ITK takes % for a pattern of names, which it hands to printf; LIST and - for many files and standard input
        if place != Path(place).name or "%" in place or place == "-" or place.upper().startswith("LIST"):
            raise VolumeError(f"{path}: expected its voxels in one file beside it, got {place!r}")
        data = path.parent / place
        if not data.is_file():
            raise VolumeError(f"{path}: expected its voxels in a file beside it, there is no file {place!r}")
    units = {*re.findall(r'"(.*?)"', fields.get("space units", "")), fields.get("distanceunits", "")} - {"mm", "", "?"}
    if units:
        raise VolumeError(f"{path}: expected lengths in mm, its header says {units.pop()}. Convert it first")
    if fields.get("dimension") == "3" and "none" in fields.get("space directions", ""):
        raise VolumeError(f"{path}: expected three space directions, got {fields['space directions']}")
    return ItkHeader(path, fields, length, data)


def _damaged(path: Path, why: str) -> VolumeError:
    return VolumeError(f"{path}: its header is damaged{why}")


def _parse(path: Path, start: bytes, nrrd: bool) -> tuple[dict[str, str], int]:
    """Return the fields of the header and its length in bytes."""
    if nrrd != start.startswith(b"NRRD") or (not nrrd and b"ElementDataFile" not in start):
        kind = "NRRD" if nrrd else "MetaImage"
        raise VolumeError(f"{path}: expected a {kind} volume, got something else or a damaged file")
    fields: dict[str, str] = {}
    length = 0
    for line in start.splitlines(keepends=True):
        length += len(line)
        text = line.decode("utf-8", "surrogateescape").strip()
        name, _, value = (part.strip() for part in text.partition(":" if nrrd else "="))
        if nrrd and not name:
            break
        if nrrd and len(text) > MAX_LINE_LENGTH and not re.match("[^:]*:=", text):
            raise _damaged(path, f": {_shown(text)}")
        if not nrrd and text:
            _check_meta(path, text, name.lower() in fields)
        if nrrd and ":=" not in text and "data" in name.lower() and {"data file", "datafile"} & fields.keys():
            raise _damaged(path, ": it names two files of voxels")
        fields[name.lower()] = value
        if name == "ElementDataFile":
            break
    if not nrrd and "ndims" not in fields:
        raise _damaged(path, ": it has no NDims")
    for name in fields.keys() & GEOMETRY_FIELDS:
        numbers = [float(number) for number in NUMBER.findall(fields[name])]
        # NaN in NRRD is a number that is not known; ITK takes a place of NaN for 0
        strange = name in PLACE_FIELDS and NO_NUMBER.search(UNKNOWN.sub("", fields[name]) if nrrd else fields[name])
        if strange or any(abs(number) > MAX_COORDINATE_MM for number in numbers):
            raise _damaged(path, f": {name}: {fields[name]!r}")
    return fields, length


def _check_meta(path: Path, line: str, again: bool) -> None:
    """Refuse a line of a MetaImage header that MetaIO does not survive, or that it and we may read differently."""
    name, _, value = (part.strip() for part in line.partition("="))
    known = META_VALUES.get(name.lower(), {value.lower()})
    longest = MAX_TEXT_LENGTH if name.lower() not in GEOMETRY_FIELDS else 4 * MAX_TEXT_LENGTH
    if "|" in name:  # an element that ITK has kept of a DICOM file
        longest = MAX_ELEMENT_LENGTH
    if again or not META_LINE.fullmatch(line) or len(value) > longest or value.lower() not in known:
        raise _damaged(path, f", or of no scan: {_shown(line)}")


def _shown(line: str) -> str:
    return repr(line if len(line) < 100 else line[:99] + "…")


def _is_nrrd(path: Path) -> bool:
    return READERS[path.suffix.lower()] == "NrrdImageIO"


def _check_size(header: ItkHeader, declared: int) -> None:
    """Refuse a header that declares more voxels than its file can hold, before ITK reserves memory for them."""
    held = header.data.stat().st_size - header.start
    packed = header.fields.get("compresseddatasize", "0")
    damage, size = f"{header.path}: truncated or damaged: the header declares", max(held, 0)
    skip = header.fields.get("byte skip", header.fields.get("byteskip", "0"))
    if skip.startswith("-") and header.packing == "compressed":  # ITK would inflate it byte by byte to find its end
        raise VolumeError(f"{header.path}: its header is damaged: byte skip: {_shown(skip)}")
    if not packed.isdecimal() or int(packed) > held:
        raise VolumeError(f"{damage} {packed} bytes of compressed voxels, {header.data.name} has {size}")
    if declared > held * MAX_EXPANSION[header.packing]:
        raise VolumeError(f"{damage} {declared} bytes of voxels, {header.data.name} has {size} bytes for them")


def _check_stream(header: ItkHeader, declared: int) -> None:
    """Check the length and the checksum of compressed voxels, which ITK does not look at."""
    path, fields, name = header.path, header.fields, header.data.name
    skips = ("line skip", "lineskip", "byte skip", "byteskip", "headersize")
    skipped = any(fields.get(skip, "0") != "0" for skip in skips)
    if header.packing != "compressed" or skipped or fields.get("encoding", "gzip").lower() not in ("gz", "gzip"):
        return
    stream = isal_zlib.decompressobj(wbits=47)  # gzip as NRRD has it, zlib as MetaImage has it
    count = 0
    damage: Any = isal_zlib.error  # a class, but its stub has an instance
    with errors_as(VolumeError, f"{path}: truncated or damaged", damage), open_regular(header.data) as file:
        file.seek(header.start)
        while count <= declared and not stream.eof and (block := stream.unconsumed_tail or file.read(BLOCK_BYTES)):
            count += len(stream.decompress(block, BLOCK_BYTES))
    if count < declared:
        raise VolumeError(
            f"{path}: truncated or damaged: the header declares {declared} bytes of voxels, {name} holds {count}"
        )
    if count == declared and not stream.eof:
        raise VolumeError(f"{path}: truncated: the checksum at the end of {name} is missing")


def _reason(error: BaseException) -> str:
    """Return what happened of ITK's account, which begins with where in its sources, and goes from the call inwards."""
    account = re.sub(r"^\w+\(0x[0-9a-f]+\): (?:\w+: )?", "", str(error).rpartition("ERROR: ")[2])
    lines = [line.strip() for line in account.splitlines() if line.strip()] or [type(error).__name__]
    return shorten(lines[-1] if lines[-1].startswith("[nrrd]") else lines[0], 300)
