"""Do scans without label map help where few have one? Some labelled cases alone, and with all others unlabelled.

    .venv/bin/python scripts/benchmark/few_labels.py DATASET [--labelled 16] [--seeds 5] [--epochs 40] [--json FILE]

DATASET is the hippocampus task of the Medical Segmentation Decathlon with `splits.json`. For each seed, labelled cases
are drawn from those that fold 0 trains on; the others of these are unlabelled. What fold 0 holds out is scored. Bundles
are planned on the labelled cases alone, and all ways are trained for the same number of steps.
"""

import json
from pathlib import Path

import numpy as np

from comparison import Way, compare, make_parser, read_cases, write_dataset


def main() -> None:
    parser = make_parser(__doc__, seeds=5)
    parser.add_argument("--labelled", type=int, default=16, help="number of cases whose label maps are used")
    parser.add_argument("--all", action="store_true", help="with the label maps of all, too: what could be reached")
    options = parser.parse_args()
    training, held_out = read_cases(options.dataset)
    if not 2 <= options.labelled < len(training):
        parser.error(f"labelled: expected 2 to {len(training) - 1}, got {options.labelled}")

    def ways(seed: int, place: Path) -> list[Way]:
        order = np.random.default_rng(seed).permutation(len(training))
        labelled, unlabelled = (
            [training[index] for index in sorted(part)]
            for part in (order[: options.labelled], order[options.labelled :])
        )
        few = write_dataset(place / "few", options.dataset, labelled, held_out)
        others = write_dataset(place / "others", options.dataset, unlabelled, [])
        found = [Way("labelled alone", few), Way(f"and {len(unlabelled)} unlabelled", few, others / "imagesTr")]
        if options.all:
            found.append(Way("all labelled", write_dataset(place / "all", options.dataset, training, held_out)))
        return found

    names = json.loads((options.dataset / "dataset.json").read_text())["labels"]
    compare(options, list(names.values())[1:], ways)


if __name__ == "__main__":
    main()
