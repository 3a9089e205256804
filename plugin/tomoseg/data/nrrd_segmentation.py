"""Label maps as 3D Slicer stores them: a NRRD file that says what each value is.

https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html
"""

import re
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tomoseg.core.errors import OutputError
from tomoseg.core.files import atomic_file
from tomoseg.core.templates import make_environment
from tomoseg.data.formats import has_suffix
from tomoseg.data.geometry import Grid
from tomoseg.data.labels import Code, Label
from tomoseg.data.nifti import gzip_writer
from tomoseg.data.segments import Segment, find_segments
from tomoseg.data.volume import LPS_TO_RAS

SUFFIXES = (".nrrd",)
SLICES_AT_ONCE = 16  # slices that are packed at once
EMPTY = (slice(0, 0),) * 3  # the box of a label that does not occur


def write_nrrd_segmentation(
    path: Path, labels: NDArray[np.unsignedinteger[Any]], grid: Grid, table: Sequence[Label], *, compress: bool = True
) -> None:
    """Write a segmentation for 3D Slicer, atomically; the same labels make the same bytes.

    Args:
        path: ends in .nrrd; Slicer takes it for a segmentation if it ends in .seg.nrrd.
        labels: (I, J, K), or (label, I, J, K) of 0 and 1 where labels may overlap, numbered from 1; uint8 or uint16.
            Overlapping labels become layers of one file, each with its label's value.
        grid: the scan's grid.
        table: a label for every value; some may not occur.
        compress: whether the voxels are packed with gzip; some readers in browsers cannot unpack them.

    Raises:
        OutputError: the name has another suffix, the labels fit neither grid nor table, or the file cannot be written.
    """
    if not has_suffix(path.name, SUFFIXES):
        raise OutputError(f"{path}: expected a name that ends in .seg.nrrd or .nrrd")
    segments = find_segments(path, labels, grid.shape, table)
    if labels.ndim == 4:
        values = np.arange(1, len(labels) + 1, dtype=np.min_scalar_type(len(labels)))
        labels = np.where(labels != 0, values[:, None, None, None], values.dtype.type(0))
    labels = labels.astype(labels.dtype.newbyteorder("<"), copy=False)
    header = _describe(labels, grid, segments, compress)
    with atomic_file(path) as temporary, temporary.open("wb") as raw:
        raw.write(header.encode(errors="replace"))
        with gzip_writer(raw) if compress else nullcontext(raw) as target:
            for start in range(0, grid.shape[2], SLICES_AT_ONCE):
                target.write(labels[..., start : start + SLICES_AT_ONCE].tobytes(order="F"))


def _describe(labels: NDArray[Any], grid: Grid, segments: Sequence[Segment], compress: bool) -> str:
    environment = make_environment(Path(__file__).parent)
    environment.filters |= {"code": _code, "line": _line, "vector": _vector}
    affine = LPS_TO_RAS @ grid.affine + 0.0  # its own inverse; adding 0 turns -0 into 0
    return environment.get_template("segmentation.nrrd.jinja").render(
        labels=labels,
        segments=segments,
        compress=compress,
        empty=EMPTY,
        directions=[*affine[:3, :3].T],
        origin=affine[:3, 3],
    )


def _line(text: str) -> str:
    """Return a value of the header: what would end its line is a space, and NRRD reads two backslashes as one."""
    return " ".join(text.split()).replace("\\", "\\\\")


def _code(code: Code) -> str:
    """Return a code as Slicer writes it, without the characters that divide a tag."""
    return "^".join(re.sub(r"[\^~|&]", " ", part) for part in (code.scheme, code.value, code.meaning))


def _vector(numbers: NDArray[np.float64]) -> str:
    return f"({','.join(repr(number) for number in numbers.tolist())})"
