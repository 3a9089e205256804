"""An installed package works without the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import tomoseg

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel made from the source distribution, as an index would serve it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(checkout)]
    subprocess.run(command, check=True, capture_output=True)
    assert len(list(folder.glob("*.tar.gz"))) == 1
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_the_bundles_and_the_licences(wheel: Path, checkout: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for bundle in (checkout / "monai_bundle").iterdir():
        if (bundle / "configs").is_dir():
            home = f"tomoseg/_bundles/{bundle.name}"
            wanted = ("configs/inference.json", "configs/metadata.json", "models/model.pt", "LICENSE", "docs/README.md")
            assert {f"{home}/{name}" for name in wanted} <= names
            assert not [name for name in names if name.startswith((f"{home}/train/", f"{home}/eval/"))]
    licence = f"tomoseg-{tomoseg.__version__}.dist-info/licenses/LICENSE"
    assert {"tomoseg/cli/segment.py", "tomoseg/py.typed", licence} <= names
    assert not [name for name in names if name.startswith(("tests", "scripts", "plugin", "monai_bundle"))]


def test_the_installed_wheel_segments_a_scan(wheel: Path, real_scan: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    where = subprocess.run(
        [sys.executable, "-c", "import tomoseg; print(tomoseg.__file__)"],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert where.stdout.startswith(str(site))
    subprocess.run(
        [sys.executable, "-m", "tomoseg", "segment", str(real_scan), "-o", "seg.nii.gz", "-b", "hippocampus"],
        env=environment, cwd=tmp_path, check=True,
    )  # fmt: skip
    assert (tmp_path / "seg.nii.gz").is_file()
