"""A computer without internet gets tomoseg from the folder that `scripts/offline_kit` makes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import pytest


def make_kit(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(checkout / "scripts/offline_kit"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_folder_that_is_not_empty_is_refused_in_one_line(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    done = make_kit(checkout, str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == f"error: {tmp_path}: is not an empty folder. Name another one\n"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_extra_that_is_unknown_is_refused_in_one_line(checkout: Path, tmp_path: Path) -> None:
    done = make_kit(checkout, str(tmp_path / "kit"), "--extras", "ray,label")
    assert done.returncode == 1
    assert done.stderr == "error: --extras: expected some of all, clean, export, nnunet, ray, train, got label\n"


def test_a_kit_that_fails_leaves_nothing(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    done = make_kit(checkout, str(tmp_path / "kit"))
    assert done.returncode == 1
    assert done.stderr.endswith("error: pip could not get the wheels. Nothing was written\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.exhaustive
def test_the_kit_installs_and_segments_without_network(checkout: Path, real_scan: Path, tmp_path: Path) -> None:
    kit, home = tmp_path / "a kit", tmp_path / "home"
    done = make_kit(checkout, str(kit), "--extras", "clean,train")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in kit.iterdir()} == {"README.txt", "install", "wheels"}
    names = {path.name.partition("-")[0].lower() for path in (kit / "wheels").iterdir()}
    assert {"tomoseg", "torch", "monai", "tensorboard", "pywavelets"} <= names
    assert not names & {"ray", "nncf", "pytest", "mypy"}

    home.mkdir()
    nowhere = "http://127.0.0.1:9"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "VIRTUAL_ENV"))}
    environment |= {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_NO_CACHE_DIR": "1"}
    environment |= {"http_proxy": nowhere, "https_proxy": nowhere, "HTTP_PROXY": nowhere, "HTTPS_PROXY": nowhere}
    environment |= {"HOME": str(home), "PYTHON": sys.executable}

    def run(*command: str | Path) -> str:
        made = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout + made.stderr
        return made.stdout

    assert "Start it with: tomoseg/bin/tomoseg" in run(kit / "install", "tomoseg")
    tomoseg = home / "tomoseg/bin/tomoseg"
    run(tomoseg, "segment", real_scan, "-o", "seg.nii.gz", "-b", "hippocampus", "--backend", "openvino")
    assert nib.load(home / "seg.nii.gz").shape == nib.load(real_scan).shape
    assert "No broken requirements found" in run(home / "tomoseg/bin/python", "-m", "pip", "check")
    second = subprocess.run([kit / "install", "tomoseg"], cwd=home, env=environment, capture_output=True, check=False)
    assert second.stderr.decode() == "error: tomoseg: exists. Name another folder: ./install FOLDER\n"
