"""One scan on disk, from which its hash and its voxels are read."""

from dataclasses import dataclass
from pathlib import Path

from tomoseg.core.files import sha256
from tomoseg.core.json_files import hash_json
from tomoseg.data.discovery import files_of
from tomoseg.data.read import read_volume
from tomoseg.data.volume import Volume


@dataclass(frozen=True)
class ScanSource:
    """Where a scan lies: a batch hashes and reads it through this object.

    Voxels are not kept. A batch that measures labels or draws a picture reads them twice, before and after the network:
    in between, they would take 4 bytes a voxel and channel of the memory that the network needs. Of a DICOM series,
    the `DicomSeries` of the volume is kept with the result: which file is which slice. A DICOM result reads the
    headers of these files when it is written, once a scan (`data/dicom/reference.py`).

    Attributes:
        paths: a file, or a folder with a DICOM series; a file for each channel if there are several.
        series: SeriesInstanceUID, if the folder may hold several series.
        phase: "KEYWORD=VALUE" of the images, if the series may have several at each place.
    """

    paths: tuple[Path, ...]
    series: str | None = None
    phase: str | None = None

    def __str__(self) -> str:
        return str(self.paths[0])

    def hash(self, output_type: str) -> str:
        """Return the SHA-256 over the contents of the files, not their names, and the output type.

        Raises:
            OSError: a file cannot be read.
        """
        # the files of one channel have no order, those of several do
        files = (sorted(map(sha256, files_of(path, self.series))) for path in self.paths)
        return hash_json([*files, [output_type, self.series, self.phase]])

    def read(self, channels: int = 1, *, allow_non_finite: bool = False) -> Volume:
        """Read the voxels.

        Args:
            channels: how many are expected.
            allow_non_finite: keep NaN and infinity.

        Raises:
            VolumeError: as for `read_volume`.
        """
        source = list(self.paths) if len(self.paths) > 1 else self.paths[0]
        return read_volume(source, self.series, channels=channels, allow_non_finite=allow_non_finite, phase=self.phase)
