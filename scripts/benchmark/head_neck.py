"""A head-and-neck CT as a DICOM series, and the CT bundle with a bias: a phantom has no organs for it to find."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from phantom import phantom
from tomoseg import find_bundle
from tomoseg.bundle.trust import record

LABELLED = 0.001  # of the voxels of the phantom, for each organ


def write_biased_bundle(folder: Path) -> Path:
    """Copy the CT bundle, and bias its last layer so that each organ has voxels in a phantom; return its folder.

    All that it does takes the time that it takes in a patient, contours included.
    """
    shutil.copytree(find_bundle("head_neck_ct_segmentation").root, folder, dirs_exist_ok=True)
    record(folder)
    parser = ConfigParser()
    parser.read_config(folder / "configs" / "inference.json")
    parser["bundle_root"] = str(folder)
    image, _, affine = phantom((128, 96, 128), (3.9, 3.9, 2.5))
    nib.save(nib.Nifti1Image(image, affine), folder / "phantom.nii.gz")
    prepared = parser.get_parsed_content("preprocessing")({"image": folder / "phantom.nii.gz"})["image"]
    weights = folder / "models" / "model.pt"
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(weights, weights_only=True))
    with torch.no_grad():
        scores = parser.get_parsed_content("inferer")(prepared[None].as_tensor(), network)[0]
        ahead = (scores[1:] - scores[:1]).flatten(1)
        least = ahead.kthvalue(round(ahead.shape[1] * (1 - LABELLED)), dim=1).values
        network.output_block.conv.conv.bias[1:] -= least
    torch.save(network.state_dict(), weights)
    return folder


def write_series(folder: Path, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> Path:
    """Write a synthetic CT as one file a slice, unless it is there; return the folder."""
    if folder.is_dir():
        return folder
    image, _, affine = phantom(shape, spacing_mm)
    study, series, frame = (generate_uid(entropy_srcs=[name]) for name in ("study", "series", "frame"))
    folder.mkdir(parents=True)
    for k in range(shape[2]):
        dataset = _slice(image[:, :, k].T, spacing_mm)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = study, series, frame
        x, y, z = affine[:3, 3] + affine[:3, 2] * k
        dataset.ImagePositionPatient = [round(float(value), 6) for value in (-x, -y, z)]  # DICOM's axes are L, P, S
        dataset.InstanceNumber = k + 1
        dataset.save_as(folder / f"{k:04}.dcm", enforce_file_format=True)
    return folder


def _slice(rows: NDArray[np.int16], spacing_mm: tuple[float, float, float]) -> FileDataset:
    """Return an image, (rows, columns) in HU, without its place."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", Dataset(), preamble=bytes(128), file_meta=meta)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.Modality = "Phantom", "phantom", "CT"
    dataset.PatientBirthDate = dataset.PatientSex = dataset.StudyDate = dataset.StudyTime = ""
    dataset.StudyID = dataset.AccessionNumber = dataset.ReferringPhysicianName = ""
    dataset.SeriesNumber = 1
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    dataset.PixelSpacing, dataset.SliceThickness = [spacing_mm[1], spacing_mm[0]], spacing_mm[2]
    dataset.Rows, dataset.Columns = rows.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.PixelData = np.ascontiguousarray(rows).tobytes()
    return dataset
