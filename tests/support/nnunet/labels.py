"""Label maps that nnU-Net made, stored beside the tests; `PYTHONPATH=tests python -m support.nnunet.labels` makes them.

It needs the environment `.venv-nnunet`, and makes that where there is none.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from support.bundles import CHECKOUT
from support.nnunet.models import KINDS, write_model
from support.nnunet.scans import write_scans

STORED = CHECKOUT / "tests" / "convert" / "nnunet" / "labels"
# one thread: the same sums in the same order on every machine
ALONE = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1") | {
    "CUDA_VISIBLE_DEVICES": ""
}
# the kinds of models, each with scans
PAIRS = (
    ("isotropic", "mr_ras"),
    ("isotropic", "mr_fine"),
    ("thick_slices", "mr_fine"),
    ("thick_slices", "mr_thick"),
    ("transposed", "ct_ras"),
    ("transposed", "ct_oblique"),
    ("mask_norm", "mr_fine"),
    ("mask_norm", "mr_oblique"),
    ("folds", "mr_oblique"),
    ("regions", "mr_thick"),
    ("regions", "mr_fine"),
    ("old_plans", "mr_sagittal"),
    ("residual", "mr_oblique"),
)


def run_nnunet(script: str, *arguments: str | Path) -> None:
    """Run a script of this folder in the environment of nnU-Net."""
    code = "import environment; print(environment.nnunet())"
    made = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT / "scripts", check=True, capture_output=True)
    python = made.stdout.decode().splitlines()[-1]
    command = [python, str(Path(__file__).with_name(script)), *map(str, arguments)]
    subprocess.run(command, check=True, env=os.environ | ALONE)


def predict(jobs: list[tuple[Path, Path, Path]], scratch: Path) -> None:
    """Segment with nnU-Net's predictor.

    Args:
        jobs: the results folder, the scan and the label map to write, of each.
        scratch: folder for the list of jobs.
    """
    listed = [dict(zip(("model", "scan", "labels"), map(str, job), strict=True)) for job in jobs]
    (scratch / "jobs.json").write_text(json.dumps(listed))
    run_nnunet("predict.py", scratch / "jobs.json")


def stored(kind: str, scan: str, folder: Path = STORED) -> Path:
    return folder / f"{kind}__{scan}.nii.gz"


def make_labels(folder: Path) -> None:
    """Make the label maps of all pairs in a folder."""
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(temporary)
        scans = write_scans(scratch / "scans")
        models = {kind: write_model(KINDS[kind], scratch / f"Dataset9_{kind}") for kind in KINDS}
        predict([(models[kind], scans[scan], stored(kind, scan, folder)) for kind, scan in PAIRS], scratch)


if __name__ == "__main__":
    shutil.rmtree(STORED, ignore_errors=True)
    make_labels(STORED)
