"""A batch on a running Ray cluster, and machines of it that lack files that all must share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.label_server import free_port
from tomoseg import Segmenter, segment_batch
from tomoseg.bundle import trust

NAME = "hippocampus_mr_segmentation"
START_S = 120

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts of Linux"),
    pytest.mark.skipif(find_spec("ray") is None and not os.environ.get("CI"), reason="Ray is not installed"),
]


class Cluster:
    """A head, and machines that see only their own folders; all of them are this computer."""

    def __init__(self, temporary: Path) -> None:
        self.port, self.client_port = free_port(), free_port()
        self.environment = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": uuid.uuid4().hex,
            "RAY_USAGE_STATS_ENABLED": "0",
            "GRPC_ENABLE_FORK_SUPPORT": "0",  # as the README says, for a server for clients that does not die
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        self._temporary = temporary  # short, for the paths of sockets

    @contextmanager
    def head(self, cpus: int) -> Iterator[None]:
        options = f"--head --port {self.port} --ray-client-server-port {self.client_port} --num-cpus {cpus}"
        with self._running(f"exec ray start {options} --include-dashboard=false --temp-dir {self._temporary} --block"):
            yield

    @contextmanager
    def machine(self, mounts: str) -> Iterator[None]:
        """Start a machine with one core in a mount namespace of its own, after a shell command that mounts."""
        command = f"{mounts} && exec ray start --address 127.0.0.1:{self.port} --num-cpus 1 --block"
        with self._running(command, "unshare", "--map-root-user", "--mount"):
            yield

    def segment(self, inputs: Path, out: Path, address: str, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tomoseg", "segment", str(inputs), "-o", str(out), "--executor", "ray"]
        return subprocess.run(
            [*command, "--ray-address", address, *options],
            env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip

    @contextmanager
    def _running(self, command: str, *namespace: str) -> Iterator[None]:
        process = subprocess.Popen(
            [*namespace, "sh", "-c", command],
            env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            said = ""
            while "--block" not in said:  # it says that it blocks from now on
                line = process.stdout.readline()
                if not line:
                    if "unshare failed" in said or "mount:" in said:
                        pytest.skip(f"nobody may mount a file system here: {said}")
                    pytest.fail(said)
                said += line
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(START_S)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    temporary = Path(tempfile.mkdtemp(prefix="ray-"))
    yield Cluster(temporary)
    time.sleep(1)
    shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture
def scans(real_scan: Path, tmp_path: Path) -> Path:
    for name in ("a", "b"):
        path = tmp_path / "scans" / f"{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        shutil.copy(real_scan, path)
    return tmp_path / "scans"


@pytest.mark.exhaustive
def test_a_cluster_by_its_address_and_from_outside_gives_what_this_machine_gives(
    cluster: Cluster, scans: Path, tmp_path: Path
) -> None:
    segment_batch(Segmenter.from_bundle(NAME), [scans], tmp_path / "local")
    with cluster.head(cpus=2):
        for number, address in enumerate((f"127.0.0.1:{cluster.port}", f"ray://127.0.0.1:{cluster.client_port}")):
            out = tmp_path / str(number)
            done = cluster.segment(scans, out, address, "-b", NAME, "--jobs", "2")
            assert (done.returncode, done.stderr) == (0, ""), done.stderr
            for name in ("a_seg.nii.gz", "b_seg.nii.gz"):
                assert (out / name).read_bytes() == (tmp_path / "local" / name).read_bytes()


@pytest.mark.exhaustive
def test_a_server_that_dies_as_it_begins_is_asked_for_again(cluster: Cluster, scans: Path, tmp_path: Path) -> None:
    died = tmp_path / "died"
    (tmp_path / "sitecustomize.py").write_text(DIES_ONCE.format(marker=str(died)))
    cluster.environment["PYTHONPATH"] = str(tmp_path)
    with cluster.head(cpus=2):
        del cluster.environment["PYTHONPATH"]
        done = cluster.segment(scans, tmp_path / "out", f"ray://127.0.0.1:{cluster.client_port}", "-b", NAME)
    assert died.exists(), done.stderr
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


@pytest.mark.exhaustive
@pytest.mark.parametrize("what", ["weights", "input", "output"])
def test_a_machine_that_does_not_share_what_it_must_is_reported_in_one_line(
    cluster: Cluster, scans: Path, bundle_copy: Path, tmp_path: Path, what: str
) -> None:
    out, weights = tmp_path / "out", bundle_copy / "models" / "model.pt"
    out.mkdir()
    # the same network, trained otherwise
    shutil.copy(weights, tmp_path / "other.pt")
    subprocess.run([sys.executable, "-c", OTHER_WEIGHTS, tmp_path / "other.pt"], check=True)
    mounts, reported = {
        "input": (f"mount -t tmpfs tmpfs '{scans}'", f"{scans / 'a.nii.gz'}: not there; expected a folder"),
        "output": (f"mount -t tmpfs tmpfs '{out}'", ": not there; expected a folder that all machines share"),
        "weights": (f"mount --bind '{tmp_path}/other.pt' '{weights}'", "the bundle or its weights at"),
    }[what]
    trust.record(bundle_copy)
    with cluster.head(cpus=0), cluster.machine(mounts):
        done = cluster.segment(scans, out, f"127.0.0.1:{cluster.port}", "-b", str(bundle_copy))
    assert done.returncode == 2
    assert done.stderr.startswith("tomoseg: error: worker on ")
    assert reported in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(out.iterdir())


DIES_ONCE = """
import os, sys
if any("specific-server" in word for word in sys.orig_argv):
    try:
        open({marker!r}, "x").close()
    except FileExistsError:
        pass
    else:
        os._exit(1)
"""

OTHER_WEIGHTS = """
import sys, torch
content = torch.load(sys.argv[1], weights_only=True)
state = content.get("model", content)
next(iter(state.values())).mul_(1.5)
torch.save(content, sys.argv[1])
"""
