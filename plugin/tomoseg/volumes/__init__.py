"""Scans in, label maps out.

What needs pydicom (0.2 s to import) is imported from its own module where it is used.
"""

from tomoseg.volumes.channels import (
    FIRST_CHANNEL,
    channel_file,
    channel_number,
    channels_of,
    further_files,
    without_number,
)
from tomoseg.volumes.formats import (
    DETACHED_SUFFIXES,
    OUTPUT_TYPES,
    VOLUME_SUFFIXES,
    OutputType,
    choose_output_type,
    has_suffix,
    names_output_file,
    strip_suffix,
)
from tomoseg.volumes.itk_image import segment_names
from tomoseg.volumes.nifti import write_label_map, write_map
from tomoseg.volumes.read import read_volume
from tomoseg.volumes.scans import Scan, files_of, find_scans
from tomoseg.volumes.search import INDEX, find_volumes, is_dicom, is_volume, visible_files
from tomoseg.volumes.segmentation_object import is_segmentation, read_segmentation
from tomoseg.volumes.volume import DicomSeries, Volume, refuse_non_finite

__all__ = [
    "DETACHED_SUFFIXES",
    "FIRST_CHANNEL",
    "INDEX",
    "OUTPUT_TYPES",
    "VOLUME_SUFFIXES",
    "DicomSeries",
    "OutputType",
    "Scan",
    "Volume",
    "channel_file",
    "channel_number",
    "channels_of",
    "choose_output_type",
    "files_of",
    "find_scans",
    "find_volumes",
    "further_files",
    "has_suffix",
    "is_dicom",
    "is_segmentation",
    "is_volume",
    "names_output_file",
    "read_segmentation",
    "read_volume",
    "refuse_non_finite",
    "segment_names",
    "strip_suffix",
    "visible_files",
    "without_number",
    "write_label_map",
    "write_map",
]
