"""Read NIfTI and FreeSurfer files with an error for each kind of damage; write NIfTI completely or not at all."""

import gzip
import math
from contextlib import nullcontext
from dataclasses import replace
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from isal import igzip
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.freesurfer.mghformat import MGHError
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from tomoseg.core.errors import GeometryError, OutputError, VolumeError, errors_as, one_line
from tomoseg.core.files import atomic_file, require_regular
from tomoseg.core.quiet import note_warnings
from tomoseg.core.reading import require_room
from tomoseg.data.formats import MGH_SUFFIXES, NIBABEL_SUFFIXES, NIFTI_SUFFIXES, has_suffix, pair_of
from tomoseg.data.geometry import Grid
from tomoseg.data.packed import DAMAGE, max_expansion, unpack
from tomoseg.data.volume import Volume, by, make_volume

TOLERANCE_VOXELS = 0.05  # float32 quaternions are not exact
MAX_SIZE_DEVIATION = 0.01  # of voxel sizes that an sform should have, as a share
MGH_HEADER_BYTES = 284
BLOCK_BYTES = 1 << 20  # unpacked at once
GZIP_LEVEL = 1  # of 0 to 3; a label map is as small as with zlib's 1, in a fifth of the time


def from_nibabel(image: nib.spatialimages.SpatialImage, name: str) -> Volume:
    """Return the volume of a nibabel image.

    Raises:
        VolumeError: it is empty, truncated, no NIfTI, not 3D, not real-valued, or its lengths are not in mm.
    """
    shape, affine, notes = place_voxels(image, name, image.shape)
    header = image.header if isinstance(image.header, nib.Nifti1Header) else None
    return replace(make_volume(read_voxels(image, name).reshape(shape), affine, name, notes), header=header)


def place_voxels(
    image: nib.spatialimages.SpatialImage, name: str, shape: tuple[int, ...]
) -> tuple[tuple[int, ...], NDArray[Any], tuple[str, ...]]:
    """Return the shape of a volume, the 4×4 matrix from its indices to RAS+ mm, and notes on it; read no voxels.

    Args:
        image: the image.
        name: what errors call it.
        shape: of the image, or of one of its channels.

    Raises:
        VolumeError: as for `from_nibabel`.
    """
    while len(shape) > 3 and shape[-1] == 1:  # (I, J, K, 1) is one volume, too
        shape = shape[:-1]
    if len(shape) > 3:
        raise VolumeError(f"{name}: expected one 3D volume, got {len(shape)}D {by(shape)}. Split it into volumes first")
    if len(shape) < 3 or min(shape) < 2:
        raise VolumeError(f"{name}: expected a 3D volume, got a 2D image or a single line of voxels, {by(image.shape)}")
    dtype = image.get_data_dtype()
    if not (np.issubdtype(dtype, np.integer) or np.issubdtype(dtype, np.floating)):
        raise VolumeError(
            f"{name}: expected one real value a voxel, got the type {dtype}. Convert it to grey values first"
        )
    if not isinstance(image.header, nib.Nifti1Header):
        return shape, image.affine, ()
    affine, notes = _choose_affine(image.header, image.affine, name)
    return shape, affine, notes


def _choose_affine(header: nib.Nifti1Header, affine: NDArray[Any], name: str) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Return the affine of an image, and what the header leaves open or says twice and differently.

    The rule is NIfTI's: the sform if its code is above 0, else the qform if its code is above 0, else the voxel sizes
    alone (https://nifti.nimh.nih.gov/nifti-1/documentation/nifti1fields/nifti1fields_pages/qsform.html).
    """
    code = int(header["xyzt_units"]) & 7
    unit = {0: "unknown", 1: "meter", 2: "mm", 3: "micron"}.get(code, f"unit {code}, which there is not")
    if unit not in ("unknown", "mm"):
        raise VolumeError(f"{name}: expected lengths in mm, its header says {unit}. Convert it first")
    sform_code, qform_code = int(header["sform_code"]), int(header["qform_code"])
    if sform_code <= 0 and qform_code <= 0:
        return affine, ("neither its sform nor its qform is set: which side is left is a guess, nibabel's",)
    if sform_code <= 0:
        return affine, ()
    shape = header.get_data_shape()[:3]
    by_sform = _grid(shape, affine)
    if qform_code <= 0:
        sizes = np.abs(header["pixdim"][1:4].astype(np.float64))
        if by_sform is not None and np.abs(sizes / by_sform.spacing - 1).max() > MAX_SIZE_DEVIATION:
            given, used = ("×".join(f"{size:.4g}" for size in one) for one in (sizes, by_sform.spacing))
            return affine, (f"its voxel sizes ({given} mm) contradict its sform ({used} mm), which is used",)
        return affine, ()
    try:
        by_qform = _grid(shape, header.get_qform())
    except (HeaderDataError, ValueError):
        by_qform = None
    if by_qform is None:
        return affine, () if by_sform is None else ("its qform is damaged; the sform is used",)
    if by_sform is None:
        return by_qform.affine, ("its sform is damaged; the qform is used",)
    apart = by_sform.distance_mm(by_qform)
    if apart > TOLERANCE_VOXELS * min(header.get_zooms()[:3]):
        return affine, (f"its sform and qform differ by up to {apart:.2f} mm; the sform is used, as NIfTI has it",)
    return affine, ()


def _grid(shape: tuple[int, ...], affine: NDArray[Any]) -> Grid | None:
    """Return the grid of an affine, None where it places no volume."""
    try:
        return Grid(shape, affine)
    except GeometryError:
        return None


def load_nifti(path: Path) -> nib.spatialimages.SpatialImage:
    """Open a NIfTI file, or one of FreeSurfer, and check that its voxels can all be there, without reading them.

    Args:
        path: the file; of a pair, the one of the header or the one of the voxels.

    Raises:
        VolumeError: the file is missing, empty, too short for its header, no NIfTI, or does not say which side is left.
    """
    lines, voxels = pair_of(path)
    try:
        if not has_suffix(path.name, NIBABEL_SUFFIXES):
            raise ImageFileError("nibabel reads others, too")
        with unpack(lines, gzip.open) as file:  # igzip unpacks far more than a header, to a damaged end
            kind, start = _read_start(path, file)
        # without header extensions: nibabel reads them whole, and nothing here needs one
        begin = FileHolder(str(voxels), BytesIO(start + bytes(4)))
        with note_warnings():  # for those who read headers by themselves
            image = kind.from_file_map({"header": begin, "image": begin})
        declared = math.prod(image.shape) * image.get_data_dtype().itemsize
        size, most = require_regular(voxels).stat().st_size, max_expansion(voxels)
    except VolumeError:
        raise
    except (ImageFileError, HeaderDataError, MGHError, EOFError, KeyError) as error:
        raise VolumeError(
            f"{path}: expected a NIfTI volume (.nii or .nii.gz), got something else or a damaged file"
        ) from error
    except (ValueError, TypeError, OverflowError) as error:
        raise VolumeError(f"{path}: its NIfTI header is damaged: {one_line(error)}") from error
    except DAMAGE as error:
        raise VolumeError(f"{path}: cannot be read: {one_line(error)}") from error
    if declared > size * most:
        raise VolumeError(
            f"{path}: truncated or damaged: the header declares {declared} bytes of voxels, the file has {size} bytes"
        )
    return image


def _read_start(path: Path, file: IO[bytes]) -> tuple[type[nib.spatialimages.SpatialImage], bytes]:
    """Return nibabel's class for a file, and its header.

    Args:
        path: the file.
        file: open at the start of the header.

    Raises:
        HeaderDataError: the file is shorter than a header.
        VolumeError: it does not say which side is left.
    """
    start = file.read(MGH_HEADER_BYTES)
    one_side = "which does not say which side is left. Convert it to NIfTI with a program that knows"
    if has_suffix(path.name, MGH_SUFFIXES):
        if not any(start[28:30]):
            raise VolumeError(f"{path}: a FreeSurfer file without directions, {one_side}")
        return nib.MGHImage, start
    nifti_2 = 540 in (int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big"))
    pair = len({*pair_of(path)}) == 2
    kind = (nib.Nifti2Pair if nifti_2 else nib.Nifti1Pair) if pair else nib.Nifti2Image if nifti_2 else nib.Nifti1Image
    size = kind.header_class.template_dtype.itemsize
    start += file.read(size - len(start))
    if len(start) < size:
        raise HeaderDataError("it ends within its header")
    header = kind.header_class(start, check=False)
    if pair and header["sizeof_hdr"] == size and not header["magic"].item():
        raise VolumeError(f"{path}: an Analyze 7.5 file, {one_side}")
    _check_raw(header, 0 if pair else size + 4)
    return kind, start


def _check_raw(header: nib.Nifti1Header, first: int) -> None:
    """Raise ValueError for what nibabel would take in another way than others do.

    Args:
        header: as it stands in the file.
        first: the first byte that may hold voxels.
    """
    if not header["magic"].item().startswith(b"n"):
        return  # no NIfTI; nibabel raises the error
    begin = float(header["vox_offset"])
    if not begin >= first:
        raise ValueError(f"its voxels begin at byte {begin:g}, which is within the header")
    sizes = header["pixdim"][1:4]
    if header["sform_code"] <= 0 and not (np.isfinite(sizes) & (sizes != 0)).all():
        raise ValueError(f"its voxel sizes are {' and '.join(f'{value:g}' for value in sizes)}")


def read_voxels(image: nib.spatialimages.SpatialImage, name: str) -> NDArray[Any]:
    """Return the voxels with the header's slope and intercept applied.

    A packed file is read to its end, where the checksum of each of its members is.

    Raises:
        VolumeError: the file ends too early or is damaged.
    """
    require_room(name, math.prod(image.shape), math.prod(image.shape) * image.get_data_dtype().itemsize)
    file, proxy = image.file_map["image"].filename, image.dataobj
    with errors_as(VolumeError, f"{name}: truncated or damaged", *DAMAGE):
        if file is None or type(proxy) is not ArrayProxy:
            return np.asanyarray(proxy)
        # nibabel goes by the name, and stops at the last voxel, before the checksum that follows it
        with unpack(Path(file)) as stream:
            packed = not isinstance(stream, BufferedReader)
            spec = (proxy.shape, proxy.dtype, proxy.offset, proxy.slope, proxy.inter)
            voxels: NDArray[Any] = np.asanyarray(ArrayProxy(stream, spec, mmap=not packed))
            while packed and stream.read(BLOCK_BYTES):
                pass
        return voxels


def write_label_map(
    path: Path, labels: NDArray[Any], grid: Grid, like: nib.Nifti1Header | None, intent: str = "label"
) -> None:
    """Write a label map as NIfTI, atomically.

    Args:
        path: ends in .nii or .nii.gz.
        labels: (I, J, K), or (I, J, K, label) where labels may overlap, uint8 or uint16.
        grid: the scan's grid.
        like: the scan's header, whose qform, sform and units are kept.
        intent: NIfTI's name of what the numbers are.

    Raises:
        OutputError: the name has another suffix, or the file cannot be written.
    """
    if not has_suffix(path.name, NIFTI_SUFFIXES):
        raise OutputError(f"{path}: expected a name that ends in .nii.gz or .nii")
    image_type = nib.Nifti2Image if isinstance(like, nib.Nifti2Header) else nib.Nifti1Image
    image = image_type(labels, grid.affine, header=like)
    header = image.header
    if like is None:
        header.set_xyzt_units("mm")
        image.set_sform(grid.affine, "scanner")
        # ITK refuses an sform that is sheared, if only by rounding, and takes the qform; none can hold a real shear
        image.set_qform(grid.affine, "scanner")
        if grid.distance_mm(Grid(grid.shape, image.get_qform())) > TOLERANCE_VOXELS * min(grid.spacing):
            image.set_qform(None)
    header.set_data_dtype(labels.dtype)
    header["cal_min"] = header["cal_max"] = 0  # display limits of the scan mean nothing here
    header["descrip"] = b""
    header["aux_file"] = b""
    header["db_name"] = b""
    header.set_intent(intent)
    header.extensions = type(header.extensions)()  # may hold anything, the patient's name included
    pack = gzip_writer if path.name.lower().endswith(".gz") else nullcontext
    with atomic_file(path) as temporary, temporary.open("wb") as raw, pack(raw) as target:
        image.to_stream(target)


def write_map(path: Path, values: NDArray[np.float32], grid: Grid, like: nib.Nifti1Header | None) -> None:
    """Write a number for each voxel, (I, J, K) float32, as NIfTI; otherwise as `write_label_map`."""
    write_label_map(path, values, grid, like, "estimate")


def gzip_writer(raw: IO[bytes]) -> igzip.IGzipFile:
    """Return a file that compresses its input, without time and name: one result is one sequence of bytes."""
    return igzip.IGzipFile(filename="", mode="wb", compresslevel=GZIP_LEVEL, fileobj=raw, mtime=0)
