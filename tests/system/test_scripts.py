"""The two commands, on a fresh clone with Python alone."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread
from nibabel.affines import apply_affine


@pytest.fixture(scope="module")
def clone(checkout: Path, project_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the checkout that git has or would add, in an empty folder."""
    target = tmp_path_factory.mktemp("fresh") / "tomoseg"
    for path in project_files:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(checkout / path, target / path)
    return target


def outside() -> dict[str, str]:
    """The environment of a shell in which no virtual environment is active."""
    here = str(Path(sys.executable).parent)
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != here)
    return {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"} | {"PATH": path}


@pytest.mark.slow
def test_the_demo_finds_both_hippocampi(checkout: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, checkout / "scripts/demo", tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    check_demo(done.stdout, tmp_path)


@pytest.mark.exhaustive
def test_the_demo_works_on_a_fresh_clone_and_at_once_again(clone: Path) -> None:
    first = subprocess.run(
        [clone / "scripts/demo"], cwd=clone, env=outside(), capture_output=True, text=True, check=False
    )
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Making the virtual environment" in first.stdout

    second = subprocess.run(
        [clone / "scripts/demo"], cwd=clone, env=outside(), capture_output=True, text=True, check=True
    )
    assert "environment" not in second.stdout
    assert "Installing" not in second.stdout
    check_demo(second.stdout, clone / "tomoseg_demo")


def check_demo(printed: str, folder: Path) -> None:
    """Check that the demo's output agrees with its files, and that these show a pair of hippocampi."""
    (seconds,) = re.findall(r"The whole head took ([0-9.]+) s", printed)
    crowd = os.getloadavg()[0] / (os.cpu_count() or 1)  # others at work on this machine take their share
    assert float(seconds) < 60 * max(1.0, crowd)
    results = folder / "results"
    with (results / "statistics.csv").open(newline="") as file:
        volumes = {row["name"]: float(row["volume_ml"]) for row in csv.DictReader(file)}
    labels = nib.load(results / "mni152_seg.nii.gz")
    scan = nib.load(folder / "scans" / "mni152.nii.gz")
    assert labels.shape == scan.shape
    np.testing.assert_array_equal(labels.affine, scan.affine)
    for side, values in (("left", (1, 2)), ("right", (3, 4))):
        volume = volumes[f"{side} hippocampus"]
        assert 2 <= volume <= 5
        assert volume == pytest.approx(volumes[f"{side} anterior"] + volumes[f"{side} posterior"], abs=1e-4)
        assert re.search(rf"{side} hippocampus +{volume:.2f}", printed)
        centre = apply_affine(labels.affine, np.argwhere(np.isin(labels.get_fdata(), values)).mean(axis=0))
        assert (centre[0] < 0) == (side == "left")
    assert "symmetric, so left and right agree" in printed
    assert "-0.0 %" not in printed
    listed = re.search(r"Label map, picture and report:\n((?:  .+\n)+)", printed)
    assert listed is not None
    assert [Path(line).name for line in listed[1].splitlines()] == [
        "mni152_seg.nii.gz", "mni152_seg.png", "report.html",
    ]  # fmt: skip
    assert (results / "report.html").is_file()
    assert printed.splitlines()[-1].endswith("segment SCAN -o results -b hippocampus --preview")
    assert abs(imread(results / "mni152_seg.png")[..., :3].std(axis=-1)).max() > 0.1  # some of it is in colour


@pytest.mark.exhaustive
def test_the_benchmark_runs_and_all_give_the_same_labels(checkout: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(checkout / "scripts/bench"), "--quick", "--no-nnunet", "--repeat", "1"]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path), "--json", str(tmp_path / "bench.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "bench.json").read_text())
    large = found["ct"]["rows"]
    assert large["tomoseg, torch fp32"]["voxels_that_differ"] <= 1e-5 * found["ct"]["voxels"]
    assert large["tomoseg, OpenVINO fp32"]["voxels_that_differ"] <= 1e-5 * found["ct"]["voxels"]
    assert large["tomoseg, OpenVINO bf16"]["mean_dice"] > 0.98
    for name in ("ct", "body", "start", "mris", "cts", "metrics", "rtstruct", "threads"):
        for title, row in found[name]["rows"].items():
            apart = title == "monai.bundle run"  # its parts were timed in a process of their own
            assert row["wall_s"] > (0.1 if apart else row.get("inner_s", 0.1)) > 0
            assert row["peak_bytes"] > 1e8
    assert max(found["metrics"]["largest_difference"].values()) < 1e-3
    windows = found["windows"]["rows"]
    for name in ("torch fp32", "ONNX Runtime fp32", "OpenVINO fp32"):
        assert windows[f"hippocampus, {name}"]["mean_dice"] > 0.999
        assert windows[f"CT, {name}"]["mean_dice"] > 0.999
    assert windows["hippocampus, OpenVINO int8"]["mean_dice"] > 0.98
    assert windows["hippocampus, OpenVINO int8"]["size_mb"] < 0.3 * windows["hippocampus, torch fp32"]["size_mb"]
    assert "tomoseg --max-memory 6GB" in done.stdout
    assert "import_tomoseg_s" in done.stdout


def test_python_is_looked_for_and_its_absence_reported(checkout: Path, tmp_path: Path) -> None:
    """A Python of another version, and names on the PATH that do not start, are skipped."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import environment\nenvironment._find_python((3, 0))\n"
    broken = tmp_path / "python3.11"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", code, str(checkout / "scripts")],
        env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: expected Python 3.11 or newer and below 3.0 with its venv module; found none")


def run_tests(checkout: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, checkout / "scripts/test", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("tier", "found"), [((), (0,)), (("--slow",), (0, 1)), (("--all",), (0, 1, 2))], ids=str)
def test_each_tier_adds_tests(checkout: Path, tmp_path: Path, tier: tuple[str, ...], found: tuple[int, ...]) -> None:
    marks = ("", "@pytest.mark.slow\n", "@pytest.mark.exhaustive\n")
    for index, mark in enumerate(marks):
        (tmp_path / f"test_{index}.py").write_text(f"import pytest\n{mark}def test_it(): pass\n")
    done = run_tests(checkout, *tier, tmp_path, "--collect-only", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [f"test_{index}.py::test_it" in done.stdout for index in range(3)] == [index in found for index in range(3)]


def test_a_worker_that_dies_names_its_test_and_the_others_go_on(checkout: Path, tmp_path: Path) -> None:
    shutil.copy(checkout / "tests/support/scheduling.py", tmp_path / "conftest.py")
    (tmp_path / "test_first.py").write_text("def test_one(): pass\ndef test_two(): pass\n")
    (tmp_path / "test_second.py").write_text(
        "import os, signal\n"
        "def test_before(): pass\n"
        "def test_it(): os.kill(os.getpid(), signal.SIGSEGV)\n"
        "def test_after(): pass\n"
    )
    done = run_tests(checkout, tmp_path)
    assert done.returncode == 1
    assert "1 failed, 4 passed" in done.stdout
    assert re.search(r"worker '\w+' crashed while running '\S*test_second.py::test_it'", done.stdout)
    assert "Fatal Python error: Segmentation fault" in done.stdout + done.stderr
    assert "in test_it" in done.stdout + done.stderr
