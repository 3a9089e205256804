"""A batch on a real Ray of two workers: the files of a local run, also where workers or the driver end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import psutil
import pytest

from support.command_line import run_inside, run_process
from support.progress import Calls
from tomoseg import Segmenter, find_bundle, segment_batch
from tomoseg.batch.cases import plan_cases
from tomoseg.batch.options import OutputOptions
from tomoseg.batch.ray.cluster import WorkerResources, choose_share, connected
from tomoseg.batch.ray.executor import RayExecutor
from tomoseg.batch.run import run_batch
from tomoseg.bundle.options import RunOptions
from tomoseg.core.errors import UsageError
from tomoseg.report.records import CaseReport, Report

PREVIEW = OutputOptions(preview=True)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name == "nt", reason="kills processes the way Unix does"),
    pytest.mark.skipif(find_spec("ray") is None and not os.environ.get("CI"), reason="Ray is not installed"),
]

NAME = "hippocampus_mr_segmentation"
PREVIEW = OutputOptions(preview=True)
KILLER, GLUTTON = 31415, 27182  # largest value of a scan
TEMPER = f"""$lambda image: image if image.max() not in ({KILLER}, {GLUTTON}) else (
    __import__('os').kill(__import__('os').getpid(), 9) if image.max() == {KILLER}
    else __import__('torch').empty(2**60))"""


@pytest.fixture(scope="module")
def ray_here() -> Iterator[Any]:
    """Ray on this machine, for several batches."""
    with connected(None, "cpu") as ray:
        yield ray


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory, real_scan: Path) -> Path:
    """Twelve scans that differ, in two folders."""
    root = tmp_path_factory.mktemp("ray") / "scans"
    for index in range(12):
        save(root / str(index % 2) / f"{index:02}.nii.gz", real_scan, index)
    return root


def save(path: Path, like: Path, shift: int, largest: float | None = None) -> None:
    image = nib.load(like)
    array = np.roll(image.get_fdata(dtype="float32"), shift, axis=1)
    if largest is not None:
        array[0, 0, 0] = largest
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, image.affine), path)


def run(
    inputs: Path,
    out: Path,
    bundle: str | Path = NAME,
    preview: bool = False,
    on_case: Callable[[CaseReport], None] | None = None,
    on_note: Callable[[str], None] | None = None,
) -> Report:
    output = OutputOptions(preview=preview)
    executor = RayExecutor(find_bundle(bundle), RunOptions(), output, jobs=2)
    return run_batch(plan_cases([inputs], out), executor, Calls(on_case, on_note))


def files(folder: Path) -> dict[str, bytes]:
    """Return the files written, without reports and manifests; nothing unfinished may be left."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in found if ".tomoseg-" in name]
    return {
        name: path.read_bytes()
        for name, path in found.items()
        if not name.endswith(".done.json") and not name.startswith(("report.", "statistics."))
    }


def outcome(case: CaseReport) -> CaseReport:
    """Return the report of a case, without the parts that differ each time."""
    return replace(
        case, output=None, preview=None, stats=replace(case.stats, seconds={}, peak_bytes=0, planned_bytes=0)
    )


def workers(driver: int) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::Worker"):
                found.append(process)
        except psutil.Error:  # it ended just now
            continue
    return found


def command(inputs: Path, out: Path, *options: str, executor: str = "ray") -> list[str]:
    ray = ["--executor", executor, "--jobs", "2"] if executor == "ray" else []
    return [sys.executable, "-m", "tomoseg", "segment", str(inputs), "-o", str(out), "-b", NAME, *ray, *options]


@pytest.mark.exhaustive  # `test_a_scan_that_kills_every_worker_fails_alone` kills several
def test_a_worker_that_is_killed_changes_nothing(ray_here: Any, scans: Path, tmp_path: Path) -> None:
    inputs = tmp_path / "scans"
    shutil.copytree(scans, inputs)
    (inputs / "0" / "00.nii.gz").write_bytes(b"broken")
    local = segment_batch(Segmenter.from_bundle(NAME), [inputs], tmp_path / "local", options=PREVIEW)
    killed: list[int] = []

    def kill(case: CaseReport) -> None:
        if case.status == "done" and not killed:
            victim = workers(os.getpid())[0]
            killed.append(victim.pid)
            victim.kill()

    notes: list[str] = []
    report = run(inputs, tmp_path / "ray", preview=True, on_case=kill, on_note=notes.append)
    assert killed
    assert len(notes) == 1
    assert "crashed or was killed" in notes[0]
    assert len(files(tmp_path / "local")) == 44  # label map, its two tables of names, and picture of eleven scans
    assert files(tmp_path / "ray") == files(tmp_path / "local")
    # a case whose worker was killed after it had written all is proven by its manifest
    assert [case.status for case in report.cases].count("skipped") <= 3
    reported = [replace(case, status="done") if case.status == "skipped" else case for case in report.cases]
    assert list(map(outcome, reported)) == list(map(outcome, local.cases))
    assert report.pending == ()
    assert (report.device, report.backend, report.precision) == (local.device, local.backend, local.precision)
    assert len(report.hardware["workers"]) >= 2
    for one, other in ((report, tmp_path / "ray.csv"), (local, tmp_path / "local.csv")):
        one.save_statistics(other)
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "local.csv").read_bytes()

    # the proofs are those of a local run, too
    again = segment_batch(Segmenter.from_bundle(NAME), [inputs], tmp_path / "ray", options=PREVIEW)
    assert [case.status for case in again.cases] == ["failed", *["skipped"] * 11]


@pytest.mark.exhaustive
def test_scans_of_the_decathlon_give_the_same_bytes(ray_here: Any, hippocampus_data: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    for path in sorted((hippocampus_data / "imagesTr").glob("*.nii.gz"))[:12]:
        (tmp_path / "scans" / path.name).symlink_to(path)
    local = segment_batch(Segmenter.from_bundle(NAME), [tmp_path / "scans"], tmp_path / "local")
    report = run(tmp_path / "scans", tmp_path / "ray")
    assert [case.status for case in report.cases] == ["done"] * 12
    assert list(map(outcome, report.cases)) == list(map(outcome, local.cases))
    assert files(tmp_path / "ray") == files(tmp_path / "local")


def test_a_scan_that_kills_every_worker_fails_alone(
    ray_here: Any, bundle_copy: Path, real_scan: Path, tmp_path: Path
) -> None:
    config = bundle_copy / "configs" / "inference.json"
    content = json.loads(config.read_text())
    temper = {"_target_": "Lambdad", "keys": "image", "func": " ".join(TEMPER.split())}
    content["preprocessing"]["transforms"].insert(1, temper)
    config.write_text(json.dumps(content))
    scans = tmp_path / "scans"
    for index, largest in enumerate((None, None, KILLER, None, GLUTTON, None)):
        save(scans / f"{index}.nii.gz", real_scan, index, largest)
    notes: list[str] = []
    report = run(scans, tmp_path / "out", bundle_copy, on_note=notes.append)
    assert [case.status for case in report.cases] == ["done", "done", "failed", "done", "failed", "done"]
    assert report.cases[2].reason.startswith(f"{scans / '2.nii.gz'}: 3 workers ended at it, the last with no other")
    assert report.cases[4].reason.startswith(f"{scans / '4.nii.gz'}: not enough memory for this scan: ")
    assert len(notes) == 3
    made = {path.name for path in (tmp_path / "out").glob("*.nii.gz")}
    assert made == {f"{index}_seg.nii.gz" for index in (0, 1, 3, 5)}


def test_it_listens_at_this_machine_only_and_sends_nothing_home(ray_here: Any) -> None:
    ours = {process.pid for process in psutil.Process().children(recursive=True)}
    listening = {
        (connection.pid, connection.laddr.ip)
        for connection in psutil.net_connections("inet")
        if connection.pid in ours and connection.status == psutil.CONN_LISTEN
    }
    assert listening
    assert {address for _, address in listening} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    (raylet,) = [process for process in psutil.Process().children() if process.name() == "raylet"]
    assert raylet.environ()["RAY_USAGE_STATS_ENABLED"] == "0"


@pytest.mark.exhaustive
def test_stopped_killed_and_started_again_it_ends_as_a_local_run(scans: Path, tmp_path: Path) -> None:
    whole = subprocess.run(command(scans, tmp_path / "whole", executor="local"), capture_output=True, check=True)
    assert whole.returncode == 0
    out, kinds = tmp_path / "out", (signal.SIGINT, signal.SIGKILL)
    for kind in kinds:
        process = subprocess.Popen(
            command(scans, out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell has it ignored
        )  # fmt: skip
        assert process.stdout is not None
        while line := process.stdout.readline():  # the first scan of this run is done
            if "earlier run" not in line:
                break
        left = workers(process.pid)
        assert left
        if kind == signal.SIGINT:
            os.killpg(process.pid, kind)  # a terminal sends it to all
        else:
            process.send_signal(kind)
        _, errors = process.communicate(timeout=120)
        psutil.wait_procs(left, timeout=60)
        assert not [child for child in left if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        if kind == signal.SIGINT:
            assert process.returncode == 130
            assert errors == "tomoseg: error: interrupted; finished results are kept\n"
            report = json.loads((out / "report.json").read_text())
            assert report["interrupted"]
            assert len(report["cases"]) + len(report["pending"]) == 12
            files(out)
    done = subprocess.run(command(scans, out), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "[12/12] " in done.stdout
    report = json.loads((out / "report.json").read_text())
    assert [case["status"] for case in report["cases"]].count("skipped") >= 2
    assert files(out) == files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ray-address", "127.0.0.1:1"], "Ray at 127.0.0.1:1: no answer"),
        (["--ray-address", "head"], "Ray: expected auto, HOST:PORT or ray://HOST:PORT as the address, got 'head'"),
        (["--jobs", "0"], "jobs: expected a number of workers, at least 1, got 0"),
        (["--device", "cuda:1"], "device: expected auto, cpu or cuda with Ray, which chooses the GPU itself"),
        (["--backend", "onnx"], ": backend: expected auto, torch, openvino, got 'onnx'"),
        (["--checkpoint", "none.pt"], "none.pt: no such checkpoint"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    arguments: list[str], message: str, real_scan: Path, tmp_path: Path
) -> None:
    # a Ray that another test has begun in this process would be used with any address
    run = run_process if "--ray-address" in arguments else run_inside
    done = run(*command(real_scan, tmp_path / "out", *arguments)[3:])
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--executor", "spark"], "executor: expected local, ray, got 'spark'"),
        (["--jobs", "2"], "jobs: is for Ray. Add --executor ray"),
        (["--ray-address", "auto"], "ray-address: is for Ray. Add --executor ray"),
    ],
)
def test_what_is_for_ray_needs_ray(arguments: list[str], message: str, real_scan: Path, tmp_path: Path) -> None:
    done = run_inside(*command(real_scan, tmp_path / "out", *arguments, executor="local")[3:])
    assert (done.returncode, done.stderr) == (2, f"tomoseg: error: {message}\n")


@pytest.mark.parametrize(
    ("machines", "device", "jobs", "wanted"),
    [
        ([{"CPU": 8}], "auto", None, WorkerResources(1, 8, 0)),
        ([{"CPU": 8}], "auto", 3, WorkerResources(3, 2, 0)),
        ([{"CPU": 8}, {"CPU": 16}, {}], "cpu", None, WorkerResources(2, 8, 0)),
        ([{"CPU": 8}, {"CPU": 16}], "auto", 3, WorkerResources(3, 4, 0)),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 64, "GPU": 4}], "auto", None, WorkerResources(6, 4, 1)),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 64, "GPU": 4}], "cuda", 3, WorkerResources(3, 4, 1)),
        ([{"CPU": 8, "GPU": 2}], "cpu", 4, WorkerResources(4, 2, 0)),
    ],
)
def test_each_worker_gets_a_gpu_or_its_share_of_the_cores(
    machines: list[dict[str, float]], device: str, jobs: int | None, wanted: WorkerResources
) -> None:
    assert choose_share(machines, device, jobs, elastic=False) == wanted


@pytest.mark.parametrize(
    ("machines", "device", "jobs", "message"),
    [
        ([{"CPU": 2}], "cuda", None, "Ray finds no GPU"),
        ([{"CPU": 2}], "auto", 3, "3 workers asked for, but there are 2 CPU cores"),
        ([{"CPU": 8, "GPU": 2}], "auto", 3, "3 workers asked for, but there are 2 GPUs"),
        ([{}], "auto", None, "no machine of the cluster offers a CPU"),
    ],
)
def test_what_there_is_no_room_for_is_refused(
    machines: list[dict[str, float]], device: str, jobs: int | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        choose_share(machines, device, jobs, elastic=False)
