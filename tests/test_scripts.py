"""The two commands, as somebody runs them who has just cloned the project and has only Python."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
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
def test_the_demo_works_on_a_fresh_clone_and_at_once_again(clone: Path) -> None:
    first = subprocess.run(
        [clone / "scripts/demo"], cwd=clone, env=outside(), capture_output=True, text=True, check=False
    )
    assert first.returncode == 0, first.stdout + first.stderr
    assert "Making the virtual environment" in first.stdout

    start = time.perf_counter()
    second = subprocess.run(
        [clone / "scripts/demo"], cwd=clone, env=outside(), capture_output=True, text=True, check=True
    )
    assert "environment" not in second.stdout
    assert "Installing" not in second.stdout
    print(f"the demo's second run took {time.perf_counter() - start:.0f} s")

    (seconds,) = re.findall(r"The whole head took ([0-9.]+) s", second.stdout)
    crowd = os.getloadavg()[0] / (os.cpu_count() or 1)  # others at work on this machine take their share
    assert float(seconds) < 60 * max(1.0, crowd)
    results = clone / "tomoseg_demo" / "results"
    with (results / "statistics.csv").open(newline="") as file:
        volumes = {row["name"]: float(row["volume_ml"]) for row in csv.DictReader(file)}
    labels = nib.load(results / "mni152_seg.nii.gz")
    scan = nib.load(clone / "tomoseg_demo" / "scans" / "mni152.nii.gz")
    assert labels.shape == scan.shape
    np.testing.assert_array_equal(labels.affine, scan.affine)
    for side, values in (("left", (1, 2)), ("right", (3, 4))):
        volume = volumes[f"{side} hippocampus"]
        assert 2 <= volume <= 5
        assert volume == pytest.approx(volumes[f"{side} anterior"] + volumes[f"{side} posterior"], abs=1e-4)
        assert re.search(rf"{side} hippocampus +{volume:.2f}", second.stdout)
        centre = apply_affine(labels.affine, np.argwhere(np.isin(labels.get_fdata(), values)).mean(axis=0))
        assert (centre[0] < 0) == (side == "left")
    assert abs(imread(results / "mni152_seg.png")[..., :3].std(axis=-1)).max() > 0.1  # some of it is in colour


@pytest.mark.slow
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
    for name in ("ct", "body", "start", "mris", "cts", "metrics", "rtstruct"):
        for title, row in found[name]["rows"].items():
            apart = title == "monai.bundle run"  # what is inside of it was timed in a process of its own
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


def test_python_is_looked_for_and_its_absence_told(checkout: Path, tmp_path: Path) -> None:
    """A Python of another version, and names on the PATH that do not start, are passed over."""
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


def test_the_script_for_tests_runs_what_it_is_asked_to(checkout: Path) -> None:
    script = [sys.executable, str(checkout / "scripts/test")]
    only_list = ["--collect-only", "-q"]
    listed = subprocess.run([*script, "tests/test_bundle.py", *only_list], capture_output=True, text=True, check=False)
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert "test_bundle.py::" in listed.stdout
    slow = subprocess.run(
        [*script, "--slow", "tests/test_package.py", *only_list], capture_output=True, text=True, check=False
    )
    assert "test_the_installed_wheel_segments_a_scan" in slow.stdout


def test_modules_whose_tests_die_together_run_one_by_one(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "test_first.py").write_text("def test_it(): pass\n")
    (tmp_path / "test_second.py").write_text(
        "import os, signal, sys\n"
        "def test_it():\n"
        "    if 'test_first' in sys.modules or os.environ.get('ALWAYS'):\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    (tmp_path / "test_third.py").write_text("import pytest\n@pytest.mark.slow\ndef test_it(): pass\n")
    names = [str(tmp_path / f"test_{name}.py") for name in ("first", "second", "third")]
    command = [sys.executable, str(checkout / "scripts/test"), *names]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("1 passed") == 2
    told = done.stdout[done.stdout.rindex("pytest died of SIGSEGV") :]  # at the end, with the stack
    assert names[1] in told
    assert "Fatal Python error" in told
    assert "in test_it" in told
    always = subprocess.run(command, env=os.environ | {"ALWAYS": "1"}, capture_output=True, text=True, check=False)
    assert always.returncode == signal.SIGSEGV
    assert always.stdout.count("pytest died of SIGSEGV") == 4  # where it happened and at the end
