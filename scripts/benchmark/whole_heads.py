#!/usr/bin/env python3
"""Measure the way from whole heads to hippocampal volumes: `scripts/benchmark/whole_heads.py [plain] [turned] …`.

Heads: MNI152 (in nilearn's wheel), Colin27 with and without skull (Debian's mricron-data, with the AAL atlas), and a
series of a child's head where it is at hand. Run it with a Python that has tomoseg, e.g. `.venv/bin/python`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from numpy.typing import NDArray

from perturbation import perturb, resample
from tomoseg import Grid, Segmentation, Segmenter, Volume, read_volume
from tomoseg.inference.localisation.template import template_files

ROOT = Path(__file__).resolve().parent.parent.parent
MRICRON = Path("/usr/share/mricron/templates")
AAL_HIPPOCAMPUS = (37, 38)  # left, right
SIDES = ("left hippocampus", "right hippocampus")
ORIENTATIONS = [
    "".join(letters) for axes in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*axes)
]
SPACINGS_MM = (
    (0.7, 0.7, 0.7), (1.0, 1.0, 1.0), (1.5, 1.5, 1.5), (2.0, 2.0, 2.0), (2.5, 2.5, 2.5), (3.0, 3.0, 3.0),
    (1.0, 1.0, 3.0), (1.0, 3.0, 1.0), (3.0, 1.0, 1.0), (0.7, 0.7, 2.0),
)  # fmt: skip
PERTURBATIONS = 30
NEAR_MM = 8.0  # a hippocampus whose centre is found so near is found
Row = dict[str, Any]


def find_heads() -> dict[str, Path]:
    """Return the heads that are on this machine."""
    heads = {
        "MNI152": template_files()[0],
        "Colin27": MRICRON / "ch2.nii.gz",
        "Colin27, no skull": MRICRON / "ch2bet.nii.gz",
        "child (DICOM)": ROOT.parent / "shared" / "data" / "mr_head_dicom",
    }
    return {name: path for name, path in heads.items() if path.exists()}


def tell(result: Segmentation) -> Row:
    """Return what matters of a result."""
    location = result.location
    assert location is not None
    return {
        "similarity": location.similarity,
        "volumes_ml": {region.name: region.volume_ml for region in location.regions},
        "centres_mm": {region.name: region.centre_mm for region in location.regions},
        "icv_ml": location.icv_ml,
        "warnings": list(result.warnings),
        "seconds": result.stats.total_seconds,
    }


def plain(segmenter: Segmenter, name: str, scan: Volume) -> Row:
    """The unchanged head; Colin27 against AAL, whose hippocampus is drawn nearly twice as large."""
    start = time.perf_counter()
    result = segmenter(scan)
    row = tell(result) | {"wall_s": time.perf_counter() - start, "parts_ml": result.volumes_ml}
    row["asymmetry_percent"] = result.location.asymmetry_percent if result.location else None
    if name.startswith("Colin27"):
        atlas = np.isin(np.asanyarray(nib.load(MRICRON / "aal.nii.gz").dataobj), AAL_HIPPOCAMPUS)
        ours = result.labels > 0
        both = np.count_nonzero(atlas & ours)
        volumes = np.count_nonzero(atlas), np.count_nonzero(ours)
        row["aal"] = {
            "dice": 2 * both / sum(volumes),
            "highest_dice_for_these_volumes": 2 * min(volumes) / sum(volumes),
            "share_of_ours_within": both / volumes[1],
            "volumes_ml": [count / 1000 for count in volumes],
        }
    return row


def turned(segmenter: Segmenter, name: str, scan: Volume) -> Row:
    """The same voxels in all 48 orientations."""
    return spread(segmenter, ((codes, reoriented(scan, codes)) for codes in ORIENTATIONS))


def resampled(segmenter: Segmenter, name: str, scan: Volume) -> Row:
    """The head on coarser and finer grids."""
    return spread(segmenter, (("×".join(map(str, mm)), resample(scan, mm)) for mm in SPACINGS_MM))


def spread(segmenter: Segmenter, variants: Iterator[tuple[str, Volume]]) -> Row:
    """Return how far the volumes of variants of one head lie apart, in percent of their median."""
    volumes: dict[str, list[float]] = {side: [] for side in SIDES}
    swapped, reported = 0, {}
    for variant, scan in variants:
        row = tell(segmenter(scan))
        swapped += row["centres_mm"][SIDES[0]][0] >= row["centres_mm"][SIDES[1]][0]
        for side in SIDES:
            volumes[side].append(row["volumes_ml"][side])
        reported[variant] = [round(volumes[side][-1], 3) for side in SIDES] + row["warnings"]
    found = {
        side: {
            "median_ml": float(np.median(values)),
            "largest_deviation_percent": 100 * float(np.abs(np.array(values) / np.median(values) - 1).max()),
            "cv_percent": 100 * float(np.std(values) / np.mean(values)),
        }
        for side, values in volumes.items()
    }
    return {"variants": len(reported), "sides_swapped": swapped, **found, "each": reported}


def perturbed(segmenter: Segmenter, name: str, scan: Volume) -> Row:
    """The head turned, shifted, cropped, with a bias field and noise; where the hippocampi went is known."""
    truth = tell(segmenter(scan))
    centres = np.array([truth["centres_mm"][side] for side in SIDES])
    rows: list[Row] = []
    for seed in range(PERTURBATIONS):
        changed, moved, what = perturb(scan, seed, centres.mean(axis=0))
        row = tell(segmenter(changed))
        wanted = centres @ moved[:3, :3].T + moved[:3, 3]
        errors = np.linalg.norm(wanted - [row["centres_mm"][side] for side in SIDES], axis=1)
        ratios = [row["volumes_ml"][side] / truth["volumes_ml"][side] for side in SIDES]
        rows.append({
            "seed": seed, **what, "errors_mm": errors.round(1).tolist(), "volume_ratios": np.round(ratios, 3).tolist(),
            "similarity": row["similarity"], "warnings": row["warnings"], "located": bool(errors.max() <= NEAR_MM),
        })  # fmt: skip
        print(f"  {name}: {json.dumps(rows[-1])}", flush=True)
    located = [row for row in rows if row["located"]]
    return {
        "located": len(located),
        "of": len(rows),
        "lost_and_not_flagged": sum(not row["located"] and not row["warnings"] for row in rows),
        "located_but_flagged": sum(bool(row["warnings"]) for row in located),
        "error_mm_median": float(np.median([row["errors_mm"] for row in located])),
        "volume_deviation_percent_median": 100
        * float(np.median(np.abs([row["volume_ratios"] for row in located]) - 1)),
        "lowest_score_located": min(row["similarity"] for row in located),
        "each": rows,
    }


def reoriented(scan: Volume, codes: str) -> Volume:
    """Return the same voxels with other axes."""
    turn = ornt_transform(io_orientation(scan.grid.affine), axcodes2ornt(tuple(codes)))
    array: NDArray[np.float32] = np.ascontiguousarray(nib.orientations.apply_orientation(scan.array, turn))
    affine = scan.grid.affine @ inv_ornt_aff(turn, scan.grid.shape)
    return replace(scan, array=array, grid=Grid(array.shape, affine), header=None, series=None)


MEASURES: dict[str, Callable[[Segmenter, str, Volume], Row]] = {
    "plain": plain,
    "turned": turned,
    "resampled": resampled,
    "perturbed": perturbed,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measures", nargs="*", help=f"some of {', '.join(MEASURES)}; all if left out")
    parser.add_argument("--json", type=Path, default=Path("heads.json"), help="all numbers go there")
    parser.add_argument("--head", action="append", help="only heads whose names begin so")
    options = parser.parse_args()
    if unknown := set(options.measures) - set(MEASURES):
        parser.error(f"expected some of {', '.join(MEASURES)}, got {', '.join(sorted(unknown))}")
    segmenter = Segmenter.from_bundle("hippocampus", device="cpu")
    found: dict[str, dict[str, Row]] = {}
    for measure in options.measures or MEASURES:
        for name, path in find_heads().items():
            if options.head and not name.startswith(tuple(options.head)):
                continue
            row = MEASURES[measure](segmenter, name, read_volume(path))
            found.setdefault(measure, {})[name] = row
            options.json.write_text(json.dumps(found, indent=1) + "\n")
            shown = {key: value for key, value in row.items() if key not in ("each", "centres_mm")}
            print(f"{measure}, {name}: {json.dumps(shown)}", flush=True)


if __name__ == "__main__":
    main()
