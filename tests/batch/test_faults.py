"""What goes wrong around a batch: the disk is full or read-only, a folder vanishes, memory runs out."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from support.disk import run_on_small_disk
from support.progress import Calls
from tomoseg import Segmenter, segment_batch

NAME = "hippocampus_mr_segmentation"

pytestmark = pytest.mark.skipif(os.name == "nt", reason="limits and mounts of Linux")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory, real_scan: Path) -> Path:
    """Eight scans that differ."""
    folder = tmp_path_factory.mktemp("faults") / "scans"
    folder.mkdir()
    image = nib.load(real_scan)
    for index in range(8):
        array = np.roll(image.get_fdata(dtype="float32"), index, axis=1)
        nib.save(nib.Nifti1Image(array, image.affine), folder / f"{index}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def wanted(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The label maps of a run that nothing disturbs."""
    out = tmp_path_factory.mktemp("whole")
    assert not segment_batch(Segmenter.from_bundle(NAME), [scans], out).failed
    return label_maps(out)


def label_maps(folder: Path) -> dict[str, bytes]:
    assert not list(folder.rglob(".tomoseg-*"))
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*_seg.nii.gz"))}


def command(scans: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "tomoseg", "segment", str(scans), "-o", str(out), "-b", NAME]


@pytest.mark.slow
def test_a_full_disk_loses_nothing_and_with_room_the_rest_is_done(
    scans: Path, wanted: dict[str, bytes], tmp_path: Path
) -> None:
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    script = f"""
        size 24k; "$@"; echo "first: $?"
        mkdir {tmp_path}/first; cp -a "$disk/." {tmp_path}/first
        size 10m; "$@"; echo "second: $?"
    """
    done = run_on_small_disk(script, disk, kept, *command(scans, disk))
    assert "first: 1\n" in done.stdout, done.stderr
    assert "second: 0\n" in done.stdout, done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    first = label_maps(tmp_path / "first")
    assert 1 <= len(first) < len(wanted)
    assert first.items() <= wanted.items()
    assert label_maps(kept) == wanted
    report = json.loads((kept / "report.json").read_text())
    assert [case["status"] for case in report["cases"]].count("skipped") == len(first)


@pytest.mark.slow
def test_a_read_only_folder_is_reported_for_each_scan(scans: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    done = run_on_small_disk('read_only; "$@"; echo "status: $?"', disk, tmp_path / "kept", *command(scans, disk))
    assert "status: 1\n" in done.stdout
    assert "failed: 8\n" in done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 9  # and the report
    assert all("Read-only file system" in line for line in lines)
    assert lines[0].startswith(f"tomoseg: error: [1/8] {disk}: cannot be written to: ")
    assert lines[-1].startswith(f"tomoseg: error: {disk}/report.json: cannot be written: ")
    assert not list((tmp_path / "kept").iterdir())


def test_an_output_folder_that_vanishes_is_made_again(scans: Path, tmp_path: Path) -> None:
    out, four = tmp_path / "out", sorted(scans.iterdir())[:4]
    segmenter = Segmenter.from_bundle(NAME)
    assert not segment_batch(segmenter, four, tmp_path / "whole").failed
    vanished: list[object] = []

    def vanish(case: object) -> None:
        if not vanished:
            vanished.append(case)
            while out.exists():  # a scan may be written into it meanwhile
                shutil.rmtree(out, ignore_errors=True)

    report = segment_batch(segmenter, four, out, progress=Calls(vanish))
    assert [case.status for case in report.cases].count("failed") <= 2  # those that were written meanwhile
    assert all("cannot be written" in case.reason for case in report.failed)
    assert label_maps(out)
    assert not segment_batch(segmenter, four, out).failed
    assert label_maps(out) == label_maps(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a limit of Linux")
def test_a_scan_that_does_not_fit_beside_another_is_run_again_alone(
    scans: Path, tmp_path: Path, checkout: Path
) -> None:
    names = [f"{index}.nii.gz" for index in range(4)]
    worker = [sys.executable, str(checkout / "tests" / "support" / "memory_worker.py")]
    done = subprocess.run(
        [*worker, str(tmp_path), *(str(scans / name) for name in names)],
        capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    assert [(name, status) for name, status, _ in reported["cases"]] == [
        *((name, "done") for name in names[:3]),
        (names[3], "failed"),
    ]
    assert f"{scans / names[3]}: not enough memory for this scan: " in reported["cases"][3][2]
    assert reported["reported"][-1] == names[3]  # it was tried once more, last
    assert reported["tries"] > len(names)
    alone = segment_batch(
        Segmenter.from_bundle(NAME, backend="torch"), [scans / name for name in names[:3]], tmp_path / "alone"
    )
    assert not alone.failed
    assert label_maps(tmp_path) == label_maps(tmp_path / "alone")
