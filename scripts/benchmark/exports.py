"""One window on each backend: seconds, agreement with PyTorch in fp32, and the size of the file."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from nilearn.datasets import load_mni152_template

from bundle_writer import write_bundle
from phantom import phantom
from tomoseg import find_bundle
from tomoseg.convert.export.export import export
from tomoseg.convert.export.export_source import ExportSource, load_origin
from tomoseg.convert.export.parity import NetworkParity, Parity, Runner
from tomoseg.convert.export.runtimes import read_onnx
from tomoseg.convert.export.samples import real_samples
from tomoseg.core.errors import BackendError
from tomoseg.core.files import sha256
from tomoseg.inference.backends import choose_backend, make_backend
from tomoseg.inference.backends.int8_network import find_int8
from tomoseg.inference.device import CPU

SHIPPED = Path(__file__).resolve().parents[2] / "monai_bundle" / "hippocampus_mr_segmentation"
# first corners, in MNI152 millimetres (RAS+), of boxes around the left and the right hippocampus
CORNERS_MM = ((-46.0, -51.0, -31.0), (6.0, -51.0, -31.0))
BOX = (40, 56, 40)
SHIFTS_MM = (0, 2, -2, 4, -4, 6)
SEEDS = 6


@dataclass(frozen=True, eq=False)
class Candidate:
    """Something that runs a network, and the size of the file that it is run from, in bytes."""

    run: Runner
    size_bytes: int


def compare_backends(bundle: Path, scans: Path, work: Path, repeat: int) -> dict[str, dict[str, Any]]:
    """Run the same windows of a bundle on each backend in turn; return a row for each, times as medians.

    Args:
        bundle: its folder.
        scans: to calibrate int8 with, and to cut windows from.
        work: where the exports go.
        repeat: how often each backend gets each window.
    """
    source = load_origin(find_bundle(bundle))
    samples = real_samples(source, [scans], True, lambda step: None)
    candidates = dict(_candidates(source, scans, work))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    agreements = {name: NetworkParity(source) for name in candidates}
    with torch.no_grad():
        for candidate in candidates.values():
            candidate.run(samples.check[0])  # compilation, which happens once, does not count
        for window in list(samples.check) * repeat:
            wanted = source.network(window)
            for name, candidate in candidates.items():
                started = time.perf_counter()
                found = candidate.run(window)
                seconds[name].append(time.perf_counter() - started)
                agreements[name].add(found, wanted)
    return {name: _row(agreements[name].parity, candidate, seconds[name]) for name, candidate in candidates.items()}


def _row(parity: Parity, candidate: Candidate, seconds: Sequence[float]) -> dict[str, Any]:
    return {
        "window_ms": round(1000 * statistics.median(seconds), 1),
        "mean_dice": round(parity.mean_dice or 0.0, 5),
        "lowest_dice": round(min(parity.dice.values(), default=0.0), 5),
        "largest_difference": float(f"{parity.largest_difference:.2g}"),
        "size_mb": round(candidate.size_bytes / 1e6, 1),
    }


def _candidates(source: ExportSource, scans: Path, work: Path) -> Iterator[tuple[str, Candidate]]:
    """Yield the segmenter's own backends, and ONNX Runtime."""
    key = sha256(source.checkpoint)
    plain = source.checkpoint.stat().st_size
    window = (1, *source.window)
    for name, compiled in (("torch", False), ("torch.compile", True)):
        for precision in ("fp32", "bf16"):
            backend = make_backend("torch", source.network, CPU, precision, key, compiled)
            try:
                backend.prepare(window)
            except BackendError as error:  # no compiler
                print(f"  left out: {name} {precision}: {error}")
                continue
            yield f"{name} {precision}", Candidate(backend, plain)
    onnx = export(source.bundle, "onnx", work / "network.onnx", calibration=[scans], overwrite=True)
    yield "ONNX Runtime fp32", Candidate(read_onnx(Path(onnx.files[0])), onnx.size_bytes)
    openvino = export(source.bundle, "openvino", work / "network.xml", calibration=[scans], overwrite=True)
    for precision in ("fp32", "bf16"):
        backend = make_backend(choose_backend("openvino", CPU), source.network, CPU, precision, key, compiled=False)
        yield f"OpenVINO {precision}", Candidate(backend, openvino.size_bytes)
    int8 = export(
        source.bundle,
        "openvino-int8",
        work / "network_int8.xml",
        calibration=[scans],
        max_dice_loss=1.0,  # the table has it
        overwrite=True,
    )
    found = find_int8(Path(int8.files[0]), [key], source.config.network_definition)
    backend = make_backend("openvino", source.network, CPU, "int8", key, compiled=False, int8=found)
    yield "OpenVINO int8", Candidate(backend, int8.size_bytes)


def write_mri_boxes(folder: Path, count: int) -> Path:
    """Write boxes around both hippocampi of MNI152, at places a little apart, unless they are there."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        head = load_mni152_template(resolution=1)
        places = [np.add(corner, (0, shift, 0)) for shift in SHIFTS_MM for corner in CORNERS_MM]
        for index, place in enumerate(places[:count]):
            first = np.round((np.linalg.inv(head.affine) @ (*place, 1.0))[:3]).astype(int)
            box = tuple(slice(start, start + size) for start, size in zip(first, BOX, strict=True))
            nib.save(head.slicer[box], folder / f"{index}.nii.gz")
    return folder


def write_cts(folder: Path, shape: tuple[int, int, int], spacing: tuple[float, float, float], count: int) -> Path:
    """Write synthetic CTs with other organs each, unless they are there."""
    if not folder.is_dir():
        folder.mkdir(parents=True)
        for seed in range(count):
            image, _, affine = phantom(shape, spacing, seed=seed)
            nib.save(nib.Nifti1Image(image, affine), folder / f"{seed}.nii.gz")
    return folder


def exports(
    folder: Path, repeat: int, quick: bool, mris: Path | None, hippocampus: Path | None
) -> dict[str, dict[str, Any]]:
    """Return the rows of the hippocampus network (40×56×40 voxels) and of the CT network (96³ voxels).

    Args:
        folder: for the files.
        repeat: how often each backend gets each window.
        quick: scans of a few windows.
        mris: real crops around the hippocampus; None for those of MNI152.
        hippocampus: a bundle that is compared alone; None for the shipped one and the CT network.
    """
    if quick:
        boxes = mris or write_mri_boxes(folder / "quick_boxes", 4)
        cts = write_cts(folder / "quick_cts", (90, 90, 40), (2.0, 2.0, 3.0), 2)
    else:
        boxes = mris or write_mri_boxes(folder / "boxes", len(SHIFTS_MM) * len(CORNERS_MM))
        cts = write_cts(folder / "exported_cts", (200, 200, 80), (1.9, 1.9, 2.0), SEEDS)
    networks = {"hippocampus": (hippocampus or SHIPPED, boxes)}
    if hippocampus is None:
        networks["CT"] = (write_bundle(folder / "bundle_25"), cts)
    return {
        f"{network}, {name}": row
        for network, (bundle, scans) in networks.items()
        for name, row in compare_backends(bundle, scans, folder / f"exports_{network}", repeat).items()
    }
