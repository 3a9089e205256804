"""Rows of the benchmark: a model of nnU-Net, run by nnU-Net's own command and, imported, by ours."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil

from measure import Timing, run
from nnunet_model import write_model
from nnunet_plans import FILE_ENDING
from rows import LIMIT, Bench, Command, Row, interleaved, tomoseg

MEMORY_LIMIT = 24 * 10**9  # of nnU-Net where its label map is 117 times a whole body
SPARE = 0.9  # of the machine's memory, where it has less


def imported_ct(bench: Bench) -> Row:
    """An nnU-Net of 25 classes at 1.5 mm, windows of 128³ voxels, without mirroring; 512×512×78 at 0.73×0.73×2 mm."""
    scan = bench.scan("ct", (512, 512, 78), (0.73, 0.73, 2.0))
    model = write_model(bench.folder / "Dataset025_Benchmark", 25, (1.5, 1.5, 1.5))
    bundle, took = _import(bench, model, "imported_25")
    peers = {"nnU-Net": nnunet_command(bench, scan, model)} if bench.nnunet else {}
    precisions = ("fp32", "bf16") if bench.device == "cpu" else ("fp32", "fp16")
    for precision in precisions:
        peers[f"tomoseg, {precision}"] = tomoseg(bench, scan, bundle, f"imported_{precision}", "--precision", precision)
        peers[f"tomoseg, {precision}"](Timing())  # compilation, which happens once, does not count
    timings, results = interleaved(bench, peers)
    rows: dict[str, Row] = {name: timing.as_dict() for name, timing in timings.items()}
    if bench.nnunet:
        labels = {name: np.asanyarray(nib.load(path).dataobj) for name, path in results.items()}
        base = timings["nnU-Net"]
        for name, timing in timings.items():
            rows[name] |= {
                "faster_as_process": round(base.wall / timing.wall, 2),
                "memory_of_nnunet": round(timing.peak / base.peak, 3),
                "voxels_that_differ": int((labels[name] != labels["nnU-Net"]).sum()),
            }
    return {"what": imported_ct.__doc__, "rows": rows, "import_s": round(took, 1)}


def imported_body(bench: Bench) -> Row:
    """An nnU-Net of 117 classes at 3 mm (as TotalSegmentator's fast one), a scan of 512×512×400 voxels; once each."""
    scan = bench.scan("body", (512, 512, 400), (0.73, 0.73, 2.0))
    model = write_model(bench.folder / "Dataset117_Benchmark", 117, (3.0, 3.0, 3.0))
    bundle, took = _import(bench, model, "imported_117")
    timing = Timing()
    tomoseg(bench, scan, bundle, "imported_body", "--max-memory", LIMIT)(timing)
    rows: dict[str, Row] = {f"tomoseg --max-memory {LIMIT}": timing.as_dict()}
    if bench.nnunet:
        limit = min(MEMORY_LIMIT, int(SPARE * psutil.virtual_memory().total))
        timing = Timing()
        try:
            nnunet_command(bench, scan, model, limit)(timing)
            rows["nnU-Net"] = timing.as_dict()
        except SystemExit as error:
            reason = str(error).strip().splitlines()[-1]
            rows["nnU-Net"] = timing.as_dict() | {"failed": f"within {limit / 1e9:.1f} GB: {reason}"}
    return {"what": imported_body.__doc__, "rows": rows, "import_s": round(took, 1)}


def nnunet_command(bench: Bench, scan: Path, model: Path, limit: int | None = None) -> Callable[[Timing], Path]:
    """Return what runs nnU-Net's command from the shell, with a process for each of its sides.

    Args:
        bench: where.
        scan: to segment.
        model: results folder.
        limit: bytes that each of its processes may have.
    """

    def once(timing: Timing) -> Path:
        scans, output = bench.fresh("nnunet_scans"), bench.fresh("nnunet_labels")
        shutil.copyfile(scan, scans / f"scan_0000{FILE_ENDING}")
        assert bench.nnunet is not None
        command: Command = [bench.nnunet.with_name("nnUNetv2_predict_from_modelfolder"), "-i", scans, "-o", output]
        command += ["-m", model, "-f", "0", "-device", bench.device, "-npp", "1", "-nps", "1", "--disable_progress_bar"]
        if limit:
            command = [sys.executable, "-c", LIMITED, str(limit), *command]
        run(command, timing)
        return output / f"scan{FILE_ENDING}"

    return once


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]),) * 2)
os.execv(sys.argv[2], sys.argv[2:])
"""


def _import(bench: Bench, model: Path, name: str) -> tuple[Path, float]:
    """Return the model as a bundle, and the seconds that the command took."""
    bundle, timing = bench.folder / name, Timing()
    run([sys.executable, "-m", "tomoseg", "import", model, "-o", bundle, "--overwrite"], timing)
    return bundle, timing.wall
