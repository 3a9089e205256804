"""Orthanc, a small PACS, with its DICOMweb plugin: https://www.orthanc-server.com/."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest

from support.label_server import free_port

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
STARTING_S = 60


@dataclass(frozen=True)
class Orthanc:
    """A running archive.

    Attributes:
        url: of its REST interface; DICOMweb is at `/dicom-web`.
        dicom_port: where it takes C-STORE.
        process: that runs it.
    """

    url: str
    dicom_port: int
    process: subprocess.Popen[bytes]

    @property
    def dicomweb(self) -> str:
        return f"{self.url}/dicom-web"

    def add(self, path: Path) -> None:
        """Store a DICOM file."""
        urlopen(Request(f"{self.url}/instances", path.read_bytes(), method="POST"), timeout=60).close()

    def ask(self, path: str) -> Any:
        """Return what the REST interface answers."""
        with urlopen(f"{self.url}{path}", timeout=60) as answer:
            return json.load(answer)

    def series(self, modality: str) -> list[dict[str, Any]]:
        """Return the series of a modality."""
        found = [self.ask(f"/series/{name}") for name in self.ask("/series")]
        return [one for one in found if one["MainDicomTags"]["Modality"] == modality]

    def fetch(self, series: dict[str, Any], folder: Path) -> list[Path]:
        """Save the files of a series."""
        paths = []
        for name in series["Instances"]:
            with urlopen(f"{self.url}/instances/{name}/file", timeout=60) as answer:
                paths.append(folder / f"{name}.dcm")
                paths[-1].write_bytes(answer.read())
        return paths


@contextmanager
def running_orthanc(folder: Path, port: int | None = None, **settings: Any) -> Iterator[Orthanc]:
    """Start an archive that keeps its files in a folder; skip the test where Orthanc is not installed.

    Args:
        folder: with nothing in it, or with an archive that ran there before.
        port: of HTTP; by default a free one.
        settings: further settings of Orthanc.
    """
    command = shutil.which("Orthanc") or shutil.which("orthanc", path=f"/usr/sbin{os.pathsep}{os.environ['PATH']}")
    if command is None or not PLUGIN.is_file():
        pytest.skip("there is no Orthanc with DICOMweb. Install it with: apt-get install orthanc orthanc-dicomweb")
    port, dicom_port = port or free_port(), free_port()
    configuration = {
        "HttpPort": port, "DicomPort": dicom_port, "RemoteAccessAllowed": False, "AuthenticationEnabled": False,
        "DicomCheckCalledAet": False, "DicomAlwaysAllowStore": True,
        "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(PLUGIN)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"}, **settings,
    }  # fmt: skip
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "orthanc.log").open("wb") as log:
        process = subprocess.Popen([command, str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder)
    archive = Orthanc(f"http://127.0.0.1:{port}", dicom_port, process)
    try:
        end = time.monotonic() + STARTING_S
        while True:
            try:
                archive.ask("/system")
                break
            except (URLError, OSError):
                assert process.poll() is None
                assert time.monotonic() < end, (folder / "orthanc.log").read_text()
                time.sleep(0.2)
        yield archive
    finally:
        process.terminate()
        process.wait(20)
