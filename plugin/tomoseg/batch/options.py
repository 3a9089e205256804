"""What a batch writes, and where it runs: the options of `tomoseg segment` and `watch`."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tomoseg.core.errors import UsageError
from tomoseg.core.options import Option, require_choices
from tomoseg.data.output_types import OutputTypeName


@dataclass(frozen=True)
class OutputOptions:
    """Which files are written for each scan, and which of those that exist are replaced.

    Attributes:
        overwrite: replace files that are there already.
        min_dice: list labels whose expected Dice is lower in review.csv, worst first, and exit with 1 if there are any.
        split: write a file for each label, too, named as it, into a folder beside the label map.
        statistics_only: write no label maps, but statistics and reports into the folder of results.
        preview: write a picture (PNG) beside each label map.
        neurological: draw it with the patient's right at the right; by default it is at the left, as in radiology.
        anonymous: write numbers in place of paths and UIDs, into names of files, reports, pictures and messages.
        key_table: a CSV with the path and the series behind each number, which only you may read.
        measure: measure intensity and position of each label, too, and not only its volume.
        follow: replace results of an earlier state of a scan; keep those of another bundle or of other options.

    Example:
        >>> import tomoseg
        >>> tomoseg.OutputOptions(preview=True).overwrite
        False
    """

    overwrite: bool = False
    min_dice: Annotated[float | None, Option("DICE")] = None
    split: bool = False
    statistics_only: bool = False
    preview: bool = False
    neurological: bool = False
    anonymous: bool = False
    key_table: Annotated[str | None, Option("CSV")] = None
    measure: Annotated[bool, Option(hidden=True)] = True
    follow: Annotated[bool, Option(hidden=True)] = False

    def __post_init__(self) -> None:
        if self.min_dice is not None and not 0 <= self.min_dice <= 1:
            raise UsageError(f"min-dice: expected a Dice from 0 to 1, got {self.min_dice}")
        if self.statistics_only and self.split:
            raise UsageError("statistics only: writes no labels. Leave out --split")
        if self.neurological and not self.preview:
            raise UsageError("neurological: is for pictures. Add --preview")
        if self.key_table is not None and not self.anonymous:
            raise UsageError("key table: lists numbers; add --anonymous")


@dataclass(frozen=True)
class ScanOptions:
    """Which scans to take from the inputs, and the format of their labels.

    Attributes:
        output_type: file format of the labels; by default that of the output's suffix, and nifti for a folder.
        series: SeriesInstanceUID or description (may be a pattern) of the DICOM series to segment; all for every scan.
            By default those of the bundle's modality, if there are any.
        phase: value of the images to read, if a DICOM series has several at each place; e.g. AcquisitionNumber=2.
        all_files: segment also label maps beside their scans.
    """

    output_type: OutputTypeName | None = None
    series: Annotated[str | None, Option("all|UID|DESCRIPTION*")] = None
    phase: Annotated[str | None, Option("KEYWORD=VALUE")] = None
    all_files: bool = False


@dataclass(frozen=True)
class ExecutorOptions:
    """Where the scans of a batch are segmented.

    Attributes:
        executor: run in this process, or on Ray's workers.
        jobs: number of Ray's workers; by default one a GPU, else one a machine.
        ray_address: a Ray cluster; without it, Ray runs on this machine.

    Raises:
        UsageError: an option is for Ray, and the executor is not.

    Example:
        >>> import tomoseg
        >>> tomoseg.ExecutorOptions("ray", jobs=2).jobs
        2
    """

    executor: Literal["local", "ray"] = "local"
    jobs: Annotated[int | None, Option("N")] = None
    ray_address: Annotated[str | None, Option("auto|HOST:PORT")] = None

    def __post_init__(self) -> None:
        require_choices(self)
        for name, value in (("jobs", self.jobs), ("ray-address", self.ray_address)):
            if value is not None and self.executor != "ray":
                raise UsageError(f"{name}: is for Ray. Add --executor ray")
