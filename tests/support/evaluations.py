"""Predictions and references that a test can look through."""

from __future__ import annotations

import csv
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np

from support.command_line import run_inside
from tomoseg.evaluation.options import EvaluationOptions
from tomoseg.evaluation.results import Evaluation
from tomoseg.evaluation.run import evaluate

NAMES = {1: "liver", 2: "spleen"}
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


def run(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run_inside("evaluate", *arguments, cwd=cwd)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    return path


def write_cases(folder: Path, count: int = 8) -> tuple[Path, Path]:
    """Write label maps of two boxes; one prediction misses a label, one invents it, and one is damaged.

    Returns:
        The folders of predictions and of references.
    """
    random = np.random.default_rng(0)
    for index in range(count):
        name = {1: "missed", 2: "invented", 3: "damaged"}.get(index, f"case_{index}")
        reference = np.zeros((30, 24, 16), np.uint8)
        reference[4:12, 5 : 14 + index % 3, 3:10] = 1
        reference[16:25, 6:13, 4:12] = 2
        prediction = np.roll(reference, tuple(random.integers(-1, 2, 3)), (0, 1, 2))
        prediction[:, :, : 5 + index % 2] = 0
        if name == "missed":
            prediction[prediction == 1] = 0
        if name == "invented":
            reference[reference == 1] = 0
        path = write(folder / "predictions" / f"{name}_seg.nii.gz", prediction)
        write(folder / "references" / f"{name}.nii.gz", reference)
        write(folder / "scans" / f"{name}_0000.nii.gz", random.normal(100 * reference, 20).astype(np.float32))
        if name == "damaged":
            path.write_bytes(path.read_bytes()[:80])
    return folder / "predictions", folder / "references"


def make_evaluation(folder: Path, count: int = 8) -> Evaluation:
    return evaluate(*write_cases(folder, count), EvaluationOptions(NAMES))
