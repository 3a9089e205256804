"""`tomoseg watch` beside a real archive: Orthanc, with images sent by dcmtk's storescu."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom import dcmread

from support.command_line import run_inside, run_process
from support.dicom_results import run_dciodvfy
from support.dicoms import write_series
from support.orthanc import Orthanc, running_orthanc
from support.waiting import LIMIT_S, wait_until
from tomoseg import Grid
from tomoseg.batch.archive.queue import FILE, open_state
from tomoseg.batch.archive.rules import Rule
from tomoseg.batch.archive.watch import watch_archive

pytestmark = pytest.mark.slow
WORKER = Path(__file__).parents[2] / "support" / "archive_worker.py"
SETTLE_S = "1"
RULES = """
- {bundle: BUNDLE, modality: MR, description: "*phantom*", output_types: [dicom-sr, rtstruct]}
"""
REFUSE = """
function IncomingHttpRequestFilter(method, uri, ip, username, httpHeaders)
    return not (method == 'POST' and string.find(uri, 'studies'))
end
"""


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Orthanc]:
    (tmp_path / "orthanc").mkdir()
    with running_orthanc(tmp_path / "orthanc") as running:
        yield running


@contextmanager
def watching(archive: Orthanc, state: Path, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tomoseg", "watch", archive.dicomweb, "-o", state, "--settle", SETTLE_S]
    with (state.parent / "log").open("ab") as log:
        process = subprocess.Popen([*map(str, command), *map(str, arguments)], stdout=log, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def send(archive: Orthanc, *paths: Path) -> None:
    if (tool := shutil.which("storescu")) is None:
        pytest.skip("there is no storescu. Install it with: apt-get install dcmtk")
    subprocess.run([tool, "127.0.0.1", str(archive.dicom_port), *map(str, paths)], check=True, capture_output=True)


def wait_for(state: Path, limit_s: float = LIMIT_S, **counts: int) -> None:
    def reached() -> bool:
        if not (state / FILE).is_file():
            return False
        with closing(open_state(state)) as queue:
            found = queue.counts()
        return all(found.get(step, 0) >= count for step, count in counts.items())

    wait_until(reached, f"{counts} in {state.parent / 'log'}", limit_s)


def results(archive: Orthanc, folder: Path) -> dict[str, list[Any]]:
    folder.mkdir(exist_ok=True)
    found = {}
    for modality in ("SEG", "RTSTRUCT", "SR"):
        files = [path for series in archive.series(modality) for path in archive.fetch(series, folder)]
        found[modality] = sorted(map(dcmread, files), key=lambda one: int(one.SeriesNumber))
        for path in files:
            assert not [line for line in run_dciodvfy(path) if line.startswith("Error")]
    return found


def write_scan(folder: Path, shape: tuple[int, int, int] = (12, 13, 8), **elements: Any) -> list[Path]:
    array = np.random.default_rng(3).integers(0, 1000, shape).astype(np.int16)
    return write_series(folder, array, Grid(shape, np.eye(4)), modality="MR", **elements)


def test_a_series_that_arrives_in_halves_gets_results_that_replace_the_first(
    archive: Orthanc, dicom_scan: Path, bundle_folder: Path, tmp_path: Path
) -> None:
    """And of an image that arrives again, or is none of ours, nothing comes."""
    (tmp_path / "rules.yaml").write_text(RULES.replace("BUNDLE", str(bundle_folder)))
    state, rules = tmp_path / "state", ("--rules", tmp_path / "rules.yaml")
    paths = sorted(dicom_scan.iterdir(), key=lambda path: float(dcmread(path).ImagePositionPatient[2]))
    send(archive, *paths[: len(paths) // 2])
    planned = run_inside("watch", archive.dicomweb, *rules, "--dry-run")
    assert f"{bundle_folder} -> dicom-sr, rtstruct" in planned.stdout
    assert not state.exists()
    with watching(archive, state, *rules):
        wait_for(state, stored=1)
        first = results(archive, tmp_path / "first")
        send(archive, *paths[len(paths) // 2 :], *paths[:3])
        wait_for(state, stored=1, ignored=6)
        second = results(archive, tmp_path / "second")
        send(archive, *paths[:3])
        send(archive, *write_scan(tmp_path / "other", SeriesDescription="localizer"))
        wait_for(state, stored=1, ignored=7)
    assert {name: len(found) for name, found in second.items()} == {"SEG": 2, "RTSTRUCT": 2, "SR": 2}
    for name, (old, new) in second.items():
        assert old.SOPInstanceUID == first[name][0].SOPInstanceUID
        assert old.StudyInstanceUID == new.StudyInstanceUID == dcmread(paths[0]).StudyInstanceUID
        assert int(new.SeriesNumber) == int(old.SeriesNumber) + 1000
        assert old.SOPInstanceUID in str(new)  # that it replaces
    assert len(second["SEG"][1].ReferencedSeriesSequence[0].ReferencedInstanceSequence) == len(paths)
    log = (tmp_path / "log").read_text()
    assert log.count("results stored") == 2
    patient = dcmread(paths[0])
    assert not [one for one in (patient.PatientName, patient.PatientID, patient.StudyDate) if str(one) in log]
    assert not list((state / "images").iterdir()) + list((state / "results").iterdir())
    assert "results stored" in (state / "status.html").read_text()


@pytest.mark.parametrize("moment", ["fetching", "fetched", "segmented", "storing", "stored"])
def test_a_process_is_killed_at_any_moment(archive: Orthanc, small_bundle: Path, tmp_path: Path, moment: str) -> None:
    paths, state = write_scan(tmp_path / "scan"), tmp_path / "state"
    for path in paths:
        archive.add(path)
    killed = subprocess.run(
        [sys.executable, WORKER, archive.dicomweb, state, small_bundle, moment], check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = results(archive, tmp_path / "before")
    assert len(before["SEG"]) == (moment in ("storing", "stored"))
    rules = [Rule(str(small_bundle), "MR")]
    with closing(watch_archive(archive.dicomweb, state, rules, settle_s=0.5)) as rounds:
        assert any(counts.get("stored") for counts in islice(rounds, 1000))
    after = results(archive, tmp_path / "after")
    assert [len(found) for found in after.values()] == [1, 0, 1]
    for name, found in before.items():
        assert [one.SOPInstanceUID for one in after[name]][: len(found)] == [one.SOPInstanceUID for one in found]
    assert not list((state / "images").iterdir()) + list((state / "results").iterdir())


def test_an_archive_that_refuses_stops_and_comes_back(tmp_path: Path, small_bundle: Path) -> None:
    folder, state = tmp_path / "orthanc", tmp_path / "state"
    folder.mkdir()
    (tmp_path / "refuse.lua").write_text(REFUSE)
    paths = write_scan(tmp_path / "scan")
    with running_orthanc(folder, LuaScripts=[str(tmp_path / "refuse.lua")]) as archive:
        send(archive, *paths)
        port = int(archive.url.rpartition(":")[2])
        run_process("info", small_bundle)  # trusts it
        with watching(archive, state, "-b", small_bundle, "--log-json"):
            wait_for(state, waiting=1)
            status = json.loads(run_inside("watch", "--status", state, "--json").stdout)
            assert "storage failed: 403" in status["series"][0]["reason"]
            archive.process.terminate()
            archive.process.wait(20)
            wait_until(lambda: "Connection refused" in (tmp_path / "log").read_text(), "the watcher to see it")
            with running_orthanc(folder, port) as again:
                wait_until(lambda: "answers again" in (tmp_path / "log").read_text(), "the watcher to see it")
                assert "series will be tried again" in run_inside("watch", "--status", state, "--retry").stdout
                wait_for(state, stored=1)
                assert len(results(again, tmp_path / "results")["SEG"]) == 1
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert {line["level"] for line in lines} >= {"info", "error"}


def test_many_series_wait(archive: Orthanc, small_bundle: Path, tmp_path: Path) -> None:
    count = 50
    for number in range(count):
        send(archive, *write_scan(tmp_path / f"scan{number}", (8, 9, 3), SeriesNumber=number + 1))
    state = tmp_path / "state"
    quick = ("-b", small_bundle, "--output-type", "dicom-seg")
    with watching(archive, state, *quick) as process:
        wait_for(state, stored=3)
        os.kill(process.pid, signal.SIGTERM)
        process.wait(60)
    with watching(archive, state, *quick):
        wait_for(state, stored=count, limit_s=600)
    found = results(archive, tmp_path / "results")
    referred = {one.ReferencedSeriesSequence[0].SeriesInstanceUID for one in found["SEG"]}
    assert (len(found["SEG"]), len(referred)) == (count, count)
