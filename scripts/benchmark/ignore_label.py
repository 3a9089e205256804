"""Measure the gain of an ignore label, on cases with every fourth slice annotated.

    .venv/bin/python scripts/benchmark/ignore_label.py DATASET [--every 4] [--cases N] [--seeds 3] [--epochs 40]
        [--json FILE]

DATASET is the hippocampus task of the Medical Segmentation Decathlon with `splits.json`. Of the cases that fold 0
trains on, every fourth coronal slice keeps its labels. The others have the ignore label, or are background; a third way
has all slices. What fold 0 holds out is scored, in all slices.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from comparison import Case, Way, compare, make_parser, read_cases, write_dataset

CORONAL = 1  # axis of a scan in RAS


def main() -> None:
    parser = make_parser(__doc__, seeds=3)
    parser.add_argument("--every", type=int, default=4, help="of how many slices one is drawn")
    parser.add_argument("--cases", type=int, help="that are trained on; all of the fold's if not given")
    options = parser.parse_args()
    training, held_out = read_cases(options.dataset)
    if options.cases is not None and not 1 <= options.cases <= len(training):
        parser.error(f"cases: expected 1 to {len(training)}, got {options.cases}")
    if options.every < 2:
        parser.error(f"every: expected 2 or more, got {options.every}")
    labels = json.loads((options.dataset / "dataset.json").read_text())["labels"]

    def ways(seed: int, place: Path) -> list[Way]:
        order = np.random.default_rng(seed).permutation(len(training))[: options.cases]
        chosen = [training[index] for index in order]
        reported, untold = (
            write_sparse(
                place / name, options.dataset, chosen, held_out, labels, options.every, reported=name == "reported"
            )
            for name in ("reported", "untold")
        )
        full = write_dataset(place / "full", options.dataset, chosen, held_out)
        return [Way("the rest is ignored", reported), Way("the rest is background", untold), Way("all slices", full)]

    compare(options, [name for value, name in labels.items() if int(value)], ways)


def write_sparse(
    folder: Path,
    source: Path,
    training: Sequence[Case],
    held_out: Sequence[Case],
    labels: dict[str, str],
    every: int,
    reported: bool,
) -> Path:
    """Write a dataset whose cases keep the labels of some coronal slices; return its folder.

    Args:
        folder: of the new dataset.
        source: the dataset with all labels.
        training: cases that lose labels.
        held_out: cases that keep all.
        labels: names by value.
        every: of how many slices one keeps its labels, beginning elsewhere in each case.
        reported: the other slices have an ignore label of their own; otherwise they are background.
    """
    ignored = max(map(int, labels)) + 1
    for number, case in enumerate(training):
        image = nib.load(source / case["label"])
        array = np.array(image.dataobj)
        others = np.arange(array.shape[CORONAL]) % every != number % every
        array[:, others] = ignored if reported else 0
        target = folder / case["label"]
        target.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, image.affine), target)
    return write_dataset(folder, source, training, held_out, labels | {str(ignored): "ignore"} if reported else None)


if __name__ == "__main__":
    main()
