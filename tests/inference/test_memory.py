"""Memory is planned, measured, kept below the limit, and stepped down when it still runs out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.inferers import SlidingWindowInferer

from support.tiers import rest_exhaustive
from support.waiting import wait_until
from tomoseg import TomosegError
from tomoseg.bundle.options import RunOptions, parse_size
from tomoseg.core.memory import is_out_of_memory
from tomoseg.core.run_stats import RunStats
from tomoseg.inference.sliding_window.discretizer import ArgMax
from tomoseg.inference.sliding_window.memory_plan import MemoryEstimate, make_plan
from tomoseg.inference.sliding_window.peak_memory import PeakMemory
from tomoseg.inference.sliding_window.placement import identity_placement
from tomoseg.inference.sliding_window.stream import Limits, Output, StreamedRun
from tomoseg.inference.sliding_window.windows import place_windows

CPU = torch.device("cpu")
GB = 10**9
INFERER = SlidingWindowInferer(roi_size=(96, 96, 96), sw_batch_size=4, overlap=0.5, mode="gaussian")


def needs(**changes: Any) -> MemoryEstimate:
    given: dict[str, Any] = {
        "windows": place_windows((250, 250, 400), INFERER),
        "labels": 117,
        "batch_size": 4,
        "resident": GB // 2,
        "network": GB // 2,
        "result": GB // 10,
        "network_device": CPU,
    }
    return MemoryEstimate(**{**given, **changes})


@pytest.mark.parametrize(
    ("text", "size"), [("6GB", 6 * GB), ("6.5 gb", 6.5 * GB), ("500MiB", 500 * 2**20), ("2g", 2 * GB), (123, 123)]
)
def test_sizes_are_read(text: str | int, size: float) -> None:
    assert parse_size(text) == RunOptions(max_memory=text).max_memory_bytes == size


@pytest.mark.parametrize("text", ["", "lots", "6 apples", "-1GB", "0", "0.0GB", "GB", "6 G B"])
def test_sizes_that_are_none_are_reported(text: str) -> None:
    with pytest.raises(TomosegError, match="max_memory: expected a size such as 6GB or 500MB, got"):
        RunOptions(max_memory=text)


def test_less_memory_means_smaller_batches_then_half_precision_then_a_refusal() -> None:
    ample = make_plan(needs(), 20 * GB, "scan")
    assert (ample.batch_size, ample.dtype) == (4, torch.float32)
    smaller = make_plan(needs(), ample.ram_bytes - 1, "scan")
    assert (smaller.batch_size, smaller.dtype) == (2, torch.float32)
    assert smaller.ram_bytes == ample.ram_bytes - GB
    half = make_plan(needs(), ample.ram_bytes - int(1.6 * GB), "scan")
    assert (half.batch_size, half.dtype) == (2, torch.float16)
    least = make_plan(needs(batch_size=1), half.ram_bytes, "scan")
    with pytest.raises(TomosegError, match=rf"scan: needs {-(-least.ram_bytes // 10**6)} MB of memory, --max-memory a"):
        make_plan(needs(), least.ram_bytes - 1, "scan")


def test_a_plan_holds_what_the_slab_takes() -> None:
    """117 float32 scores of 250×250 voxels and 96 slices are 2.8 GB, and no axis makes a thinner slab."""
    plan = make_plan(needs(labels=117), 20 * GB, "scan")
    other = make_plan(needs(labels=1), 20 * GB, "scan")
    assert plan.ram_bytes - other.ram_bytes == pytest.approx(116 * 97 * 250 * 250 * 4, rel=0.2)


def test_without_a_limit_nothing_is_refused() -> None:
    plan = make_plan(needs(labels=10**6), None, "scan")
    assert (plan.batch_size, plan.dtype) == (1, torch.float16)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("not enough memory of the past"), False),
    ],
)
def test_errors_that_say_memory_ran_out(error: Exception, found: bool) -> None:
    assert is_out_of_memory(error) == found


def test_a_peak_is_measured() -> None:
    with PeakMemory() as peak:
        big = np.ones(50_000_000)  # 400 MB
        wait_until(lambda: peak.bytes - peak.before_bytes > 390e6, "a sample")
        del big
    assert peak.bytes - peak.before_bytes < 500e6


class Network:
    """Runs out of memory at a chosen place."""

    def __init__(self, fails_at: set[int], above: int) -> None:
        torch.manual_seed(0)
        self._network = torch.nn.Conv3d(1, 3, 3, padding=1)
        self._fails_at, self._above = fails_at, above
        self.calls = 0

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if len(batch) > self._above and (not self._fails_at or self.calls in self._fails_at):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        scores: torch.Tensor = self._network(batch)
        return scores


def segment(network: Network) -> tuple[np.ndarray, RunStats]:
    shape = (30, 70, 31)
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(1))
    labels = np.zeros(shape, "uint8")
    inferer = SlidingWindowInferer(roi_size=(16, 16, 16), sw_batch_size=4, overlap=0.5, mode="gaussian")

    def outputs(scores: int) -> list[Output]:
        return [Output(labels, identity_placement(shape), ArgMax(scores), lambda s: s)]

    with torch.no_grad():
        return labels, StreamedRun(image, inferer, network, outputs, Limits(), "scan").run()


def test_running_out_of_memory_steps_down_and_goes_on_from_there() -> None:
    wanted, usual = segment(Network(set(), above=4))
    assert usual.notes == ()
    network = Network({5, 6}, above=1)  # in the second slab, and again when halved
    labels, stats = segment(network)
    np.testing.assert_array_equal(labels, wanted)
    assert stats.notes == (
        "memory ran out: went on with 2 windows at once",
        "memory ran out: went on with 1 windows at once",
    )
    assert network.calls < 2 * stats.windows  # finished work was not repeated


def test_half_precision_scores_give_nearly_the_same_labels() -> None:
    shape = (64, 40, 40)
    torch.manual_seed(0)
    image = torch.nn.functional.avg_pool3d(torch.randn(1, 70, 46, 46), 7, stride=1)
    inferer = SlidingWindowInferer(roi_size=(32, 32, 32), sw_batch_size=1, overlap=0.25, mode="gaussian")
    network = torch.nn.Conv3d(1, 200, 1)

    def run(limit: int) -> tuple[np.ndarray, RunStats]:
        labels = np.zeros(shape, "uint8")
        outputs = [Output(labels, identity_placement(shape), ArgMax(200), lambda scores: scores)]
        with torch.no_grad():
            return labels, StreamedRun(image, inferer, network, lambda _: outputs, Limits(limit), "scan").run()

    ample = 10**15  # a limit, too: only under one is freed memory given back before the first window
    run(ample)  # memory reserved once does not count
    wanted, full = run(ample)
    labels, half = run(full.planned_bytes - 33 * 40 * 40 * 200)  # the slab would be 4 bytes a score
    assert full.notes == ()
    assert half.notes == ("logits kept in half precision to fit the memory",)
    assert 0 < (labels != wanted).mean() < 0.05  # of 200 labels, whose scores are lines over one grey value


def test_a_backend_may_ask_for_smaller_batches() -> None:
    """OpenVINO gives a window to all cores: two at once would take twice the memory, and no less time."""
    from tomoseg.inference.backends import make_backend

    network = torch.nn.Conv3d(1, 2, 1)
    assert make_backend("openvino", network, CPU, "fp32", "key", compiled=False).batch_size == 1
    assert make_backend("torch", network, CPU, "fp32", "key", compiled=False).batch_size is None
    sizes: list[int] = []

    def predict(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        scores: torch.Tensor = network(batch)
        return scores

    outputs = [Output(np.zeros((20, 20, 20), "uint8"), identity_placement((20, 20, 20)), ArgMax(2), lambda s: s)]
    inferer = SlidingWindowInferer(roi_size=(8, 8, 8), sw_batch_size=4, overlap=0.5)
    with torch.no_grad():
        for batch_size in (2, 9):
            limits = Limits(batch_size=batch_size)
            StreamedRun(torch.randn(1, 20, 20, 20), inferer, predict, lambda _: outputs, limits, "scan").run()
            assert max(sizes) == min(batch_size, 4)
            sizes.clear()


def test_running_out_of_memory_for_good_is_an_error() -> None:
    with pytest.raises(MemoryError):
        segment(Network(set(), above=0))


RUN = """
import sys
from tomoseg import Segmenter
segmenter = Segmenter.from_bundle("hippocampus", backend=sys.argv[2])
memory = segmenter(sys.argv[1]).stats
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
print(memory.planned_bytes, memory.peak_bytes, int(peak) * 1024)
"""


@pytest.mark.slow
def test_a_scan_that_is_too_large_is_reported_and_the_rest_are_done(real_scan: Path, tmp_path: Path) -> None:
    """In processes of their own: a limit counts what the whole process holds, other tests' memory too."""
    scan = nib.load(real_scan)
    large = np.tile(scan.get_fdata(dtype="float32"), (8, 8, 8))
    (tmp_path / "scans").mkdir()
    nib.save(nib.Nifti1Image(large, scan.affine), tmp_path / "scans" / "a_large.nii.gz")
    nib.save(scan, tmp_path / "scans" / "b_small.nii.gz")
    alone = subprocess.run([sys.executable, "-c", RUN, real_scan, "torch"], capture_output=True, text=True, check=True)
    limit = int(alone.stdout.split()[1]) + 250_000_000
    arguments = ["segment", str(tmp_path / "scans"), "-o", str(tmp_path / "out"), "-b", "hippocampus"]
    done = subprocess.run(
        [sys.executable, "-m", "tomoseg", *arguments, "--backend", "torch", "--max-memory", str(limit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    cases = json.loads((tmp_path / "out" / "report.json").read_text())["cases"]
    assert [case["status"] for case in cases] == ["failed", "done"]
    assert f"MB of memory, --max-memory allows {-(-limit // 10**6)} MB" in cases[0]["reason"]
    assert cases[0]["reason"].startswith(str(tmp_path / "scans" / "a_large.nii.gz: "))
    assert [path.name for path in (tmp_path / "out").glob("[!.]*_seg.nii.gz")] == ["b_small_seg.nii.gz"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="counts resident memory as Linux does")
@pytest.mark.parametrize("backend", rest_exhaustive(["openvino", "torch"]))
def test_what_is_planned_is_what_is_taken(real_scan: Path, tmp_path: Path, backend: str) -> None:
    """The measured number is the system's."""
    scan = nib.load(real_scan)
    large = np.tile(scan.get_fdata(dtype="float32"), (3, 2, 3))
    nib.save(nib.Nifti1Image(large, scan.affine), tmp_path / "large.nii.gz")
    done = subprocess.run(
        [sys.executable, "-c", RUN, tmp_path / "large.nii.gz", backend], capture_output=True, text=True, check=True
    )
    planned, measured, peak = map(int, done.stdout.split())
    assert measured == pytest.approx(peak, rel=0.1)
    assert 0.9 * measured < planned < 1.5 * measured


LIMITED = """
import resource, sys
import psutil, tomoseg.cli, tomoseg.batch.run
limit = psutil.Process().memory_info().vms + 10**9
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
sys.argv[0] = "tomoseg"
tomoseg.cli.main()
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits a process as Linux does")
def test_a_machine_that_really_runs_out_ends_in_one_line(real_scan: Path, tmp_path: Path) -> None:
    scan = nib.load(real_scan)
    nib.save(nib.Nifti1Image(np.zeros((700, 700, 300), "uint8"), scan.affine), tmp_path / "huge.nii.gz")
    arguments = ["segment", str(tmp_path / "huge.nii.gz"), "-o", str(tmp_path / "seg.nii.gz"), "-b", "hippocampus"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments, "--backend", "torch"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"tomoseg: error: {tmp_path / 'huge.nii.gz'}: not enough memory for this scan: ")
    assert not (tmp_path / "seg.nii.gz").exists()
