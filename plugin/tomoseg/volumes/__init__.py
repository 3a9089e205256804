"""Scans in, label maps out."""

from tomoseg.volumes.nifti import VOLUME_SUFFIXES, strip_suffix, write_label_map, write_map
from tomoseg.volumes.search import find_volumes
from tomoseg.volumes.volume import Volume, read_volume

__all__ = ["VOLUME_SUFFIXES", "Volume", "find_volumes", "read_volume", "strip_suffix", "write_label_map", "write_map"]
