"""A head-and-neck CT as a DICOM series, and the bundle that `tomoseg plan` makes of OpenKBP's, without its data.

The weights are random: a network takes the same time for any. Its last layer is biased so that each of the five organs
is found, and is about as small as it should be.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from phantom import phantom
from tomoseg.planning.fingerprint import Fingerprint, LabelPrint
from tomoseg.planning.inference_config import inference_config
from tomoseg.planning.layout import Layout
from tomoseg.planning.metadata import make_metadata
from tomoseg.planning.rules import Budget, decide

# of OpenKBP's 193 head-and-neck CTs, as `tomoseg plan` writes it into plan.json
FINGERPRINT = Fingerprint(
    cases=165,
    validation_cases=28,
    median_shape=(106, 67, 90),
    largest_shape=(128, 95, 128),
    median_spacing_mm=(3.906, 3.906, 2.5),
    coarse_spacing_mm=(3.906, 3.906, 2.5),
    finest_spacing_mm=(2.734, 2.734, 2.0),
    median_extent_mm=(472.7, 277.4, 225.0),
    zeros=0.0,
    intensity_mean=237.105,
    intensity_sd=424.522,
    intensity_low=-110.0,
    intensity_high=1611.0,
    labels=tuple(
        LabelPrint(value, name, 165, 165, volume)
        for value, (name, volume) in enumerate(
            {
                "brainstem": 20.1,
                "spinal_cord": 19.1,
                "parotid_right": 26.1,
                "parotid_left": 25.1,
                "mandible": 63.3,
            }.items(),
            start=1,
        )
    ),
    partial=True,
    opposite=((3, 4),),
)
LABELLED = 0.001  # of the voxels, for each organ


def write_planned_bundle(folder: Path) -> Path:
    """Write the planned bundle with random weights; return its folder."""
    plan = decide(FINGERPRINT, "CT", Budget(8 * 10**9))
    layout = Layout(listed=True, has_validation=True)
    configs = {
        "inference": inference_config(plan, layout, folder.name, "data"),
        "metadata": make_metadata(plan, FINGERPRINT, layout, "OpenKBP", "none: weights are random"),
    }
    for name, content in configs.items():
        (folder / "configs").mkdir(parents=True, exist_ok=True)
        (folder / "configs" / f"{name}.json").write_text(json.dumps(content, indent=4) + "\n")
    weights = folder / "models" / "model.pt"
    if not weights.is_file():
        assert plan.intensities is not None
        weights.parent.mkdir(exist_ok=True)
        torch.save(_make_weights(configs["inference"]["network_def"], plan.patch, plan.intensities), weights)
    return folder


def _make_weights(
    network_def: dict[str, object], window: tuple[int, int, int], intensities: tuple[float, float, float, float]
) -> dict[str, torch.Tensor]:
    low, high, mean, sd = intensities
    image, _, _ = phantom(window, (3.9, 3.9, 2.5))
    scaled = torch.from_numpy((np.clip(image, low, high) - mean) / sd).float()
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        network = ConfigParser({"network": network_def}).get_parsed_content("network").eval()
        scores = network(scaled[None, None])[0]
        ahead = (scores[1:] - scores[:1]).flatten(1)
        least = ahead.kthvalue(round(ahead.shape[1] * (1 - LABELLED)), dim=1).values
        network.output_block.conv.conv.bias[1:] -= least
    weights: dict[str, torch.Tensor] = network.state_dict()
    return weights


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
