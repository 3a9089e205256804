"""Evaluate all cases of two folders, and write the results."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.registry import find_bundle
from tomoseg.core.errors import UsageError
from tomoseg.core.notes import collect_notes
from tomoseg.core.pseudonyms import load_key, pseudonym
from tomoseg.core.reading import current_read_options, set_read_options
from tomoseg.core.tables import write_csv
from tomoseg.core.threads import choose_threads
from tomoseg.data.label_mapping import LabelMapping
from tomoseg.data.label_names import parse_labels
from tomoseg.data.labels import find_ignored, is_ignored
from tomoseg.evaluation.case import CaseScores, hide_case, score_case
from tomoseg.evaluation.config import EvaluationConfig, make_protocol
from tomoseg.evaluation.label_map import layers_of
from tomoseg.evaluation.options import EvaluationOptions
from tomoseg.evaluation.page import write_page
from tomoseg.evaluation.pairing import CasePair, case_name, match_cases
from tomoseg.evaluation.results import Evaluation
from tomoseg.evaluation.summary import summarise
from tomoseg.evaluation.worst import draw_worst, find_images
from tomoseg.report.environment import utc_now

# called with each finished case and the number of cases
OnCase = Callable[[CaseScores, int], None]
MAX_CASES_AT_ONCE = 4  # cases, unless the user sets threads: a pair of whole bodies takes 1 GB
MAX_LABEL_VALUES = 255  # label maps rarely have more


def evaluate(
    predictions: str | os.PathLike[str],
    references: str | os.PathLike[str],
    options: EvaluationOptions | None = None,
    *,
    bundle: Bundle | str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    on_case: OnCase | None = None,
) -> Evaluation:
    """Compare predicted label maps with their references, case by case, as `tomoseg evaluate` does.

    A case that cannot be scored is recorded, and the others go on. At most `threads` pairs of label maps are in memory
    at a time.

    Args:
        predictions: a label map, or a folder of them.
        references: a label map, a folder of them, or a labelled dataset.
        options: options of the evaluation.
        bundle: its labels are scored where the options name none.
        output: folder for evaluation.json, metrics.csv, summary.csv and evaluation.html; None to write nothing.
        on_case: called with each case when it is scored, and the number of all cases.

    Returns:
        The scores of each case (lengths in mm, volumes in mL), and their means with 95 % intervals.

    Raises:
        UsageError: a side is missing or empty, nothing fits together, or the options name a label that there is not.
        OutputError: the results cannot be written.

    Example:
        >>> import tomoseg
        >>> found = tomoseg.evaluate("predictions/scan_seg.nii.gz", "references/scan.nii.gz", bundle="hippocampus")
        >>> {one.name: one.metrics["dice"].mean.value for one in found.summaries}
        {'anterior': 1.0, 'posterior': 1.0, 'all labels': 1.0}
    """
    options = options or EvaluationOptions()
    threads = choose_threads(options.threads)
    folder = None if output is None else Path(output)
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder}: expected a folder for the results, got a file")
    scans = {} if options.images is None else find_images(Path(options.images))
    own = None if bundle is None else find_bundle(bundle)
    if own is not None:
        options = replace(options, planned=own.dataset_values)
    if options.threads is None:
        threads = min(threads, MAX_CASES_AT_ONCE)
    key = load_key() if options.anonymous else None
    shown = None if on_case is None else lambda case, total: on_case(hide_case(case, key), total)
    found = _compare(Path(predictions), Path(references), options, own, threads, shown)
    if key is not None and options.key_table is not None:
        rows = ((pseudonym(key, case.name), case.prediction or "", case.reference or "") for case in found.cases)
        write_csv(Path(options.key_table), ("number", "prediction", "reference"), rows, private=True)
    if folder is not None:
        save_evaluation(found, folder, scans=scans, worst=options.worst, key=key)
    return _hide(found, key)


def _hide(found: Evaluation, key: bytes | None) -> Evaluation:
    """Return an evaluation without names and paths, if there is a key."""
    if key is None:
        return found
    cases = sorted((hide_case(case, key) for case in found.cases), key=lambda case: case.name)
    notes = tuple(note for note in found.notes if "/" not in note)
    return replace(
        found, predictions=Path("predictions"), references=Path("references"), cases=tuple(cases), notes=notes
    )


def _compare(
    ours: Path, theirs: Path, options: EvaluationOptions, bundle: Bundle | None, threads: int, on_case: OnCase | None
) -> Evaluation:
    started = utc_now()
    with collect_notes() as notes:
        found = match_cases(ours, theirs)
    asked = parse_labels(options.names) if isinstance(options.names, str) else options.names
    if asked is None and bundle is not None:
        overlapping = any(layers_of(pair.prediction) > 1 for pair in found.pairs[:1])
        # labels that may overlap are numbered from 1, that of the first channel included
        asked = {value + 1: name for value, name in bundle.channels.items()} if overlapping else bundle.labels
    names = found.label_names if asked is None else asked
    values = (
        LabelMapping.by_name(found.label_names, names) if found.label_names else _unmistakable(options.planned, names)
    )
    ignore = find_ignored(found.label_names) if options.ignore is None else options.ignore
    ignore = None if ignore is None else values.value(ignore)
    config = make_protocol(names, options.tolerances, ignore, options.within_slices, values)
    pairs = [
        pair if pair.annotated is None else replace(pair, annotated=frozenset(map(values.value, pair.annotated)))
        for pair in found.pairs
    ]
    lonely, places = [], ("the predictions", "the references") if options.anonymous else (ours, theirs)
    for path in () if options.only_predicted else found.lonely_references:
        reason = f"{path}: expected a prediction in {places[0]}, got none; --only-predicted leaves such cases out"
        lonely.append(CaseScores(case_name(path), None, path, "failed", reason))
    for path in found.lonely_predictions:
        reason = f"{path}: expected a reference in {places[1]}, got none"
        lonely.append(CaseScores(case_name(path), path, None, "failed", reason))
    total = len(pairs) + len(lonely)
    cases = []
    for case in chain(_score(pairs, config, threads), lonely):
        cases.append(case)
        if on_case is not None:
            on_case(case, total)
    return Evaluation(
        predictions=ours,
        references=theirs,
        config=config,
        cases=tuple(sorted(cases, key=lambda case: case.name)),
        summaries=tuple(summarise(cases, config)),
        notes=(*notes, *_tell_renumbered(names, found.label_names, values.values), *_tell_apart(cases)),
        left_out=len(found.lonely_references) if options.only_predicted else 0,
        started=started,
        finished=utc_now(),
    )


def save_evaluation(
    evaluation: Evaluation, folder: Path, *, scans: dict[str, Path] | None = None, worst: int, key: bytes | None = None
) -> None:
    """Write evaluation.json, metrics.csv, summary.csv and evaluation.html.

    Args:
        evaluation: result of the evaluation.
        folder: folder of the files.
        scans: by the names of cases, for the pictures of the worst; those that a dataset names are known.
        worst: how many cases to show.
        key: of the pseudonyms of the cases; None where their names may be shown.

    Raises:
        OutputError: one of them cannot be written.
    """
    shown = [replace(one, case=hide_case(one.case, key)) for one in draw_worst(evaluation, worst, scans or {})]
    evaluation = _hide(evaluation, key)
    evaluation.save(folder / "evaluation.json")
    evaluation.save_cases(folder / "metrics.csv")
    evaluation.save_summary(folder / "summary.csv")
    write_page(evaluation, shown, folder / "evaluation.html")


def _score(pairs: Sequence[CasePair], config: EvaluationConfig, threads: int) -> Iterator[CaseScores]:
    """Yield the scores of each pair, in order."""
    limits = current_read_options()
    with ThreadPoolExecutor(threads, "tomoseg-evaluate", set_read_options, (limits,)) as pool:
        yield from pool.map(score_case, pairs, repeat(config))


def _unmistakable(planned: Mapping[int, int], names: Mapping[int, str]) -> LabelMapping:
    """Return the mapping from reference to predicted values, empty if a reference value already is a predicted one."""
    changed = {value: label for label, value in planned.items() if value != label}
    return LabelMapping({} if changed.keys() & (names.keys() | planned.keys()) else changed)


def _tell_apart(cases: Sequence[CaseScores]) -> list[str]:
    scores = [scores for case in cases for scores in case.labels]
    values = {one.label for one in scores}
    if len(values) > MAX_LABEL_VALUES:
        return [f"{len(values)} different values were scored: are these label maps, and no scans?"]
    predicted = {one.label for one in scores if one.overlap.predicted}
    drawn = {one.label for one in scores if one.overlap.reference}
    if not predicted or predicted & drawn:
        return []
    ours, theirs = (", ".join(map(str, sorted(values))) or "none" for values in (predicted, drawn))
    return [
        f"none of the labels that were predicted ({ours}) occurs in the references ({theirs}): are both numbered alike?"
    ]


def _tell_renumbered(ours: Mapping[int, str], theirs: Mapping[int, str], values: Mapping[int, int]) -> list[str]:
    reported = []
    moved = [
        f"{ours[label]} is {label}, and {value} in the references" for value, label in values.items() if label in ours
    ]
    if moved:
        reported.append(f"labels have other values in the references: {'; '.join(moved)}")
    strange = [
        f"{value} is {theirs[value]} there, not {ours[value]}"
        for value, label in values.items()
        if label not in ours and value in ours and not is_ignored(theirs.get(value))
    ]
    if strange:
        reported.append(
            f"labels of the references that are not scored, for their names are others: {'; '.join(strange)}"
        )
    return reported
