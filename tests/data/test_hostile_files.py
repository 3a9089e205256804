"""Small files that ask for much memory, and files that are no files."""

from __future__ import annotations

import gzip
import struct
import zlib
from io import BytesIO
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import Dataset, FileMetaDataset, dcmwrite
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, generate_uid

from tomoseg import read_volume
from tomoseg.core.errors import VolumeError
from tomoseg.core.memory import resident_bytes
from tomoseg.data.dicom import file_reader

EXTENSIONS = {  # vox_offset, length of the first extension
    "longer than the voxels' place allows": (400, 2**31 - 16),
    "negative length": (400, -64),
    "no length": (400, 0),
    "shorter than itself": (400, 4),
    "a gigabyte of extensions": (2**30, 2**30 - 352),
    "voxels that begin in the header": (0, 32),
    "a place that is no number": (float("nan"), 32),
}


@pytest.mark.parametrize("case", EXTENSIONS)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_extensions_of_nifti_are_never_read(tmp_path: Path, case: str, suffix: str) -> None:
    offset, length = EXTENSIONS[case]
    image = nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4))
    start = bytearray(image.to_bytes()[:348] + b"\1\0\0\0")
    start[108:112] = struct.pack("<f", offset)
    content = bytes(start) + struct.pack("<ii", length, 44) + bytes(1 << 20)
    path = tmp_path / f"scan{suffix}"
    path.write_bytes(gzip.compress(content, 1) if suffix == ".nii.gz" else content)
    before = resident_bytes()
    if offset == 400:
        assert not read_volume(path).array.any()
    else:
        with pytest.raises(VolumeError, match=r"scan\.nii"):
            read_volume(path)
    assert resident_bytes() - before < 100e6


@pytest.mark.parametrize("name", ["scan.nrrd", "scan.mha", "scan.raw", "scan"])
def test_only_nifti_by_name_is_read_as_nifti(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(nib.Nifti1Image(np.zeros((4, 4, 4), np.uint8), np.eye(4)).to_bytes())
    with pytest.raises(VolumeError, match=r"expected a (NIfTI|NRRD|MetaImage) volume"):
        read_volume(tmp_path / name)


def test_a_deflated_dicom_file_is_inflated_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_reader, "MAX_INFLATED_BYTES", 1 << 26)
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
    meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset = Dataset()
    dataset.file_meta, dataset.SOPClassUID = meta, CTImageStorage
    written = BytesIO()
    dcmwrite(written, dataset, enforce_file_format=True)
    stream = zlib.compressobj(9, wbits=-15)
    block = bytes(1 << 24)
    bomb = b"".join(stream.compress(block) for _ in range(5)) + stream.flush()
    start = written.getvalue()[: written.getvalue().index(b"1.2.840.10008.1.2.1.99") + 22]
    (tmp_path / "bomb.dcm").write_bytes(start + bomb)
    before = resident_bytes()
    with pytest.raises(ValueError, match="inflate to more than 64 MiB"):
        file_reader.read_dataset(tmp_path / "bomb.dcm")
    assert resident_bytes() - before < 30e6
