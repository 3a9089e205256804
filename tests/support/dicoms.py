"""DICOM series made for the tests: any grid, any way of storing it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pydicom.valuerep import format_number_as_ds

from tomoseg import Grid
from tomoseg.data.dicom.reference import WHOLE_FILE
from tomoseg.data.volume import DicomFrame, DicomSeries

NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
BY_GDCM = (JPEGLosslessSV1, JPEGBaseline8Bit)
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
# where a row, a column and the next slice point to, RAS
DIRECTIONS = {
    "axial": ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "coronal": ((-1, 0, 0), (0, 0, -1), (0, 1, 0)),
    "sagittal": ((0, -1, 0), (0, 0, -1), (-1, 0, 0)),
    "descending": ((-1, 0, 0), (0, -1, 0), (0, 0, -1)),
    "oblique": ((-2, 2, 1), (1, 2, -2), (2, 1, 2)),
    "tilted": ((-1, 0, 0), (0, -1, 0), (0, 0.3, 1)),
}


def write_series(
    folder: Path,
    array: NDArray[Any],
    grid: Grid,
    *,
    modality: str = "CT",
    slope: float = 1,
    intercept: float = 0,
    syntax: str = ExplicitVRLittleEndian,
    uid: str | None = None,
    names: Sequence[str] | None = None,
    **elements: Any,
) -> list[Path]:
    """Write one file a slice; return their paths, in the order of the third axis.

    Args:
        folder: made if it is not there.
        array: (I, J, K) of the stored values, of 8 or 16 bits; I runs over the columns of the image, J over its rows.
        grid: where they lie; may be sheared along the third axis, as with a tilted gantry.
        modality: "CT" or "MR".
        slope: RescaleSlope.
        intercept: RescaleIntercept.
        syntax: the transfer syntax.
        uid: SeriesInstanceUID.
        names: of the files; by default they and the instance numbers have another order than the slices.
        elements: other elements of every file, by keyword.
    """
    folder.mkdir(parents=True, exist_ok=True)
    common = _common(array, grid, modality, uid)
    order = np.random.default_rng(5).permutation(array.shape[2])
    paths = []
    for k in range(array.shape[2]):
        dataset = Dataset()
        dataset.update(common)
        dataset.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
        dataset.InstanceNumber = int(order[k]) + 1
        dataset.ImagePositionPatient = _position(grid, k)
        dataset.ImageOrientationPatient = _orientation(grid)
        dataset.PixelSpacing = [_number(grid.spacing[1]), _number(grid.spacing[0])]
        dataset.SliceThickness = _number(grid.spacing[2])
        if modality == "CT" or (slope, intercept) != (1, 0):
            dataset.RescaleSlope, dataset.RescaleIntercept = _number(slope), _number(intercept)
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        path = folder / (names[k] if names else f"IM{order[k]:04}")
        _save(path, dataset, np.ascontiguousarray(array[:, :, k].T), syntax)
        paths.append(path)
    return paths


def write_enhanced(
    path: Path,
    array: NDArray[Any],
    grid: Grid,
    *,
    modality: str = "CT",
    slope: float = 1,
    intercept: float = 0,
    syntax: str = ExplicitVRLittleEndian,
    uid: str | None = None,
    shared_orientation: bool = True,
) -> Path:
    """Write all slices as the frames of one enhanced multi-frame file, shuffled; otherwise as `write_series`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset = _common(array, grid, modality, uid)
    dataset.SOPClassUID = EnhancedCTImageStorage if modality == "CT" else EnhancedMRImageStorage
    dataset.InstanceNumber = 1
    dataset.NumberOfFrames = array.shape[2]
    orientation, measures, values = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = _orientation(grid)
    measures.PixelSpacing = [_number(grid.spacing[1]), _number(grid.spacing[0])]
    measures.SliceThickness = _number(grid.spacing[2])
    values.RescaleSlope, values.RescaleIntercept = _number(slope), _number(intercept)
    values.RescaleType = "HU" if modality == "CT" else "US"
    shared = Dataset()
    shared.PixelMeasuresSequence = [measures]
    if shared_orientation:
        shared.PlaneOrientationSequence = [orientation]
        shared.PixelValueTransformationSequence = [values]
    dataset.SharedFunctionalGroupsSequence = [shared]
    order = np.random.default_rng(6).permutation(array.shape[2])
    groups = []
    for k in order:
        group, plane, content = Dataset(), Dataset(), Dataset()
        plane.ImagePositionPatient = _position(grid, int(k))
        group.PlanePositionSequence = [plane]
        content.StackID, content.InStackPositionNumber = "1", int(k) + 1
        content.DimensionIndexValues = [1, int(k) + 1]
        group.FrameContentSequence = [content]
        if not shared_orientation:
            group.PlaneOrientationSequence = [orientation]
            group.PixelValueTransformationSequence = [values]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    _save(path, dataset, np.ascontiguousarray(array[:, :, order].transpose(2, 1, 0)), syntax)
    return path


def oriented_grid(shape: Sequence[int], kind: str) -> Grid:
    """A grid of one of `DIRECTIONS`; voxels of 0.8×0.9×2.5 mm."""
    axes = np.array(DIRECTIONS[kind], float) / np.linalg.norm(DIRECTIONS[kind], axis=1, keepdims=True)
    affine = np.eye(4)
    affine[:3, :3] = (axes * [[0.8], [0.9], [2.5]]).T
    affine[:3, 3] = 51.3, -42.6, 33.9
    return Grid(shape, affine)


def make_series(
    folder: Path, shape: tuple[int, int, int], kind: str = "axial", storage: str = "classic", **elements: Any
) -> tuple[DicomSeries, Grid]:
    """Write a series of noise.

    Args:
        folder: made if it is not there.
        shape: (I, J, K).
        kind: one of `DIRECTIONS`.
        storage: "classic"; "enhanced", one multi-frame file with the orientation in every frame; or "two files", of
            that kind, the first with the slices of odd indices.
        elements: of every file of a classic series, by keyword.
    """
    grid = oriented_grid(shape, kind)
    array = np.random.default_rng(7).integers(0, 1000, shape).astype(np.int16)
    uid = generate_uid()
    if storage == "classic":
        paths = write_series(folder, array, grid, uid=uid, **elements)
        return DicomSeries(uid, "CT", tuple(DicomFrame(path) for path in paths)), grid
    step = 1 if storage == "enhanced" else 2
    frames: dict[int, DicomFrame] = {}
    for start in range(step):
        affine = grid.affine.copy()
        affine[:3, 3] = (grid.affine @ (0, 0, start, 1))[:3]
        affine[:3, 2] *= step
        part = array[:, :, start::step]
        path = folder / f"part{step - start}.dcm"
        write_enhanced(path, part, Grid(part.shape, affine), uid=uid, shared_orientation=False)
        for number, group in enumerate(dcmread(path).PerFrameFunctionalGroupsSequence, 1):
            place = group.FrameContentSequence[0].InStackPositionNumber - 1
            frames[start + step * place] = DicomFrame(path, number)
    return DicomSeries(uid, "CT", tuple(frames[k] for k in range(shape[2]))), grid


def _common(array: NDArray[Any], grid: Grid, modality: str, uid: str | None) -> Dataset:
    dataset = Dataset()
    dataset.PatientName, dataset.PatientID = "Doe^Jane", "4711"
    dataset.PatientBirthDate, dataset.PatientSex = "19700101", "F"
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    dataset.SeriesInstanceUID = uid or generate_uid()
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame of reference"])
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260102", "101112", "1"
    dataset.SeriesNumber, dataset.SeriesDescription = 3, "phantom"
    dataset.AccessionNumber = dataset.ReferringPhysicianName = dataset.PositionReferenceIndicator = ""
    dataset.Manufacturer, dataset.ImageType = "phantoms", ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Modality, dataset.PatientPosition = modality, "HFS"
    dataset.Columns, dataset.Rows = array.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * array.itemsize
    dataset.HighBit, dataset.PixelRepresentation = 8 * array.itemsize - 1, int(array.dtype.kind == "i")
    return dataset


def _position(grid: Grid, k: int) -> list[float]:
    return [_number(value) for value in RAS_TO_LPS @ (grid.affine @ (0, 0, k, 1))[:3]]


def _orientation(grid: Grid) -> list[float]:
    cosines = RAS_TO_LPS @ grid.affine[:3, :2] / grid.spacing[:2]
    return [_number(value) for value in cosines.T.ravel()]


def _number(value: float) -> float:
    """Return the number as the 16 characters of a decimal string hold it."""
    return float(format_number_as_ds(float(value)))


def _save(path: Path, dataset: Dataset, pixels: NDArray[Any], syntax: str) -> None:
    """Write pixels (rows, columns) or (frames, rows, columns)."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = UID(syntax if syntax in NATIVE else ExplicitVRLittleEndian)
    big, implicit = syntax == ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    file = FileDataset(str(path), dataset, bytes(128), meta, is_implicit_VR=implicit, is_little_endian=not big)
    file.PixelData = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<")).tobytes()
    file["PixelData"].VR = "OW" if pixels.itemsize == 2 or implicit else "OB"
    if syntax in BY_GDCM:
        frames = pixels.reshape(-1, *pixels.shape[-2:])
        file.PixelData = encapsulate([_compress_by_gdcm(frame, syntax, dataset.BitsStored) for frame in frames])
        file["PixelData"].is_undefined_length = True
        meta.TransferSyntaxUID = UID(syntax)
    elif syntax not in NATIVE:
        file.compress(syntax, generate_instance_uid=False)
    file.save_as(path, **WHOLE_FILE)


def _compress_by_gdcm(pixels: NDArray[Any], syntax: str, bits: int) -> bytes:
    """Return the stream of one image (rows, columns) in a syntax that pydicom's own encoders do not write."""
    import gdcm

    plain = _common(pixels.T, Grid((*pixels.shape[::-1], 1), np.eye(4)), "OT", None)
    plain.SOPClassUID = SecondaryCaptureImageStorage
    plain.BitsStored, plain.HighBit = bits, bits - 1
    with TemporaryDirectory() as folder:
        path = Path(folder) / "frame.dcm"
        _save(path, plain, pixels, ExplicitVRLittleEndian)
        # from file to file, for GDCM's objects do not survive being put together in Python
        reader = gdcm.ImageReader()
        reader.SetFileName(str(path))
        assert reader.Read()
        change = gdcm.ImageChangeTransferSyntax()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer = gdcm.ImageWriter()
        writer.SetFileName(str(path))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        from pydicom.encaps import generate_frames  # pydicom 3; MONAI Label runs with 2

        return next(generate_frames(dcmread(path).PixelData, number_of_frames=1))
