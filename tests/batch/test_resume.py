"""A batch that is stopped, killed, run twice or run at once by two: nothing is lost, and nothing is made again."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from support import one_layer
from support.progress import Calls
from support.tiers import rest_exhaustive
from tomoseg import Segmenter, segment_batch
from tomoseg.batch.manifest import read_manifest
from tomoseg.batch.options import OutputOptions
from tomoseg.data.source import ScanSource
from tomoseg.inference.segmenter import Prepared
from tomoseg.report.records import Report

NAME = "hippocampus_mr_segmentation"
PREVIEW = OutputOptions(preview=True)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose network is one convolution."""
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [32, 32, 32], "overlap": 0.25}
    return one_layer.write(tmp_path_factory.mktemp("bundle") / "small", {"inferer": inferer})


@pytest.fixture(scope="module")
def segmenter(bundle: Path) -> Segmenter:
    return Segmenter.from_bundle(bundle)


@pytest.fixture
def scans(tmp_path: Path, real_scan: Path) -> Path:
    """Six scans that differ, in two folders."""
    image = nib.load(real_scan)
    for index in range(6):
        path = tmp_path / "scans" / str(index % 2) / f"{index}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(np.roll(image.get_fdata(dtype="float32"), index, axis=1), image.affine), path)
    return tmp_path / "scans"


def contents(folder: Path) -> dict[str, bytes]:
    """Return the label maps, those aside that are not finished yet."""
    found = {path.relative_to(folder): path for path in sorted(folder.rglob("*_seg.nii.gz"))}
    return {
        name.as_posix(): path.read_bytes()
        for name, path in found.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def statuses(report: Report) -> list[str]:
    return [case.status for case in report.cases]


def test_what_is_proven_is_not_made_again(segmenter: Segmenter, scans: Path, tmp_path: Path) -> None:
    first = segment_batch(segmenter, [scans], tmp_path / "out")
    assert statuses(first) == ["done"] * 6
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*_seg*")}
    again = segment_batch(segmenter, [scans], tmp_path / "out")
    assert statuses(again) == ["skipped"] * 6
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*_seg*")} == times
    # the report is as complete as the first
    assert [case.labels for case in again.cases] == [case.labels for case in first.cases]
    assert [case.stats.seconds["network"] for case in again.cases] == [
        case.stats.seconds["network"] for case in first.cases
    ]


def test_what_is_not_proven_is_reported_or_made_again(
    segmenter: Segmenter, bundle: Path, scans: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    segment_batch(segmenter, [scans], out)
    wanted = contents(out)
    (out / "0/0_seg.nii.gz").unlink()
    (out / "0/2_seg.nii.gz").write_bytes(wanted["0/2_seg.nii.gz"][:-9])
    (out / "0/.4_seg.nii.gz.done.json").write_text("{")
    shutil.copy(scans / "1/3.nii.gz", scans / "1/1.nii.gz")
    report = segment_batch(segmenter, [scans], out)
    assert statuses(report) == ["done", "failed", "failed", "failed", "skipped", "skipped"]
    assert report.cases[1].reason.endswith("2_seg.nii.gz: exists. Pass --overwrite to replace it")
    assert "1_seg.nii.gz: exists, and the scan changed since" in report.cases[3].reason
    assert (out / "0/0_seg.nii.gz").read_bytes() == wanted["0/0_seg.nii.gz"]

    other = Segmenter.from_bundle(bundle, overlap=0.1)
    report = segment_batch(other, [scans / "1/5.nii.gz"], out / "1")
    assert "the bundle, its weights or the options changed since" in report.cases[0].reason
    assert statuses(segment_batch(segmenter, [scans], out, options=OutputOptions(overwrite=True))) == ["done"] * 6
    assert contents(out) == {**wanted, "1/1_seg.nii.gz": contents(out)["1/3_seg.nii.gz"]}


REFUSED = {
    "case.labels.0.mean": math.nan, "case.labels.0.label": 10**12, "case.labels.0.name": ["a"], "case.labels": "none",
    "case.stats.seconds.reading": "1", "case.stats.peak_bytes": -1, "case.stats": None, "case.warnings": "many",
    "case.status": "fine", "case.location": {}, "case.more": 1, "case": [], "outputs": [], "scan": 1, "": [],
}  # fmt: skip
BELIEVED = {
    "case.preview": "/etc/passwd", "case.output": "/etc/passwd", "case.input": "/etc/passwd",
    "case.labels.0.voxels": 10**9, "case.labels.0.volume_ml": 1e9, "case.labels.0.first": [9, 9, 9],
}  # fmt: skip


def forge(content: dict[str, Any], place: str, value: object) -> Any:
    """Return JSON with another value at a place."""
    *parents, last = place.split(".")
    target: Any = content
    for key in parents:
        target = target[int(key) if key.isdecimal() else key]
    if last:
        target[last] = value
    return content if last else value


def test_a_forged_manifest_names_no_path_and_loses_no_report(
    segmenter: Segmenter, real_scan: Path, tmp_path: Path
) -> None:
    """All but its hashes may be anything: paths are the batch's own, volumes those of the label map."""
    (tmp_path / "scans").mkdir()
    for index in range(2):
        shutil.copy(real_scan, tmp_path / "scans" / f"{index}.nii.gz")
    out = tmp_path / "out"
    first = segment_batch(segmenter, [tmp_path / "scans"], out, options=PREVIEW)
    manifest = out / ".1_seg.nii.gz.done.json"
    whole = manifest.read_text()
    assert read_manifest(manifest) is not None
    for place, value in REFUSED.items():
        manifest.write_text(json.dumps(forge(json.loads(whole), place, value)))
        assert read_manifest(manifest) is None, place
    content = json.loads(whole)
    for place, value in BELIEVED.items():
        content = forge(content, place, value)
    manifest.write_text(json.dumps(content))
    report = segment_batch(segmenter, [tmp_path / "scans"], out, options=PREVIEW)
    assert statuses(report) == ["skipped", "skipped"]
    for case, before in zip(report.cases, first.cases, strict=True):
        assert (case.input, case.output, case.preview) == (before.input, before.output, before.preview)
        assert [one.voxels for one in case.labels] == [one.voxels for one in before.labels]
        assert [one.first for one in case.labels] == [one.first for one in before.labels]
    assert report.cases[1].labels[0].mean is None  # of other voxels than it says
    manifest.write_text(whole)
    (out / "1_seg.png").unlink()
    (out / "1_seg.png").symlink_to(out / "0_seg.png")
    assert statuses(segment_batch(segmenter, [tmp_path / "scans"], out, options=PREVIEW))[1] == "done"
    assert not (out / "1_seg.png").is_symlink()


def test_a_picture_that_is_asked_for_later_is_made(segmenter: Segmenter, scans: Path, tmp_path: Path) -> None:
    segment_batch(segmenter, [scans / "0"], tmp_path / "out")
    wanted = contents(tmp_path / "out")
    assert statuses(segment_batch(segmenter, [scans / "0"], tmp_path / "out", options=PREVIEW)) == ["done"] * 3
    assert contents(tmp_path / "out") == wanted
    assert statuses(segment_batch(segmenter, [scans / "0"], tmp_path / "out", options=PREVIEW)) == ["skipped"] * 3
    # a scan that comes later leaves the proofs of the others alone
    shutil.copy(scans / "1/1.nii.gz", scans / "0/9.nii.gz")
    again = segment_batch(segmenter, [scans / "0"], tmp_path / "out")
    assert statuses(again) == ["skipped"] * 3 + ["done"]


def test_a_file_of_its_own_has_no_sidecar(segmenter: Segmenter, real_scan: Path, tmp_path: Path) -> None:
    segment_batch(segmenter, [real_scan], tmp_path / "new" / "seg.nii.gz")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"seg.nii.gz", "seg.ctbl", "seg.label"}


def command(scans: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "tomoseg", "segment", str(scans), "-o", str(out), "-b", NAME, "--preview"]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="kill -9")
@pytest.mark.parametrize("kills", rest_exhaustive([4, 50]))
def test_killed_at_random_moments_it_ends_as_if_it_never_was(scans: Path, tmp_path: Path, kills: int) -> None:
    subprocess.run(command(scans, tmp_path / "whole"), check=True, capture_output=True)
    wanted = contents(tmp_path / "whole")
    assert len(wanted) == 6
    chance = random.Random(0)
    out, cut = tmp_path / "out", 0
    for _ in range(kills):
        process = subprocess.Popen(command(scans, out), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        if chance.random() < 0.7:  # most often amid the scans, not in starting
            process.stdout.readline()
            time.sleep(chance.uniform(0, 0.3))
        else:
            time.sleep(chance.uniform(0, 2))
        process.send_signal(signal.SIGKILL)
        cut += process.wait() == -signal.SIGKILL
        for name, content in contents(out).items():  # never half of a file under its name
            assert content == wanted[name]
        if len(contents(out)) == len(wanted):
            shutil.rmtree(out)
    assert cut > kills // 2
    done = subprocess.run(command(scans, out), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert contents(out) == wanted
    assert not list(out.rglob(".tomoseg-*"))


@pytest.mark.slow
def test_two_processes_in_one_folder_do_not_disturb_each_other(scans: Path, tmp_path: Path) -> None:
    both = [
        subprocess.Popen(command(scans, tmp_path / "out"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in both:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    done = subprocess.run(command(scans, tmp_path / "out"), check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [case["status"] for case in report["cases"]] == ["skipped"] * 6
    assert not list((tmp_path / "out").rglob(".tomoseg-*"))


def test_a_scan_that_vanishes_fails_alone(segmenter: Segmenter, scans: Path, tmp_path: Path) -> None:
    def vanish(case: object) -> None:
        (scans / "1/5.nii.gz").unlink(missing_ok=True)

    report = segment_batch(segmenter, [scans], tmp_path / "out", progress=Calls(vanish))
    assert statuses(report) == ["done"] * 5 + ["failed"]
    assert "5.nii.gz: no such file" in report.cases[-1].reason


def scans_ahead(segmenter: Segmenter, scans: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many scans had been begun beyond each one when it was done with."""
    started: list[Path] = []
    ahead: list[int] = []
    prepare = segmenter.prepare

    def noted(source: ScanSource) -> Prepared:
        started.append(source.paths[0])
        return prepare(source)

    monkeypatch.setattr(segmenter, "prepare", noted)
    report = segment_batch(
        segmenter, [scans], out, progress=Calls(lambda case: ahead.append(len(started) - len(ahead) - 1))
    )
    assert statuses(report) == ["done"] * 6
    return ahead


def test_no_more_than_one_scan_waits_for_the_network_and_one_for_the_disk(
    segmenter: Segmenter, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert 1 <= max(scans_ahead(segmenter, scans, tmp_path / "out", monkeypatch)) <= 2


def test_with_a_limit_of_memory_one_scan_is_done_before_the_next_is_read(
    bundle: Path, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited = Segmenter.from_bundle(bundle, max_memory="8GB")
    assert scans_ahead(limited, scans, tmp_path / "out", monkeypatch) == [0] * 6
