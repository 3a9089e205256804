"""Checks of an installation: packages and their versions, devices, bundles."""

import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, requires
from typing import Final

import torch
from packaging.requirements import Requirement

from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.registry import find_bundle, registered_names
from tomoseg.core.errors import TomosegError, advise, one_line
from tomoseg.core.tables import read_rows
from tomoseg.core.version import __version__
from tomoseg.inference.segmenter import Segmenter
from tomoseg.inference.threads import use_threads
from tomoseg.report.environment import installed_packages

MAX_IMPORT_S: Final = 120
PYTHON: Final = sys.version_info[:2]
WITHOUT_WHEEL: Final = ("highdicom", "pyjpegls")  # on Python 3.14
# no telemetry: OpenVINO's is sent from the moment it is imported
IMPORT: Final = "import sys; sys.modules['openvino_telemetry'] = None; import {}"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    good: bool = True


@dataclass(frozen=True)
class Part:
    """A package that an installation may lack.

    Attributes:
        use: what tomoseg needs it for.
        package: its name for pip.
        module: its name in Python.
        extra: the extra of tomoseg that brings it; none for a package that some platforms have no wheel of.
    """

    use: str
    package: str
    module: str
    extra: str = ""


PARTS: Final = [Part(**row) for row in read_rows(__package__, "parts.csv")]


def examine_installation() -> list[Finding]:
    """Look at Python, the packages, the devices and registered bundles (trusted ones are loaded).

    Returns:
        One finding; `good` is False where something must be corrected.

    Example:
        >>> import tomoseg
        >>> [finding.what for finding in tomoseg.examine_installation() if not finding.good]
        []
    """
    use_threads(None)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = list(pool.map(examine_part, PARTS))
    findings = [
        Finding("tomoseg", __version__),
        Finding("Python", f"{platform.python_version()} on {platform.platform()}"),
        *examine_packages(),
        *parts,
        Finding("CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"),
        Finding("GPU", ", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))) or "none"),
    ]
    names = registered_names()
    if not names:
        findings.append(Finding("bundles", "none is registered; reinstall tomoseg", good=False))
    return findings + [_bundle(name) for name in names]


def examine_packages() -> list[Finding]:
    """Compare the packages that tomoseg and its extras need with those that are installed.

    An extra counts where all its packages are installed.
    """
    try:
        found = [Requirement(text) for text in requires("tomoseg") or []]
        extras = metadata("tomoseg").get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return [Finding("installation", "tomoseg is on the path but not installed. Use pip install", good=False)]
    core = [requirement for requirement in found if _applies(requirement, "")]
    findings = [_package(requirement) for requirement in core]
    for extra in extras:
        own = [requirement for requirement in found if requirement not in core and _applies(requirement, extra)]
        if len(installed_packages(requirement.name for requirement in own)) == len(own):
            findings += [finding for finding in map(_package, own) if not finding.good]
    return findings


def examine_part(part: Part) -> Finding:
    """Import a package in a process of its own, so that none disturbs another."""
    installed = installed_packages([part.package]).get(part.package)
    if not installed:
        found = f"{part.package} is not installed. Install it with: {advise(part.package, part.extra)}"
        if part.package in WITHOUT_WHEEL and PYTHON >= (3, 14):
            found += " (Python 3.14 has no wheel of pyjpegls, so that pip needs a C++ compiler)"
        return Finding(part.use, found)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", IMPORT.format(part.module)],
            capture_output=True, text=True, errors="replace", timeout=MAX_IMPORT_S, check=False,
        )  # fmt: skip
        fault = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1] if done.returncode else ""
    except subprocess.TimeoutExpired:
        fault = f"not imported within {MAX_IMPORT_S} s"
    if fault:
        return Finding(part.use, f"{part.package} {installed} does not work: {fault}", good=False)
    return Finding(part.use, f"{part.package} {installed}")


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _package(requirement: Requirement) -> Finding:
    installed = installed_packages([requirement.name]).get(requirement.name)
    command = advise(f"{requirement.name}{requirement.specifier}")
    if not installed:
        return Finding(requirement.name, f"not installed. Install it with: {command}", good=False)
    if not requirement.specifier.contains(installed, prereleases=True):
        wanted = f"expected {requirement.specifier}, got {installed}. Install it with: {command}"
        return Finding(requirement.name, wanted, good=False)
    return Finding(requirement.name, installed)


def _bundle(name: str) -> Finding:
    try:
        bundle = find_bundle(name)
        if not bundle.trusted:
            return Finding(f"bundle {name}", f"{bundle.version}, {bundle.modality}, not run")
        Segmenter(bundle, RunOptions(device="cpu"))
    except TomosegError as error:
        return Finding(f"bundle {name}", one_line(error), good=False)
    return Finding(f"bundle {name}", f"{bundle.version}, {bundle.modality}, weights load")
