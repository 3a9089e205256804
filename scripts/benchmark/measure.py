"""Whole processes, timed from outside, with the memory of all of them together."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from dataclasses import dataclass, field
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

SAMPLE_EVERY_S = 0.05


@dataclass
class Timing:
    """What repeated runs of one command took.

    Attributes:
        wall_s: seconds of the whole process, starting Python included.
        peak_bytes: largest resident memory of the process and its children together.
        inner_s: seconds from reading the scan to the written labels, by stage where they are reported.
    """

    wall_s: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    inner_s: list[dict[str, float]] = field(default_factory=list)

    @property
    def wall(self) -> float:
        return statistics.median(self.wall_s)

    @property
    def peak(self) -> float:
        return statistics.median(self.peak_bytes)

    @property
    def inner(self) -> float:
        return statistics.median(sum(stages.values()) for stages in self.inner_s)

    def stage(self, name: str) -> float:
        return statistics.median(stages.get(name, 0) for stages in self.inner_s)

    def as_dict(self) -> dict[str, Any]:
        medians: dict[str, Any] = {"wall_s": round(self.wall, 3), "peak_bytes": int(self.peak)}
        if self.inner_s:
            medians["inner_s"] = round(self.inner, 3)
            medians["stages_s"] = {name: round(self.stage(name), 3) for name in self.inner_s[0]}
        return {**medians, "wall_s_of_all_runs": [round(seconds, 3) for seconds in self.wall_s]}


def run(command: list[str | Path], timing: Timing) -> str:
    """Run a command, add its time and memory, and return its output."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    started = time.perf_counter()
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    peak, watched = 0, psutil.Process(process.pid)
    while process.poll() is None:
        try:
            family = [watched, *watched.children(recursive=True)]
            peak = max(peak, sum(member.memory_info().rss for member in family))
        except psutil.Error:  # one has just ended
            pass
        try:
            process.wait(SAMPLE_EVERY_S)
        except subprocess.TimeoutExpired:
            continue
    timing.wall_s.append(time.perf_counter() - started)
    timing.peak_bytes.append(peak)
    printed, complaints = process.communicate()
    if process.returncode != 0:
        raise SystemExit(
            f"error: {' '.join(map(str, command))}: exit status {process.returncode}\n{complaints[-2000:]}"
        )
    return printed


def last_json(printed: str) -> dict[str, Any]:
    """Return the JSON object in the last line of the output."""
    found: dict[str, Any] = json.loads(printed.strip().splitlines()[-1])
    return found


def describe_machine() -> dict[str, Any]:
    """Return the date, the machine and the versions, as they belong to every table."""
    names = ("torch", "monai", "openvino", "numpy")
    model = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return {
        "date": date.today().isoformat(),
        "cpu": model,
        "cores": psutil.cpu_count(logical=False) or os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }
