"""Whether a labelled dataset can be trained from."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from tomoseg.core.errors import DatasetError, UsageError
from tomoseg.core.notes import take_note
from tomoseg.data.datasets import LABEL_ENDINGS, Dataset, Pair
from tomoseg.data.formats import NIFTI_SUFFIXES
from tomoseg.data.inspection.dataset import CaseFindings, inspect_dataset
from tomoseg.data.inspection.inspection_report import InspectionReport
from tomoseg.data.inspection.scan import Inspector, OnScan
from tomoseg.data.inspection.tables import list_errors, list_notes
from tomoseg.data.labels import is_ignored

MIN_CASES = 2  # one to train on, one to look at


def trainable_labels(dataset: Dataset) -> dict[int, str]:
    """Return the names of the labels by value, without nnU-Net's ignore label."""
    return {value: name for value, name in dataset.label_names.items() if not is_ignored(name)}


def require_trainable(dataset: Dataset, *, scans: bool = True, on_scan: OnScan | None = None) -> Dataset:
    """Return the dataset with a name for each label and what its voxels hold, if it has no errors for a training.

    Takes notes on its label maps.

    Args:
        dataset: what `read_dataset` found.
        scans: refuse a dataset of label maps only.
        on_scan: called with the path of each scan before it is read.

    Raises:
        DatasetError: the dataset has errors: a missing partner, grids that differ, labels that are not declared or
            that no case has, NaN, too few cases. One line each.
    """
    if scans and not dataset.has_scans:
        raise DatasetError(
            f"{dataset.root}: expected scans, got label maps only. Plan a bundle with `tomoseg plan --synthetic 1`, "
            "which trains on images drawn from label maps"
        )
    training = [pair for pair in dataset.pairs if pair.part == "training"]
    if len(training) < MIN_CASES:
        raise DatasetError(
            f"{dataset.root}: expected at least {MIN_CASES} cases with a label map, got {len(training)}. Add cases"
        )
    if not dataset.label_names:  # the files name them
        found = inspect_dataset(dataset, Inspector(voxels=True)).labels
        dataset = replace(dataset, label_names={label.value: f"label_{label.value}" for label in found})
    findings = inspect_dataset(dataset, Inspector(True, on_scan))
    errors = list_errors(InspectionReport(True, datasets=(findings,)))
    names = dataset.label_names
    pairs = tuple(_with_voxels(pair, case, names) for pair, case in zip(dataset.pairs, findings.cases, strict=False))
    errors += [
        f"{dataset.root}: no case has the label {label}; leave out its name, or add cases that have it"
        for label in missing_labels(dataset, pairs)
    ]
    if not findings.labels:
        errors.append(f"{dataset.root}: expected label maps with values above 0, got none")
    if errors:
        raise DatasetError(*errors)
    labels = replace(findings, notes=(), cases=tuple(replace(case, image=None) for case in findings.cases))
    for note in (*findings.notes, *list_notes(InspectionReport(True, datasets=(labels,)))):
        take_note(note)
    return replace(dataset, pairs=pairs)


def _with_voxels(pair: Pair, case: CaseFindings, names: dict[int, str]) -> Pair:
    """Return a pair with the values and the hash of its voxels."""
    scan, label = case.scans[0].voxels, case.scans[-1].voxels
    found = [value for value in (label and label.values) or () if value > 0]
    drawn = (value for value in found if pair.annotated is None or names.get(value) in pair.annotated)
    return replace(pair, values=frozenset(drawn), sha256=scan.sha256 if scan else "")


def missing_labels(dataset: Dataset, pairs: Iterable[Pair]) -> list[str]:
    """Return the labels of a dataset that are drawn in none of these cases, each with its value."""
    drawn = {value for pair in pairs for value in pair.values}
    return [f"{name} ({value})" for value, name in trainable_labels(dataset).items() if value not in drawn]


def find_copies(trained: Iterable[Pair], held_out: Iterable[Pair]) -> list[str]:
    """Return a line for each held-out case whose scan is that of a case that is trained on."""
    known = {pair.sha256: pair for pair in trained}
    return [
        f"{pair.image}: has the same voxels as {known[pair.sha256].image}. Scores of a case are too good where its "
        "copy is trained on: remove one of them"
        for pair in held_out
        if known.get(pair.sha256, pair) is not pair
    ]


def require_negatives(
    folder: Path, modality: str | None, channels: int = 1, *, on_scan: OnScan | None = None
) -> tuple[Path, ...]:
    """Return the NIfTI scans of a folder without any of the labels, if they have no errors for a training.

    Label maps, by their names, and folders in it are left out.

    Args:
        folder: the folder.
        modality: of the scans that they stand beside.
        channels: how many each file has.
        on_scan: called with the path of each scan before it is read.

    Raises:
        UsageError: there is no such folder, or no scan in it.
        DatasetError: one of them cannot be read, or holds NaN. One line each.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder of scans without any of the labels, got no such folder")
    endings = tuple(ending + suffix for ending in LABEL_ENDINGS for suffix in NIFTI_SUFFIXES)
    scans = sorted(
        path
        for path in folder.iterdir()
        if path.name.endswith(NIFTI_SUFFIXES) and not path.name.endswith(endings) and not path.name.startswith(".")
    )
    if not scans:
        raise UsageError(
            f"{folder}: expected scans without any of the labels ({', '.join(NIFTI_SUFFIXES)}), got none; "
            "only the folder itself is searched"
        )
    inspector = Inspector(voxels=True, on_scan=on_scan)
    findings = [found for path in scans for found in inspector.look_at(path, "image", modality, channels=channels)]
    errors = list_errors(InspectionReport(voxels=True, scans=tuple(findings)))
    errors += [
        f"{found.path}: expected {channels} channels in one 4D NIfTI file, got one"
        for found in findings
        if found.readable and found.channels != channels
    ]
    if errors:
        raise DatasetError(*errors)
    return tuple(scans)
