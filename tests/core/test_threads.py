"""How many threads compute: what the user says, else what this process may use; the labels do not depend on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tomoseg import Segmenter, segment_batch
from tomoseg.cli import main
from tomoseg.core.errors import UsageError
from tomoseg.core.threads import choose_threads, stop_spinning, usable_threads
from tomoseg.inference.threads import use_threads
from tomoseg.label_app import server
from tomoseg.label_app.options import ServerOptions

NAME = "hippocampus_mr_segmentation"
ITK = "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"
CORES = 16
POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
# threads of the command line, as shown after a run
RUN = """
import json, os, sys

class Watch:
    def find_spec(self, name, *_):
        if name == "torch":
            told["policy"] = os.environ.get("OMP_WAIT_POLICY")

told, kept = {}, []
sys.meta_path.insert(0, Watch())
from tomoseg.cli import main
module = sys.modules["tomoseg.cli.segment"]
load = module.import_engine

def load_and_keep(bundle, trust):
    load(bundle, trust)
    import tomoseg.batch.segment as home
    made = home.Segmenter
    home.Segmenter = lambda *given: kept.append(made(*given)) or kept[0]

module.import_engine = load_and_keep
try:
    main()
except SystemExit as error:
    told["status"] = error.code
import SimpleITK, torch
told["torch"] = torch.get_num_threads()
told["SimpleITK"] = SimpleITK.ProcessObject.GetGlobalDefaultNumberOfThreads()
compiled = kept[0]._pipeline.networks._backends[0]._request.get_compiled_model()
told["OpenVINO"] = compiled.get_property("INFERENCE_NUM_THREADS")
print(json.dumps(told))
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither the environment nor torch's number of threads goes from one test to the next."""
    before = torch.get_num_threads()
    for name in ("OMP_NUM_THREADS", *POLICIES):
        monkeypatch.setenv(name, "")  # so that it is as it was, in the end
        monkeypatch.delenv(name)
    monkeypatch.setenv(ITK, "1")
    yield
    use_threads(before)


@pytest.fixture
def cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(CORES)), raising=False)


V1, V2 = "7:memory:/a/b\n4:cpu,cpuacct:/a/b\n0::/", "0::/a/b"


@pytest.mark.parametrize(
    ("groups", "files", "wanted"),
    [
        pytest.param(None, {}, CORES, id="no control groups"),
        pytest.param(V2, {}, CORES, id="v2, no controller"),
        pytest.param(V2, {"a/b/cpu.max": "max 100000"}, CORES, id="v2, no limit"),
        pytest.param(V2, {"a/b/cpu.max": "200000 100000"}, 2, id="v2"),
        pytest.param(V2, {"a/b/cpu.max": "250000 100000"}, 3, id="v2, rounded up"),
        pytest.param(V2, {"a/b/cpu.max": "1000 100000"}, 1, id="v2, less than a core"),
        pytest.param(V2, {"a/b/cpu.max": "max 100000", "a/cpu.max": "400000 100000"}, 4, id="v2, of the parent"),
        pytest.param(V2, {"a/b/cpu.max": "800000 100000", "a/cpu.max": "400000 100000"}, 4, id="v2, nested"),
        pytest.param(V2, {"cpu.max": "300000 100000"}, 3, id="v2, the host's path in a container"),
        pytest.param(V2, {"a/b/cpu.max": "9900000 100000"}, CORES, id="v2, more than there are"),
        pytest.param(V2, {"a/b/cpu.max": ""}, CORES, id="v2, empty"),
        pytest.param(V2, {"b/cpu.max": "100000 100000", "a/b/c/cpu.max": "100000 100000"}, CORES, id="v2, of others"),
        pytest.param(V1, {"cpu/a/b/cpu.cfs_quota_us": "-1", "cpu/a/b/cpu.cfs_period_us": "100000"}, CORES, id="v1, -1"),
        pytest.param(V1, {"cpu/a/b/cpu.cfs_quota_us": "50000", "cpu/a/b/cpu.cfs_period_us": "25000"}, 2, id="v1"),
        pytest.param(V1, {"cpu/cpu.cfs_quota_us": "500000", "cpu/cpu.cfs_period_us": "100000"}, 5, id="v1, container"),
        pytest.param(V1, {"cpu/a/b/cpu.cfs_quota_us": "50000"}, CORES, id="v1, without its period"),
    ],
)
@pytest.mark.usefixtures("cores")
def test_control_groups_limit_the_cores(groups: str | None, files: dict[str, str], wanted: int, tmp_path: Path) -> None:
    contents = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    if groups is not None:
        contents["proc/self/cgroup"] = groups
    for name, text in contents.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert usable_threads(tmp_path) == wanted


def test_without_affinity_all_cores_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert usable_threads(tmp_path) == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_threads(tmp_path) == 1


@pytest.mark.parametrize(
    ("asked", "wish", "wanted"),
    [
        (None, None, usable_threads()),
        (None, "7", 7),
        (None, "7,2", 7),
        (None, "", usable_threads()),
        (None, "0", usable_threads()),
        (None, "many", usable_threads()),
        (5, "7", 5),
        (5, None, 5),
    ],
)
def test_the_user_chooses_first(
    asked: int | None, wish: str | None, wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if wish is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", wish)
    assert choose_threads(asked) == wanted


def test_a_program_that_chose_fewer_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import SimpleITK as sitk

    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    for asked, wanted in ((1, 1), (None, 1), (3, 3), (None, 2)):
        use_threads(asked)
        found = (torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads(), int(os.environ[ITK]))
        assert found == (wanted,) * 3


@pytest.mark.parametrize(
    "command",
    [
        ["segment", "scan.nii", "-o", "out", "-b", NAME],
        ["watch", "inbox", "-o", "out", "-b", NAME],
        ["train", NAME, "--data", "data"],
        ["evaluate", "predictions", "references", "-o", "out"],
        ["label-server", "--studies", "scans"],
    ],
    ids=lambda command: command[0],
)
@pytest.mark.parametrize("number", ["0", "-2"])
def test_fewer_than_one_is_wrong_usage(
    command: list[str], number: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(command, number, monkeypatch, capsys) == f"--threads: expected at least 1, got {number}"


def test_workers_of_ray_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = ["segment", "scan.nii", "-o", str(tmp_path / "out"), "-b", NAME, "--executor", "ray"]
    reported = refused(command, "2", monkeypatch, capsys)
    assert reported == "--threads: is not for Ray, whose workers share the cores. Choose their number with --jobs"


def test_processes_of_the_label_server_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(server, "import_package", lambda *names: None)  # MONAI Label
    with pytest.raises(UsageError, match="no such folder"):
        server.serve_label_app(str(tmp_path / "none"), options=ServerOptions(threads=3))
    assert os.environ["OMP_NUM_THREADS"] == "3"


def refused(
    command: list[str], number: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Return the one line that a command is refused with."""
    monkeypatch.setattr(sys, "argv", ["tomoseg", *command, "--threads", number])
    with pytest.raises(SystemExit) as error:
        main()
    assert error.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("tomoseg: error: ")


@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "9"}])
def test_threads_sleep_unless_the_user_says_otherwise(chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    stop_spinning()
    assert {name: os.environ[name] for name in POLICIES if name in os.environ} == (
        chosen or {"OMP_WAIT_POLICY": "PASSIVE"}
    )


def test_a_process_computes_with_what_was_asked_for(
    real_scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["segment", str(real_scan), "-o", "out", "-b", NAME, "--backend", "openvino", "--threads", "1"]
    monkeypatch.delenv(ITK)
    done = subprocess.run(
        [sys.executable, "-c", RUN, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout.splitlines()[-1])
    assert reported == {"policy": "PASSIVE", "status": None, "torch": 1, "SimpleITK": 1, "OpenVINO": 1}
    assert json.loads((tmp_path / "out" / "report.json").read_text())["hardware"]["threads"] == 1


def test_the_library_leaves_the_environment_alone() -> None:
    code = "import os; before = dict(os.environ); import tomoseg.cli; assert dict(os.environ) == before"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_labels_are_the_same_and_not_made_again(backend: str, real_scan: Path, tmp_path: Path) -> None:
    statuses, labels = [], []
    for threads in (1, 2):
        segmenter = Segmenter.from_bundle(NAME, device="cpu", backend=backend, threads=threads)
        labels.append(np.asanyarray(segmenter(real_scan).labels))
        report = segment_batch(segmenter, [real_scan], tmp_path / "out")
        statuses += [case.status for case in report.cases]
        assert report.hardware["threads"] == threads
    assert statuses == ["done", "skipped"]
    assert int((labels[0] != labels[1]).sum()) <= {"torch": 0, "openvino": 2}[backend]  # of 89,600; scores may tie
    written = np.asanyarray(nib.load(tmp_path / "out" / "mni_left_seg.nii.gz").dataobj)
    np.testing.assert_array_equal(written, labels[0])


@pytest.mark.parametrize("threads", [0, -1])
def test_python_is_warned_alike(threads: int) -> None:
    with pytest.raises(UsageError, match=f"--threads: expected at least 1, got {threads}"):
        Segmenter.from_bundle(NAME, threads=threads)
