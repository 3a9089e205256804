"""Hardware, package versions and time for reports."""

import platform
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tomoseg.core.files import read_text
from tomoseg.core.threads import usable_threads

REPORTED_PACKAGES = (
    "torch", "monai", "openvino", "nibabel", "numpy", "scipy", "pydicom", "highdicom", "SimpleITK", "nilearn",
)  # fmt: skip


@dataclass(frozen=True)
class RunEnvironment:
    """What ran the network of a batch; empty where no worker ever started.

    Attributes:
        device: where the network ran.
        backend: what ran it.
        precision: precision of the network.
        hardware: as `describe_hardware` returns it.
        executor: what the report states among its options of how cases were distributed; empty for a local run.
    """

    device: str = ""
    backend: str = ""
    precision: str = ""
    hardware: dict[str, Any] = field(default_factory=dict)
    executor: dict[str, Any] = field(default_factory=dict)


def utc_now() -> str:
    """Return the time, UTC, as ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def describe_hardware(gpus: Sequence[str] = (), threads: int | None = None) -> dict[str, Any]:
    """Return "cpu" (its model), "cores" (that this process may use), "memory_bytes" (of the machine), and the rest.

    Args:
        gpus: names of the GPUs.
        threads: number of threads that compute.
    """
    import psutil  # 25 ms that `tomoseg --help` need not wait for

    machine = {"cpu": _cpu_model(), "cores": usable_threads(), "memory_bytes": int(psutil.virtual_memory().total)}
    return {**machine, "gpus": list(gpus), "threads": threads}


def installed_packages(names: Iterable[str] = REPORTED_PACKAGES) -> dict[str, str]:
    """Return the versions of packages that are installed; by default those that decide what a run computes."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _cpu_model() -> str:
    # on Linux, platform.processor() returns "x86_64" or nothing
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in read_text(information, errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip().lower() == "model name":
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"
