"""What fails in worker processes, shared memory and read-only folders is one line with its remedy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.command_line import complaint
from support.trainings import tiny_bundle, tomoseg, write_dataset
from tomoseg.bundle import trust


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and a bundle whose batches are prepared by two processes."""
    folder = tmp_path_factory.mktemp("machine")
    bundle = tiny_bundle(write_dataset(folder / "data", 4), folder / "bundle", steps=2)
    change(bundle, {"num_workers": 2})
    return folder


def change(bundle: Path, entries: dict[str, object]) -> None:
    path = bundle / "configs" / "train.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    trust.record(bundle)


def in_a_container(mounts: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run the command line where some file systems are others; skipped where this user may not mount."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not there (util-linux)")
    script = f'({mounts}) || exit 77; exec "$@"'
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, "sh", sys.executable, "-m", "tomoseg"]
    done = subprocess.run([*command, *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    return done


def test_an_error_in_a_process_that_prepares_batches_is_its_last_line(place: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(place / "bundle", tmp_path / "bundle")
    content = json.loads((bundle / "configs" / "train.json").read_text())
    content["train"]["random_transforms"].insert(1, {"_target_": "Lambda", "func": "$lambda data: 1 // 0"})
    change(bundle, content)
    words = ("train", bundle, "--data", place / "data", "--device", "cpu", "-q", "-o")
    done = tomoseg(*words, tmp_path / "out", "--threads", "2")
    assert done.returncode == 2
    line = complaint(done)
    assert "ZeroDivisionError: integer division or modulo by zero" in line
    assert "File" not in line
    assert "ZeroDivisionError: integer division or modulo by zero" in complaint(
        tomoseg(*words, tmp_path / "alone", "--threads", "1")
    )


def test_full_shared_memory_is_reported_with_the_option_that_helps(place: Path, tmp_path: Path) -> None:
    words = ("train", place / "bundle", "--data", place / "data", "--device", "cpu", "--epochs", "1", "-q", "-o")
    small = "mount -t tmpfs -o size=16k tmpfs /dev/shm"
    done = in_a_container(small, *words, tmp_path / "out", "--threads", "2")
    assert done.returncode == 1
    line = complaint(done)
    assert "shared memory" in line
    assert "--threads 1" in line
    done = in_a_container(small, *words, tmp_path / "other", "--threads", "1")
    assert done.returncode == 0, done.stderr


def test_a_bundle_in_a_read_only_folder_is_one_line(place: Path, tmp_path: Path) -> None:
    bundle, data = place / "bundle", place / "data"
    fixed = f"mount --bind '{place}' '{place}' && mount -o remount,bind,ro '{place}'"
    commands = {
        "train": ("train", bundle, "--data", data, "--device", "cpu", "--epochs", "1", "-q"),
        "train elsewhere": ("train", bundle, "--data", data, "-q", "-o", tmp_path / "out", "--overwrite"),
        "plan": ("plan", data, "-o", place / "other", "-q"),
        "plan again": ("plan", data, "-o", bundle, "--overwrite", "-q"),
    }
    for name, words in commands.items():
        done = in_a_container(fixed, *words)
        assert done.returncode, name
        assert "Read-only file system" in complaint(done), name
    assert not list(tmp_path.rglob("model.pt"))
