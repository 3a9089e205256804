"""Whole processes with 1 to all threads and with the default, on an idle machine and beside a busy core."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from exports import write_mri_boxes
from measure import Timing, run
from rows import Bench, Command, Row, interleaved
from tomoseg.bundle.trust import record
from tomoseg.core.threads import usable_threads

TOMOSEG: Command = [sys.executable, "-m", "tomoseg"]
MRIS, STEPS = 12, 20
DEFAULT = "default"
PLACES = {"idle": 0, "beside a busy core": 1}


def threads(bench: Bench) -> Row:
    """12 MRI crops segmented, and 20 steps of training, on the CPU: --threads 1 to all, and none given."""
    data, planned = _write_training(bench)
    segment: Command = ["segment", data / "images", "-b", bench.small]
    work: dict[str, Command] = {
        "torch": [*segment, "--backend", "torch"],
        "OpenVINO": [*segment, "--backend", "openvino"],
        "training": ["train", planned, "--data", data, "--epochs", "1", "--fold", "none"],
    }
    cores = usable_threads()
    numbers = [] if bench.quick else sorted({*(2**power for power in range(cores.bit_length())), cores})
    chosen: dict[str, Command] = {f"{number} threads": ["--threads", str(number)] for number in numbers}
    chosen[DEFAULT] = []
    rows: dict[str, Row] = {}
    for more in chosen.values():  # compilation, which happens once, does not count
        _once(bench, [*work["OpenVINO"], *more], Timing())
    for place, beside in list(PLACES.items())[bench.quick :]:
        for name, command in work.items():
            peers: dict[str, Callable[[Timing], Path]] = {
                title: partial(_once, bench, [*command, *more]) for title, more in chosen.items()
            }
            with _busy(beside):
                timings, _ = interleaved(bench, peers)
            best = min(timing.wall for title, timing in timings.items() if title != DEFAULT or bench.quick)
            for title, timing in timings.items():
                rows[f"{name}, {place}, {title}"] = timing.as_dict() | {"of_best": round(timing.wall / best, 2)}
    return {"what": threads.__doc__, "rows": rows}


def _once(bench: Bench, command: Command, timing: Timing) -> Path:
    output = bench.fresh("threads")
    run([*TOMOSEG, *command, "-o", output, "--device", "cpu", "--quiet"], timing)
    return output


def _write_training(bench: Bench) -> tuple[Path, Path]:
    """Return a dataset of MRI crops with the shipped bundle's labels, and a bundle planned for it; made once."""
    folder = bench.folder / ("quick_training" if bench.quick else "training")
    data, planned = folder / "data", folder / "bundle"
    if not planned.is_dir():
        images = write_mri_boxes(data / "images", 4 if bench.quick else MRIS)
        run([*TOMOSEG, "segment", images, "-o", data / "labels", "-b", bench.small, "--quiet"], Timing())
        run([*TOMOSEG, "plan", data, "-o", planned, "--modality", "MR", "--device", "cpu"], Timing())
        path = planned / "configs" / "train.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"steps": 2 if bench.quick else STEPS}))
        record(planned)  # what `plan` wrote was trusted
    return data, planned


@contextmanager
def _busy(count: int) -> Iterator[None]:
    """Keep so many cores busy."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()
