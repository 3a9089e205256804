"""Rows of the benchmark: large, many, small scans against MONAI and nnU-Net, metrics, windows on each backend."""

from __future__ import annotations

import json
import math
import shutil
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from bundle_writer import write_bundle
from exports import SHIPPED, exports, write_mri_boxes
from head_neck import write_biased_bundle, write_series
from measure import Timing, last_json, run
from phantom import phantom
from tomoseg.core.files import sha256

HERE = Path(__file__).parent
LIMIT = "6GB"
QUICK_SHAPE = (90, 90, 40)
Row = dict[str, Any]
Command = list[str | Path]


@dataclass(frozen=True)
class Bench:
    """Where a benchmark works, and how.

    Attributes:
        folder: for scans, bundles and results.
        repeat: runs of each command, interleaved.
        device: where networks run.
        nnunet: a Python that has nnunetv2; None to leave it out.
        quick: scans of a few windows, to see that everything runs; the numbers mean nothing.
        mris: real crops around the hippocampus for `windows`; None for those of MNI152.
        hippocampus: a bundle for small MRIs instead of the shipped one; `windows` compares it alone.
    """

    folder: Path
    repeat: int
    device: str
    nnunet: Path | None
    quick: bool
    mris: Path | None = None
    hippocampus: Path | None = None

    @property
    def small(self) -> Path:
        """The bundle for small MRIs."""
        return self.hippocampus or SHIPPED

    def scan(self, name: str, shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Path:
        """Return a synthetic CT alone in a folder, made on the first call."""
        if self.quick and math.prod(shape) > math.prod(QUICK_SHAPE):
            name, shape, spacing = f"quick_{name}", QUICK_SHAPE, (2.0, 2.0, 3.0)
        path = self.folder / name / f"{name}.nii.gz"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            image, _, affine = phantom(shape, spacing)
            nib.save(nib.Nifti1Image(image, affine), path)
        return path

    def bundle(self, classes: int) -> Path:
        folder = self.folder / f"bundle_{classes}"
        return write_bundle(folder, classes, amp=self.device != "cpu")

    def fresh(self, name: str) -> Path:
        """Return an empty folder for results."""
        shutil.rmtree(self.folder / name, ignore_errors=True)
        (self.folder / name).mkdir(parents=True)
        return self.folder / name


def tomoseg(bench: Bench, scan: Path, bundle: str | Path, name: str, *options: str) -> Callable[[Timing], Path]:
    """Return what segments a scan from the shell."""

    def once(timing: Timing) -> Path:
        output = bench.fresh(name)
        target = output / f"{scan.name.removesuffix('.nii.gz')}_seg.nii.gz"
        command: Command = [sys.executable, "-m", "tomoseg", "segment", scan, "-o", target, "-b", bundle, "--quiet"]
        run([*command, "--device", bench.device, "--report", output / "report.json", *options], timing)
        (case,) = json.loads((output / "report.json").read_text())["cases"]
        timing.inner_s.append(case["stats"]["seconds"])
        return target

    return once


def stock(bench: Bench, scan: Path, bundle: Path, evaluator: str = "SupervisedEvaluator") -> Callable[[Timing], Path]:
    """Return runs of the same bundle by MONAI's command: once from the shell, once to time its parts.

    Args:
        bench: where.
        scan: alone in its folder.
        bundle: the bundle.
        evaluator: MONAI's, or ours in its place.
    """

    def once(timing: Timing) -> Path:
        output = bench.fresh(evaluator)
        command: Command = [sys.executable, "-m", "monai.bundle", "run"]
        command += ["--config_file", bundle / "configs" / "inference.json", "--bundle_root", bundle]
        command += ["--dataset_dir", scan.parent, "--output_dir", output, "--evaluator#_target_", evaluator]
        run(command, timing)
        inner = Timing()
        arguments: Command = [bundle, scan.parent, output, bench.device, evaluator]
        timing.inner_s.append(last_json(run([sys.executable, HERE / "stock_peer.py", *arguments], inner))["seconds"])
        return output / f"{scan.name.removesuffix('.nii.gz')}_seg.nii.gz"

    return once


def nnunet(bench: Bench, scan: Path, bundle: Path) -> Callable[[Timing], Path]:
    """Return what runs the same network with nnU-Net's predictor, as nnUNetv2_predict does it."""

    def once(timing: Timing) -> Path:
        target = bench.fresh("nnunet") / "seg.nii.gz"
        command: Command = [bench.nnunet or sys.executable, HERE / "nnunet_peer.py", scan, target]
        seconds = last_json(
            run([*command, "--weights", bundle / "models" / "model.pt", "--device", bench.device], timing)
        )["seconds"]
        timing.inner_s.append({name: value for name, value in seconds.items() if name != "total"})
        return target

    return once


def interleaved(bench: Bench, peers: dict[str, Callable[[Timing], Path]]) -> tuple[dict[str, Timing], dict[str, Path]]:
    """Run each peer in turn, again and again, so that a busy minute of the machine hits all of them."""
    timings: dict[str, Timing] = {name: Timing() for name in peers}
    results: dict[str, Path] = {}
    for index in range(bench.repeat):
        for name, once in peers.items():
            print(f"  {index + 1} of {bench.repeat}: {name}", file=sys.stderr, flush=True)
            results[name] = once(timings[name])
    return timings, results


def large_ct(bench: Bench) -> Row:
    """25 classes, 512×512×78 at 0.73×0.73×2 mm, network grid 1.5×1.5×2 mm, windows of 96³ voxels, overlap 0.5."""
    scan = bench.scan("ct", (512, 512, 78), (0.73, 0.73, 2.0))
    bundle = bench.bundle(25)
    ours = stock(bench, scan, bundle, "tomoseg.StreamingEvaluator")
    peers = {"monai.bundle run": stock(bench, scan, bundle), "monai.bundle run, StreamingEvaluator": ours}
    if bench.nnunet:
        peers["nnU-Net"] = nnunet(bench, scan, bundle)
    if bench.device == "cpu":
        options = {
            "tomoseg, torch fp32": ["--backend", "torch"],
            "tomoseg, OpenVINO fp32": ["--backend", "openvino"],
            "tomoseg, OpenVINO bf16": ["--backend", "openvino", "--precision", "bf16"],
            "tomoseg, OpenVINO bf16, --skip-empty": ["--backend", "openvino", "--precision", "bf16", "--skip-empty"],
        }
    else:
        options = {"tomoseg, torch fp16": ["--precision", "fp16"], "tomoseg, torch fp32": ["--precision", "fp32"]}
    for name, chosen in options.items():
        peers[name] = tomoseg(bench, scan, bundle, name.replace(" ", "_"), *chosen)
    if bench.device == "cpu":  # compilation, which happens once, does not count
        for name in list(options)[1:]:
            peers[name](Timing())
    timings, results = interleaved(bench, peers)
    labels = {name: np.asanyarray(nib.load(path).dataobj) for name, path in results.items()}
    reference = labels["monai.bundle run"]
    rows = {}
    for name, timing in timings.items():
        base = timings["monai.bundle run"]
        rows[name] = {
            **timing.as_dict(),
            "faster": round(base.inner / timing.inner, 2),
            "faster_as_process": round(base.wall / timing.wall, 2),
            "memory_share": round(timing.peak / base.peak, 3),
            "voxels_that_differ": int((labels[name] != reference).sum()),
            "mean_dice": round(statistics.mean(scores := _dice(labels[name], reference)), 5),
            "lowest_dice": round(min(scores), 5),
        }
        if name.startswith("tomoseg"):
            rows[name]["of_network_time"] = round(timing.inner / timing.stage("network"), 2)
    return {"what": large_ct.__doc__, "voxels": int(reference.size), "rows": rows}


def whole_body(bench: Bench) -> Row:
    """117 classes, 512×512×400 at 0.73×0.73×2 mm, the same grid and windows, within 6 GB."""
    scan = bench.scan("body", (512, 512, 400), (0.73, 0.73, 2.0))
    options = ["--max-memory", LIMIT, *(["--precision", "bf16"] if bench.device == "cpu" else [])]
    timing = Timing()
    tomoseg(bench, scan, bench.bundle(117), "body_seg", *options)(timing)
    (case,) = json.loads((bench.folder / "body_seg" / "report.json").read_text())["cases"]
    network_voxels = 249 * 249 * 400
    # MONAI: scores and their soft-max in the network's grid; then their inverse in the scan's
    needs = 4 * 117 * max(2 * network_voxels, network_voxels + 512 * 512 * 400)
    row = {**timing.as_dict(), "planned_bytes": case["stats"]["planned_bytes"], "notes": case["stats"]["notes"]}
    return {"what": whole_body.__doc__, "rows": {f"tomoseg --max-memory {LIMIT}": row}, "monai_needs_bytes": needs}


def cold_start(bench: Bench) -> Row:
    """One small MRI with the hippocampus bundle, from the shell, starting Python and loading the model included."""
    scan = bench.scan("small", (36, 50, 36), (1.0, 1.0, 1.0))
    bundle = bench.small
    peers = {"monai.bundle run": stock(bench, scan, bundle), "tomoseg": tomoseg(bench, scan, bundle, "small_seg")}
    peers["tomoseg"](Timing())  # compilation, which happens once, does not count
    timings, _ = interleaved(bench, peers)
    empty, imported = Timing(), Timing()
    for _ in range(7):
        run([sys.executable, "-c", "pass"], empty)
        run([sys.executable, "-c", "import tomoseg"], imported)
    base = timings["monai.bundle run"]
    rows = {
        name: {**timing.as_dict(), "of_monai": round(timing.wall / base.wall, 3)} for name, timing in timings.items()
    }
    return {"what": cold_start.__doc__, "rows": rows, "import_tomoseg_s": round(imported.wall - empty.wall, 3)}


def small_batch(bench: Bench) -> Row:
    """40 small MRIs in a folder with the hippocampus bundle."""
    more: dict[str, Command] = {"int8": ["--checkpoint", _quantised(bench)]} if bench.device == "cpu" else {}
    rows = _batch(bench, "small", (36, 50, 36), (1.0, 1.0, 1.0), 40, bench.small, more)
    return {"what": small_batch.__doc__, "rows": rows}


def large_batch(bench: Bench) -> Row:
    """6 CTs of 512×512×78 voxels in a folder, 25 classes."""
    rows = _batch(bench, "ct", (512, 512, 78), (0.73, 0.73, 2.0), 6, bench.bundle(25))
    return {"what": large_batch.__doc__, "rows": rows}


def metrics(bench: Bench) -> Row:
    """Two label maps with 24 labels, 512×512×78: Dice, Jaccard, precision, recall, accuracy, HD95, ASSD and NSD."""
    folder = bench.folder / ("quick_metrics" if bench.quick else "metrics")
    shape, spacing = ((90, 90, 40), (2.0, 2.0, 3.0)) if bench.quick else ((512, 512, 78), (0.73, 0.73, 2.0))
    reference, prediction = folder / "references" / "ct.nii.gz", folder / "predictions" / "ct_seg.nii.gz"
    if not prediction.is_file():
        _, labels, affine = phantom(shape, spacing)
        for path, array in ((reference, labels), (prediction, np.roll(labels, (2, 1, 0), axis=(0, 1, 2)))):
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(array, affine), path)
    scores: dict[str, dict[int, dict[str, float]]] = {}

    def ours(timing: Timing) -> Path:
        output = bench.fresh("evaluation")
        command: Command = [sys.executable, "-m", "tomoseg", "evaluate", prediction, reference, "-o", output]
        run([*command, "--worst", "0", "--quiet"], timing)
        (case,) = json.loads((output / "evaluation.json").read_text())["cases"]
        timing.inner_s.append({"all": case["seconds"]})
        scores["tomoseg"] = {one["label"]: one for one in case["labels"]}
        return output

    def monai(timing: Timing) -> Path:
        reported = last_json(run([sys.executable, HERE / "metrics_peer.py", prediction, reference], timing))
        timing.inner_s.append({"all": reported["seconds"]})
        scores["MONAI's metrics"] = {one["label"]: one for one in reported["labels"]}
        return prediction

    timings, _ = interleaved(bench, {"MONAI's metrics": monai, "tomoseg": ours})
    rows: dict[str, Row] = {name: timing.as_dict() for name, timing in timings.items()}
    rows["tomoseg"]["faster"] = round(timings["MONAI's metrics"].inner / timings["tomoseg"].inner, 1)
    rows["tomoseg"]["faster_as_process"] = round(timings["MONAI's metrics"].wall / timings["tomoseg"].wall, 1)
    apart = {
        key: max(abs(scores["tomoseg"][label][key] - one[key]) for label, one in scores["MONAI's metrics"].items())
        for key in next(iter(scores["MONAI's metrics"].values()))
        if key != "label"
    }
    return {"what": metrics.__doc__, "rows": rows, "largest_difference": apart}


def contours(bench: Bench) -> Row:
    """A DICOM series, 512×512×150 at 0.98×0.98×2.5 mm, to RTSTRUCT with the CT bundle."""
    name, shape = ("quick_series", (96, 96, 24)) if bench.quick else ("series", (512, 512, 150))
    series = write_series(bench.folder / name, shape, (0.98, 0.98, 2.5))
    bundle = write_biased_bundle(bench.folder / "bundle_head_neck")
    timings: dict[str, Timing] = {}
    for precision in ("fp32", "bf16") if bench.device == "cpu" else ("fp16",):

        def once(timing: Timing, precision: str = precision) -> Path:
            output = bench.fresh(f"contours_{precision}")
            target = output / "rtstruct.dcm"
            command: Command = [sys.executable, "-m", "tomoseg", "segment", series, "-o", target, "-b", bundle]
            command += ["--output-type", "rtstruct", "--quiet", "--report", output / "report.json"]
            run([*command, "--device", bench.device, "--precision", precision], timing)
            (case,) = json.loads((output / "report.json").read_text())["cases"]
            timing.inner_s.append(case["stats"]["seconds"])
            return target

        once(Timing())  # compilation, which happens once, does not count
        timings |= interleaved(bench, {f"tomoseg, {precision}": once})[0]
    rows = {title: timing.as_dict() for title, timing in timings.items()}
    for title, timing in timings.items():
        rows[title]["of_network_time"] = round(timing.inner / timing.stage("network"), 2)
    return {"what": contours.__doc__, "rows": rows}


def _quantised(bench: Bench) -> Path:
    """Return the hippocampus network in int8, made on the first call; `windows` measures its accuracy."""
    weights = sha256(bench.small / "models" / "model.pt")
    network = bench.folder / f"quantised_{weights[:8]}" / "network.xml"
    if not network.is_file():
        network.parent.mkdir(parents=True, exist_ok=True)
        name, count = ("quick_boxes", 4) if bench.quick else ("boxes", 12)
        boxes = bench.mris or write_mri_boxes(bench.folder / name, count)
        command: Command = [sys.executable, "-m", "tomoseg", "export", bench.small, "--format", "openvino-int8"]
        run([*command, "-o", network, "--calibration", boxes, "--max-dice-loss", "1"], Timing())
    return network


def _batch(
    bench: Bench,
    name: str,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    count: int,
    bundle: Path,
    more: dict[str, Command] | None = None,
) -> dict[str, Row]:
    """Return what a folder of so many copies of a scan takes MONAI, and takes us in each precision and in `more`."""
    scan = bench.scan(name, shape, spacing)
    folder = bench.folder / f"{scan.parent.name}_batch"
    folder.mkdir(exist_ok=True)
    for index in range(2 if bench.quick else count):
        shutil.copyfile(scan, folder / f"{index:02}.nii.gz")
    names = ("fp32", "bf16") if bench.device == "cpu" else ("fp16",)
    precisions: dict[str, Command] = {**{name: ["--precision", name] for name in names}, **(more or {})}
    network: dict[str, list[float]] = {precision: [] for precision in precisions}

    def ours(precision: str) -> Callable[[Timing], Path]:
        def once(timing: Timing) -> Path:
            output = bench.fresh(f"batch_{precision}")
            command: Command = [sys.executable, "-m", "tomoseg", "segment", folder, "-o", output, "-b", bundle]
            run([*command, "--device", bench.device, *precisions[precision], "--quiet"], timing)
            report = json.loads((output / "report.json").read_text())
            start, stop = (datetime.fromisoformat(report[key]) for key in ("started", "finished"))
            timing.inner_s.append({"all": (stop - start).total_seconds()})
            network[precision].append(sum(case["stats"]["seconds"]["network"] for case in report["cases"]))
            return output

        return once

    def monai(timing: Timing) -> Path:
        output = bench.fresh("monai_batch")
        command: Command = [sys.executable, "-m", "monai.bundle", "run"]
        command += ["--config_file", bundle / "configs" / "inference.json", "--bundle_root", bundle]
        run([*command, "--dataset_dir", folder, "--output_dir", output], timing)
        return output

    titles = {f"tomoseg, {precision}": precision for precision in precisions}
    for precision in precisions:
        ours(precision)(Timing())  # compilation, which happens once, does not count
        network[precision].clear()
    peers = {"monai.bundle run": monai} | {title: ours(precision) for title, precision in titles.items()}
    timings, _ = interleaved(bench, peers)
    rows: dict[str, Row] = {key: timing.as_dict() for key, timing in timings.items()}
    for title, precision in titles.items():
        rows[title]["of_network_time"] = round(timings[title].inner / statistics.median(network[precision]), 2)
        rows[title]["faster_as_process"] = round(timings["monai.bundle run"].wall / timings[title].wall, 1)
    return rows


def one_window(bench: Bench) -> Row:
    """One window of 40×56×40 voxels (hippocampus) and of 96³ voxels (CT, 25 classes) on each backend, on the CPU."""
    rows = exports(bench.folder, bench.repeat, bench.quick, bench.mris, bench.hippocampus)
    return {"what": one_window.__doc__, "rows": rows}


def _dice(one: Any, other: Any) -> list[float]:
    """Return the Dice of each label of two label maps."""
    return [
        2 * np.sum((one == label) & (other == label)) / (np.sum(one == label) + np.sum(other == label))
        for label in np.unique(other)[1:]
    ]


ROWS: dict[str, Callable[[Bench], Row]] = {
    "ct": large_ct,
    "body": whole_body,
    "start": cold_start,
    "mris": small_batch,
    "cts": large_batch,
    "metrics": metrics,
    "windows": one_window,
    "rtstruct": contours,
}
