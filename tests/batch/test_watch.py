"""`tomoseg watch` as a service: real processes that are stopped, killed and started again while scans arrive."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from support.command_line import run_inside
from support.waiting import wait_until

BUNDLE = "hippocampus_mr_segmentation"


@contextmanager
def watching(inbox: Path, output: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [
        sys.executable,
        "-m",
        "tomoseg",
        "watch",
        inbox,
        "-o",
        output,
        "-b",
        BUNDLE,
        "--settle",
        "1.5",
        *arguments,
    ]
    with (output.parent / "log").open("a") as log:
        process = subprocess.Popen([*map(str, command), *arguments], stdout=log, stderr=log, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def wait_for(condition: Callable[[], bool]) -> None:
    wait_until(condition, "what becomes of the scans in the inbox")


def cases(output: Path) -> dict[str, Any]:
    try:
        report = json.loads((output / "report.json").read_text())
    except FileNotFoundError:
        return {}
    return {Path(case["input"]).name: case for case in report["cases"]}


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


def test_scans_are_segmented_as_they_arrive(inbox: Path, real_scan: Path, tmp_path: Path) -> None:
    output = inbox / "results"  # in the inbox itself: results are no arrivals
    content = real_scan.read_bytes()
    shutil.copy(real_scan, inbox / "there already.nii.gz")
    (inbox / "bad.nii.gz").write_bytes(content[:3000])
    with watching(inbox, output, "--preview") as process:
        wait_for(lambda: len(cases(output)) == 2)
        assert {name: case["status"] for name, case in cases(output).items()} == {
            "bad.nii.gz": "failed",
            "there already.nii.gz": "done",
        }
        (inbox / "ward 3").mkdir()
        with (inbox / "ward 3" / "slow.nii.gz").open("wb") as file:  # it pauses, but not for long enough
            for start in range(0, len(content), len(content) // 4 + 1):
                file.write(content[start : start + len(content) // 4 + 1])
                file.flush()
                time.sleep(0.7)
        (inbox / "bad.nii.gz").write_bytes(content)  # sent again, in full
        wait_for(lambda: [case["status"] for case in cases(output).values()] == ["done"] * 3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130
    assert (output / "ward 3" / "slow_seg.nii.gz").read_bytes() == (output / "bad_seg.nii.gz").read_bytes()
    assert (output / "ward 3" / "slow_seg.png").is_file()
    assert "slow.nii.gz" in (output / "report.html").read_text()
    assert (output / "statistics.csv").read_text().count("slow.nii.gz") == 2
    log = (inbox / "log").read_text()
    assert log.count("slow.nii.gz ->") == 1
    assert "interrupted; finished results are kept" in log
    assert "Traceback" not in log


@pytest.mark.slow
def test_nothing_that_watch_writes_names_a_scan(inbox: Path, real_scan: Path, tmp_path: Path) -> None:
    output, secret = tmp_path / "out", ("Mueller", "Huber", "Schmidt")
    shutil.copy(real_scan, inbox / "Mueller.nii.gz")
    (inbox / "Huber.nii").write_text("damaged")
    with watching(inbox, output, "--preview", "--anonymous") as process:
        wait_for(lambda: len(cases(output)) == 2)
        (inbox / "Schmidt").mkdir()
        shutil.copy(real_scan, inbox / "Schmidt" / "1.nii.gz")
        wait_for(lambda: len(cases(output)) == 3)
        process.send_signal(signal.SIGTERM)
        process.wait(20)
    written = [path for path in output.rglob("*") if path.is_file()]
    assert {".png", ".json", ".html", ".csv", ".gz"} <= {path.suffix for path in written}
    texts = [path.read_bytes().decode("utf-8", "replace") for path in written if path.suffix != ".gz"]
    told = "".join([(tmp_path / "log").read_text(), *(path.relative_to(output).as_posix() for path in written), *texts])
    assert [name for name in secret if name in told] == []


@pytest.mark.slow
def test_what_was_done_is_known_after_a_kill(inbox: Path, real_scan: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for name in ("grown", "kept", "edited"):
        shutil.copy(real_scan, inbox / f"{name}.nii.gz")
    with watching(inbox, output) as process:
        wait_for(lambda: len(cases(output)) == 3)
        process.kill()
    first = {path.name: path.read_bytes() for path in output.glob("*.nii.gz")}
    (output / "edited_seg.nii.gz").write_text("by hand")
    image = nib.load(real_scan)
    for name in ("grown", "edited"):
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj)[::-1], image.affine), inbox / f"{name}.nii.gz")
    with watching(inbox, output):
        wait_for(lambda: {case["status"] for case in cases(output).values()} == {"done", "skipped", "failed"})
        statuses = {name.partition(".")[0]: case["status"] for name, case in cases(output).items()}
    assert statuses == {"grown": "done", "kept": "skipped", "edited": "failed"}
    assert (output / "kept_seg.nii.gz").read_bytes() == first["kept_seg.nii.gz"]
    assert (output / "grown_seg.nii.gz").read_bytes() != first["grown_seg.nii.gz"]
    assert (output / "edited_seg.nii.gz").read_text() == "by hand"
    assert "exists. Pass --overwrite" in cases(output)["edited.nii.gz"]["reason"]

    with watching(inbox, output, "--overlap", "0.25"):  # other options do not make an archive again
        wait_for(lambda: "other options; kept" in str(cases(output)["kept.nii.gz"]["stats"]["notes"]))
    assert (output / "kept_seg.nii.gz").read_bytes() == first["kept_seg.nii.gz"]


def test_a_dicom_export_is_one_scan(inbox: Path, dicom_scan: Path, real_scan: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shutil.copy(real_scan, inbox / "x.nii.gz")
    nib.save(nib.load(real_scan), inbox / "x.nii")  # would be written to the same file
    with watching(inbox, output):
        (inbox / "study").mkdir()
        for file in sorted(dicom_scan.iterdir()):
            shutil.copy(file, inbox / "study")
            time.sleep(0.05)
        wait_for(lambda: len(cases(output)) == 3)
    assert cases(output)["study"]["status"] == "done"
    assert cases(output)["study"]["series"]
    assert nib.load(output / "study_seg.nii.gz").shape == nib.load(dicom_scan.with_name("mni.nii.gz")).shape
    failed = [case for case in cases(output).values() if case["status"] == "failed"]
    assert len(failed) == 1
    assert "Rename one" in failed[0]["reason"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["in", "-o", "in"], "results would arrive among the scans"),
        (["in/deep", "-o", "in"], "results would arrive among the scans"),
        (["nowhere", "-o", "out"], "nowhere: expected a folder that scans arrive in"),
        (["in", "-o", "out.nii.gz"], "out.nii.gz: expected a folder for the results"),
        (["in", "-o", "out", "--settle", "-1"], "--settle"),
    ],
)
def test_what_cannot_be_watched_is_reported(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    done = run_inside("watch", *arguments, "-b", BUNDLE, cwd=tmp_path)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
