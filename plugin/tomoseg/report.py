"""What a run did, case by case, as people and programs read it afterwards."""

from __future__ import annotations

import csv
import json
import platform
import sys
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import tomoseg
from tomoseg.files import atomic_file

REPORTED_PACKAGES = ("torch", "monai", "nibabel", "numpy", "SimpleITK")
STATISTICS_COLUMNS = ("input", "label", "name", "voxels", "volume_ml")


@dataclass(frozen=True)
class LabelVolume:
    """How much of one scan carries one label."""

    label: int
    name: str
    voxels: int
    volume_ml: float


@dataclass(frozen=True)
class CaseReport:
    """The outcome for one input.

    Args:
        input: path of the scan.
        output: path of the label map, None where there is none.
        status: whether the label map was written.
        reason: one line that says why not.
        seconds: time of each stage.
        remarks: what was done otherwise than usual.
        peak_memory_bytes: largest resident memory of the process up to the end of this case; None on Windows.
        labels: volumes by label.
    """

    input: str
    output: str | None
    status: Literal["done", "failed"]
    reason: str = ""
    remarks: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    labels: tuple[LabelVolume, ...] = ()


@dataclass
class Report:
    """A whole run.

    Args:
        bundle: name, version and SHA-256 of config and weights.
        device: where the network ran.
        options: what the user asked for.
        cases: one entry an input, in the order they ran.
    """

    bundle: dict[str, str]
    device: str
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


def peak_memory_bytes() -> int | None:
    """Return the largest resident memory of this process so far; None where the system does not count it."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere
