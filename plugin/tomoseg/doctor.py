"""Is this installation fit for work?"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

import torch

import tomoseg
from tomoseg.engine import use_threads
from tomoseg.errors import TomosegError, one_line
from tomoseg.options import Options
from tomoseg.registry import find_bundle, registered_names
from tomoseg.segmenter import Segmenter

EXTRAS = {
    "openvino": "fast networks on CPUs",
    "matplotlib": "previews",
    "highdicom": "DICOM-SEG",
    "contourpy": "RTSTRUCT",
    "skimage": "--clean denoise",
    "nilearn": "whole heads",
    "ray": "--engine ray",
    "monailabel": "label-server",
    "jsonschema": "monai.bundle verify_metadata",
    "onnx": "tomoseg export to ONNX, and monai.bundle onnx_export",
    "nncf": "tomoseg export to int8",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    found: str
    good: bool = True


def examine() -> list[Finding]:
    """Look at Python, the packages, the devices and every registered bundle (each is loaded once)."""
    use_threads(None)
    findings = [
        Finding("tomoseg", tomoseg.__version__),
        Finding("Python", f"{platform.python_version()} on {platform.platform()}"),
        *_packages(),
        *(Finding(f"for {use}", package if find_spec(package) else "not installed") for package, use in EXTRAS.items()),
        Finding("CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"),
        Finding("GPU", ", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))) or "none"),
    ]
    names = registered_names()
    if not names:
        findings.append(Finding("bundles", "none is registered; reinstall tomoseg", good=False))
    return findings + [_bundle(name) for name in names]


def _packages() -> list[Finding]:
    findings = []
    try:
        requirements = requires("tomoseg") or []
    except PackageNotFoundError:
        return [Finding("installation", "tomoseg is on the path but not installed; use pip install", good=False)]
    for requirement in requirements:
        if "extra ==" in requirement:
            continue
        name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]
        try:
            findings.append(Finding(name, version(name)))
        except PackageNotFoundError:
            findings.append(Finding(name, f"missing; expected {requirement}", good=False))
    return findings


def _bundle(name: str) -> Finding:
    try:
        bundle = find_bundle(name)
        Segmenter(bundle, Options(device="cpu"))
    except TomosegError as error:
        return Finding(f"bundle {name}", one_line(error), good=False)
    return Finding(f"bundle {name}", f"{bundle.version}, {bundle.modality}, weights load")
