"""What a run did, case by case, as people and programs read it afterwards."""

from __future__ import annotations

import csv
import json
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import tomoseg
from tomoseg.files import atomic_file

REPORTED_PACKAGES = ("torch", "monai", "nibabel", "numpy", "pydicom", "SimpleITK")
STATISTICS_COLUMNS = ("input", "label", "name", "voxels", "volume_ml")


@dataclass(frozen=True)
class LabelVolume:
    """How much of one scan carries one label."""

    label: int
    name: str
    voxels: int
    volume_ml: float


@dataclass(frozen=True)
class Memory:
    """What a scan was predicted to take and took, in bytes; 0 where nothing was predicted, or without a GPU.

    Args:
        planned_bytes, peak_bytes: of the whole process.
        planned_vram_bytes, peak_vram_bytes: on the GPU.
    """

    planned_bytes: int = 0
    peak_bytes: int = 0
    planned_vram_bytes: int = 0
    peak_vram_bytes: int = 0


@dataclass(frozen=True)
class CaseReport:
    """The outcome for one input.

    Args:
        input: path of the scan.
        output: path of the label map, None where there is none.
        status: whether the label map was written.
        reason: one line that says why not.
        series: SeriesInstanceUID of a DICOM scan.
        seconds: time of each stage.
        remarks: what was done otherwise than usual.
        windows: number of windows of the network.
        skipped_windows: those of them that did not need to run.
        memory: what it took; None where it failed.
        labels: volumes by label.
    """

    input: str
    output: str | None
    status: Literal["done", "failed"]
    reason: str = ""
    series: str | None = None
    remarks: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    windows: int = 0
    skipped_windows: int = 0
    memory: Memory | None = None
    labels: tuple[LabelVolume, ...] = ()


@dataclass
class Report:
    """A whole run.

    Args:
        bundle: name, version and SHA-256 of config and checkpoints.
        device: where the network ran.
        backend: what ran it.
        precision: what it computed in.
        options: what the user asked for.
        cases: one entry an input, in the order they ran.
    """

    bundle: dict[str, str]
    device: str
    backend: str
    precision: str
    options: dict[str, Any] = field(default_factory=dict)
    cases: list[CaseReport] = field(default_factory=list)

    @property
    def failed(self) -> list[CaseReport]:
        return [case for case in self.cases if case.status == "failed"]

    def save(self, path: Path) -> None:
        """Write the report as JSON, atomically.

        Raises:
            OutputError: it cannot be written.
        """
        content = {
            "tomoseg": tomoseg.__version__,
            "python": platform.python_version(),
            "packages": {name: version(name) for name in REPORTED_PACKAGES},
            "system": platform.platform(),
            **asdict(self),
        }
        with atomic_file(path) as temporary:
            temporary.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def save_statistics(self, path: Path) -> None:
        """Write the volumes as CSV, one row a case and label, atomically.

        Raises:
            OutputError: it cannot be written.
        """
        with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(STATISTICS_COLUMNS)
            for case in self.cases:
                for row in case.labels:
                    writer.writerow((case.input, row.label, row.name, row.voxels, f"{row.volume_ml:.6g}"))
