"""Headers that say one thing twice and differently: a note, or an error, and never a guess."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from tomoseg.core.errors import VolumeError
from tomoseg.data.header import read_headers
from tomoseg.data.read import read_volume

ARRAY = np.random.default_rng(0).random((7, 8, 9)).astype(np.float32)
AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
SFORM, QFORM = AFFINE + np.eye(4, k=3) * 5, AFFINE + np.eye(4, k=3) * -5

Header: TypeAlias = Any  # nibabel's, which has no types


def put(**fields: Any) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        for name, value in fields.items():
            header[name] = value

    return change


def put_sizes(*sizes: float) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        header["pixdim"][1:4] = sizes

    return change


def both(*changes: Callable[[Header], None]) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        for one in changes:
            one(header)

    return change


NO_SFORM = put(srow_x=0, srow_y=0, srow_z=0)
NAN_SFORM = put(srow_x=np.nan, srow_y=np.nan, srow_z=np.nan)
NIFTI: dict[str, tuple[Any, Any, str]] = {
    "all is well": (lambda header: None, SFORM, "differ by up to"),
    "voxels within the header": (put(vox_offset=100), None, "its voxels begin at byte 100, which is within the header"),
    "voxels at the start": (put(vox_offset=0), None, "its voxels begin at byte 0, which is within the header"),
    "sizes and sform": (both(put(qform_code=0), put_sizes(1, 1, 1)), SFORM, "sizes (1×1×1 mm) contradict its sform"),
    "sizes and sform by rounding": (both(put(qform_code=0), put_sizes(2, 2.0001, 3)), SFORM, ""),
    "sform of zeros": (NO_SFORM, QFORM, "its sform is damaged; the qform is used"),
    "sform of NaN": (NAN_SFORM, QFORM, "its sform is damaged; the qform is used"),
    "qform of NaN": (put(qoffset_x=np.nan), SFORM, "its qform is damaged; the sform is used"),
    "sform of zeros alone": (both(NO_SFORM, put(qform_code=0)), None, "header is damaged"),
    "sform of NaN alone": (both(NAN_SFORM, put(qform_code=0)), None, "header is damaged"),
    "origin of NaN alone": (put(sform_code=0, qoffset_y=np.nan), None, "header is damaged"),
    "sizes of 0": (both(put(sform_code=0), put_sizes(2, 0, 3)), None, "its voxel sizes are 2 and 0 and 3"),
    "sizes of NaN": (both(put(sform_code=0), put_sizes(2, np.nan, 3)), None, "its voxel sizes are 2 and nan and 3"),
    "sizes of 0 with a sform": (both(put(qform_code=0), put_sizes(0, 0, 0)), SFORM, "non-zero"),
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("case", NIFTI)
def test_nifti(case: str, suffix: str, tmp_path: Path) -> None:
    change, affine, told = NIFTI[case]
    image = nib.Nifti1Image(ARRAY, SFORM)
    image.set_sform(SFORM, 1)
    image.set_qform(QFORM, 1)
    path = tmp_path / f"x{suffix}"
    nib.save(image, tmp_path / "x.nii")
    content = (tmp_path / "x.nii").read_bytes()
    header = nib.Nifti1Header(content[:348], check=False)
    change(header)
    with gzip.open(path, "wb") if suffix == ".nii.gz" else path.open("wb") as file:
        file.write(header.binaryblock + content[348:])
    if affine is None:
        readers: tuple[Callable[[Path], object], ...] = (read_volume, read_headers)
        for read in readers:
            with pytest.raises(VolumeError, match=str(path)) as caught:
                read(path)
            assert told in str(caught.value)
        return
    volume = read_volume(path)
    np.testing.assert_allclose(volume.grid.affine, affine)
    np.testing.assert_array_equal(volume.array, ARRAY)
    assert bool(volume.notes) == bool(told)
    assert told in " ".join(volume.notes)
    (found,) = read_headers(path)
    assert (found.grid, found.notes) == (volume.grid, volume.notes)


ITK: dict[str, list[tuple[bytes, bytes, str | None]]] = {
    ".mha": [
        (b"Offset = 0 0 0", b"Offset = nan 0 0", "its header is damaged: offset"),
        (b"Offset = 0 0 0", b"Offset = 0 -inf 0", "its header is damaged: offset"),
        (b"ElementSpacing = 1 1 1", b"ElementSpacing = 1 nan 1", "Zero-valued spacing"),
        (b"Offset = 0 0 0", b"Offset = 0 0 0\nDistanceUnits = um", "expected lengths in mm, its header says um"),
        (b"Offset = 0 0 0", b"Offset = 0 0 0\nDistanceUnits = cm", "expected lengths in mm, its header says cm"),
        (b"Offset = 0 0 0", b"Offset = 0 0 0\nDistanceUnits = mm", None),
    ],
    ".nrrd": [
        (b"space origin: (0,0,0)", b"space origin: (nan,nan,nan)", ""),
        (b"space origin: (0,0,0)", b"space origin: (inf,0,0)", "its header is damaged: space origin"),
        (b"(1,0,0)", b"(nan,0,0)", "existance of all space vector"),
    ],
}


@pytest.mark.parametrize(("suffix", "case"), [(suffix, case) for suffix, cases in ITK.items() for case in cases])
def test_nrrd_and_metaimage(suffix: str, case: tuple[bytes, bytes, str | None], tmp_path: Path) -> None:
    old, new, told = case
    path = tmp_path / f"x{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(ARRAY), str(path))
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    if told:
        with pytest.raises(VolumeError, match=str(path)) as caught:
            read_volume(path)
        assert told in str(caught.value)
        return
    notes = ("its header does not say where its first voxel lies: taken as 0, as ITK does",)
    assert read_volume(path).notes == (() if told is None else notes)
