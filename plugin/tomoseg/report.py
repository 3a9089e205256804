"""What a run did, case by case, as people and programs read it afterwards."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import tomoseg
from tomoseg.files import atomic_file

REPORTED_PACKAGES = ("torch", "monai", "openvino", "nibabel", "numpy", "scipy", "pydicom", "highdicom", "SimpleITK")
STATISTICS_COLUMNS = (
    "input", "label", "name", "voxels", "volume_ml", "mean", "sd",
    "first_i", "first_j", "first_k", "stop_i", "stop_j", "stop_k", "touches_border",
)  # fmt: skip
# A path that is no valid UTF-8 holds lone surrogates: as \udcff they are readable, and in JSON the very same path.
UNENCODABLE = "backslashreplace"


@dataclass(frozen=True)
class LabelVolume:
    """How much of one scan carries one label, where, and over which intensities.

    Args:
        label: its value.
        name: as the bundle calls it.
        voxels: how many voxels carry it, 0 where it does not occur.
        volume_ml: the same in millilitres.
        mean, sd: of the scan's intensity in these voxels (population SD); None where the label does not occur or the
            scan could not be looked at.
        first, stop: the box `[first, stop)` of voxel indices (i, j, k) that just holds it; None if it does not occur.
        touches_border: whether it reaches the first or the last plane of the scan along any axis.
    """

    label: int
    name: str
    voxels: int
    volume_ml: float
    mean: float | None = None
    sd: float | None = None
    first: tuple[int, int, int] | None = None
    stop: tuple[int, int, int] | None = None
    touches_border: bool = False


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
        status: "done" if the label map was written, "failed" if not, "skipped" if it was there already and left alone.
        reason: one line that says why it is not "done".
        series: SeriesInstanceUID of a DICOM scan.
        remarks: what was done otherwise than usual.
        seconds: time of each stage.
        windows: number of windows of the network.
        skipped_windows: those of them that did not need to run.
        voxels: number of voxels of the scan.
        memory: what it took; None where it failed.
        labels: one entry for each label of the bundle.
        preview: path of the picture, None where there is none.
    """

    input: str
    output: str | None
    status: Literal["done", "failed", "skipped"]
    reason: str = ""
    series: str | None = None
    remarks: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    windows: int = 0
    skipped_windows: int = 0
    voxels: int = 0
    memory: Memory | None = None
    labels: tuple[LabelVolume, ...] = ()
    preview: str | None = None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CaseReport:
        """Return what `dataclasses.asdict` and JSON made of a case, as it was.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        fields = dict(content)
        fields["remarks"] = tuple(fields["remarks"])
        fields["memory"] = None if fields["memory"] is None else Memory(**fields["memory"])
        fields["labels"] = tuple(map(_read_label, fields["labels"]))
        return cls(**fields)

    @property
    def total_seconds(self) -> float:
        """Time of all stages together, 0 where none was measured."""
        return sum(self.seconds.values())


def utc_now() -> str:
    """Return the time, UTC, as ISO 8601 with milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


@dataclass
class Report:
    """A whole run.

    Args:
        bundle: name, version and SHA-256 of config and checkpoints.
        device: where the network ran.
        backend: what ran it.
        precision: what it computed in.
        options: what the user asked for.
        hardware: as `describe_hardware` tells it.
        started, finished: UTC, ISO 8601; `finished` is None while the run goes on.
        interrupted: whether it stopped before its end.
        pending: the inputs that have not run; none are left once a run has reached its end.
        cases: one entry an input, in the order they ran.
    """

    bundle: dict[str, str]
    device: str
    backend: str
    precision: str
    options: dict[str, Any] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    started: str = field(default_factory=utc_now)
    finished: str | None = None
    interrupted: bool = False
    pending: list[str] = field(default_factory=list)
    cases: list[CaseReport] = field(default_factory=list)

    @property
    def failed(self) -> list[CaseReport]:
        return [case for case in self.cases if case.status == "failed"]

    def save(self, path: Path) -> None:
        """Write the report as JSON, atomically.

        One object: "tomoseg" and "python" (versions), "packages" (versions of those that are installed), "system",
        then the fields of `Report` by their names; each entry of "cases" has the fields of `CaseReport`, each of its
        "labels" those of `LabelVolume`. What is None here is null there; keys may be added, but not taken away.

        Raises:
            OutputError: it cannot be written.
        """
        content = {
            "tomoseg": tomoseg.__version__,
            "python": platform.python_version(),
            "packages": installed_packages(),
            "system": platform.platform(),
            **asdict(self),
        }
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        with atomic_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8", errors=UNENCODABLE)

    def save_statistics(self, path: Path) -> None:
        """Write the measures of each label as CSV, one row a case and label, atomically.

        The columns are `STATISTICS_COLUMNS`: as in `LabelVolume`, with the box `[first, stop)` axis by axis and "yes"
        or "no" for the border. A cell is empty where there is nothing to tell.

        Raises:
            OutputError: it cannot be written.
        """
        with (
            atomic_file(path) as temporary,
            temporary.open("w", newline="", encoding="utf-8", errors=UNENCODABLE) as file,
        ):
            writer = csv.writer(file)
            writer.writerow(STATISTICS_COLUMNS)
            for case in self.cases:
                writer.writerows((case.input, *_statistics(row)) for row in case.labels)


def describe_hardware(gpus: Sequence[str] = ()) -> dict[str, Any]:
    """Return "cpu" (its model), "cores" (that this process may use), "memory_bytes" (of the machine) and "gpus".

    Args:
        gpus: their names, as torch tells them.
    """
    import psutil  # 25 ms that `tomoseg --help` need not wait for

    # os.cpu_count() counts cores, too, that a container or a scheduler has given to others
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": _cpu_model(),
        "cores": cores or 1,
        "memory_bytes": int(psutil.virtual_memory().total),
        "gpus": list(gpus),
    }


def installed_packages() -> dict[str, str]:
    """Return the versions of the packages that decide what a run computes, those that are installed."""
    found = {}
    for name in REPORTED_PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _read_label(content: Mapping[str, Any]) -> LabelVolume:
    fields: dict[str, Any] = dict(content)
    for key in ("first", "stop"):
        fields[key] = None if fields[key] is None else tuple(fields[key])
    return LabelVolume(**fields)


def _cpu_model() -> str:
    # platform.processor() tells no more than "x86_64", or nothing, on Linux
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() == "model name":
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"


def _statistics(row: LabelVolume) -> tuple[object, ...]:
    mean, sd = ("" if value is None else f"{value:.6g}" for value in (row.mean, row.sd))
    return (
        row.label,
        row.name,
        row.voxels,
        f"{row.volume_ml:.6g}",
        mean,
        sd,
        *(row.first or ("",) * 3),
        *(row.stop or ("",) * 3),
        "yes" if row.touches_border else "no",
    )
