"""Every executor gives the same label maps, the same report and the same failures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from support.progress import Calls
from tomoseg import Report, Segmenter, find_bundle, segment_batch
from tomoseg.batch.cases import Case, plan_cases
from tomoseg.batch.local import LocalExecutor
from tomoseg.batch.options import OutputOptions
from tomoseg.batch.progress import Progress
from tomoseg.batch.run import BatchInterruptedError, Executor, run_batch
from tomoseg.bundle.options import RunOptions
from tomoseg.report.records import CaseReport

NAME = "hippocampus_mr_segmentation"
OPTIONS = RunOptions(device="cpu", backend="torch")
MEMORY = ("planned_bytes", "peak_bytes", "planned_vram_bytes", "peak_vram_bytes")
TIMED = ("started", "finished", "seconds", "hardware", *MEMORY)

MakeExecutor = Callable[[OutputOptions], Executor]


# where Ray needs no test of its own in each run of continuous integration: its workers take long to start
SELDOM_RAY = pytest.mark.parametrize(
    "make_executor", ["local", pytest.param("ray", marks=pytest.mark.exhaustive)], indirect=True
)


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def make_executor(request: pytest.FixtureRequest) -> Iterator[MakeExecutor]:
    if request.param == "local":
        segmenter = Segmenter.from_bundle(NAME, device="cpu", backend="torch")
        yield lambda output: LocalExecutor(segmenter, output)
        return
    if os.name == "nt" or (find_spec("ray") is None and not os.environ.get("CI")):
        pytest.skip("Ray is not installed")
    from tomoseg.batch.ray.cluster import connected
    from tomoseg.batch.ray.executor import RayExecutor

    with connected(None, "cpu"):  # for all tests; each batch would start its own
        yield lambda output: RayExecutor(find_bundle(NAME), OPTIONS, output, jobs=1)


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory, real_scan: Path) -> Path:
    """Two sound scans, a truncated one and one of four dimensions."""
    folder = tmp_path_factory.mktemp("executors")
    image = nib.load(real_scan)
    for index in range(2):
        array = np.roll(image.get_fdata(dtype="float32"), index, axis=1)
        nib.save(nib.Nifti1Image(array, image.affine), folder / f"{index}.nii.gz")
    (folder / "2.nii.gz").write_bytes(real_scan.read_bytes()[:5000])
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9, 4), "int16"), np.eye(4)), folder / "3.nii.gz")
    return folder


@pytest.fixture(scope="module")
def expected(scans: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    """The report and the folder of a plain batch."""
    out = tmp_path_factory.mktemp("expected")
    return segment_batch(Segmenter.from_bundle(NAME, device="cpu", backend="torch"), [scans], out), out


def planned(scans: Path, out: Path) -> list[Case]:
    return plan_cases([scans], out)


def plain(content: Any, out: Path) -> Any:
    """Return a report without times and hardware, with paths relative to the output."""
    if isinstance(content, dict):
        return {key: plain(value, out) for key, value in content.items() if key not in TIMED}
    if isinstance(content, list | tuple):
        return [plain(value, out) for value in content]
    return content.replace(str(out), "OUT") if isinstance(content, str) else content


def test_label_maps_and_report_are_those_of_a_plain_batch(
    make_executor: MakeExecutor, scans: Path, expected: tuple[Report, Path], tmp_path: Path
) -> None:
    wanted, there = expected
    seen: list[CaseReport] = []
    report = run_batch(planned(scans, tmp_path), make_executor(OutputOptions()), Calls(seen.append))
    assert [case.status for case in report.cases] == ["done", "done", "failed", "failed"]
    for path in there.glob("*_seg.nii.gz"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    found = plain(asdict(report), tmp_path)
    for name in ("executor", "workers"):  # which executor it was
        found["options"].pop(name, None)
    assert found == plain(asdict(wanted), there)
    assert sorted(case.input for case in seen) == [case.input for case in report.cases]
    assert report.pending == ()


@SELDOM_RAY
def test_existing_results_are_kept_or_replaced(make_executor: MakeExecutor, scans: Path, tmp_path: Path) -> None:
    cases = planned(scans, tmp_path)[:1]
    cases[0].output.write_bytes(b"somebody's")
    report = run_batch(cases, make_executor(OutputOptions()))
    assert [case.status for case in report.cases] == ["failed"]
    assert "Pass --overwrite" in str(report.cases[0].reason)
    assert cases[0].output.read_bytes() == b"somebody's"
    report = run_batch(cases, make_executor(OutputOptions(overwrite=True)))
    assert [case.status for case in report.cases] == ["done"]
    report = run_batch(cases, make_executor(OutputOptions()))
    assert [case.status for case in report.cases] == ["skipped"]


def test_an_interrupt_keeps_what_was_done(make_executor: MakeExecutor, scans: Path, tmp_path: Path) -> None:
    def interrupt(case: CaseReport) -> None:
        raise KeyboardInterrupt

    cases = planned(scans, tmp_path)
    with pytest.raises(BatchInterruptedError) as raised:
        run_batch(cases, make_executor(OutputOptions()), Calls(interrupt))
    report = raised.value.report
    assert report.interrupted
    assert len(report.cases) == 1
    assert len(report.pending) == len(cases) - 1
    assert report.device == "cpu"
    assert not [path for path in tmp_path.iterdir() if ".tomoseg-" in path.name]


class Record(Progress):
    """What a batch says of itself."""

    def __init__(self) -> None:
        self.cases = 0
        self.reports: list[CaseReport] = []
        self.windows: list[tuple[Path, int, int]] = []

    def on_start(self, cases: int) -> None:
        self.cases += cases

    def on_case(self, report: CaseReport) -> None:
        self.reports.append(report)

    def on_window(self, path: Path, done: int, total: int) -> None:
        self.windows.append((path, done, total))


@SELDOM_RAY
def test_progress_follows_the_batch(make_executor: MakeExecutor, scans: Path, tmp_path: Path) -> None:
    record, executor = Record(), make_executor(OutputOptions())
    report = run_batch(planned(scans, tmp_path), executor, record)
    assert record.cases == 4
    assert sorted(case.input for case in record.reports) == [case.input for case in report.cases]
    windows = [(scans / f"{index}.nii.gz", 1, 1) for index in range(2)]
    assert record.windows[-1:] == windows[-1:] if isinstance(executor, LocalExecutor) else record.windows == []
