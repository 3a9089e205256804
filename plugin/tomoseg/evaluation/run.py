"""All cases, one after the other, and what is written of them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from tomoseg.core.threads import choose_threads
from tomoseg.data.labels import find_ignored, is_ignored
from tomoseg.evaluation.case import CaseScores, score_case
from tomoseg.evaluation.page import write_page
from tomoseg.evaluation.pairing import Match, case_name, match_cases
from tomoseg.evaluation.protocol import Protocol, make_protocol, match_values
from tomoseg.evaluation.results import Evaluation
from tomoseg.evaluation.summary import summarise
from tomoseg.evaluation.worst import draw_worst, find_images
from tomoseg.report.environment import utc_now

# told each case when it is scored, and how many there are
OnCase = Callable[[CaseScores, int], None]
WORST_CASES = 6  # cases that are shown
MAX_CASES_AT_ONCE = 4  # cases, if nobody says: a pair of whole bodies takes 1 GB
MAX_LABEL_VALUES = 255  # values, of which label maps rarely have more
_Future: TypeAlias = "Future[CaseScores]"


@dataclass(frozen=True)
class Rules:
    """How to compare, as a user says it; see `make_protocol`.

    Args:
        names: of the labels by value; None for what a dataset.json says, or whatever occurs.
        tolerances: of the normalised surface distance.
        ignore: value of the voxels that are not looked at; None for what a dataset.json calls "ignore".
        within_slices: names of labels that are scored between the first and last slice of their reference only.
        planned: the value that each label had in the dataset that its bundle was planned for, by its own; for
            references whose labels nobody names.
    """

    names: Mapping[int, str] | None = None
    tolerances: Sequence[str] = ()
    ignore: int | None = None
    within_slices: Sequence[str] = ()
    planned: Mapping[int, int] = field(default_factory=dict)


def evaluate(
    predictions: str | os.PathLike[str],
    references: str | os.PathLike[str],
    rules: Rules | None = None,
    *,
    only_predicted: bool = False,
    threads: int | None = None,
    on_case: OnCase | None = None,
) -> Evaluation:
    """Compare predicted label maps with their references, case by case.

    A case that cannot be scored is recorded, and the others go on. So many pairs of label maps as there are threads
    are in memory at a time.

    Args:
        predictions: a label map, or a folder of them.
        references: a label map, a folder of them, or a labelled dataset.
        rules: what is scored, and how.
        only_predicted: leave out references that have no prediction; without it, each of them is a case that failed.
        threads: cases that are compared at once; None as in `Options`, at most 4.
        on_case: called after each case.

    Raises:
        UsageError: a side is missing or empty, nothing fits together, or the rules name a label that there is not.
    """
    at_once = choose_threads(threads) if threads is not None else min(choose_threads(None), MAX_CASES_AT_ONCE)
    started = utc_now()
    rules = rules or Rules()
    ours, theirs = Path(predictions), Path(references)
    found = match_cases(ours, theirs)
    names = found.label_names if rules.names is None else rules.names
    values = match_values(found.label_names, names) if found.label_names else _unmistakable(rules.planned, names)
    ignore = find_ignored(found.label_names) if rules.ignore is None else rules.ignore
    ignore = values.get(ignore, ignore) if ignore is not None else None
    protocol = make_protocol(names, rules.tolerances, ignore, rules.within_slices, values)
    pairs = [_renumbered(pair, values) for pair in found.pairs] if values else found.pairs
    lonely = [] if only_predicted else [_without_prediction(path, ours) for path in found.lonely_references]
    lonely += [_without_reference(path, theirs) for path in found.lonely_predictions]
    total = len(pairs) + len(lonely)
    cases = []
    for case in (*_score(pairs, protocol, at_once), *lonely):
        cases.append(case)
        if on_case is not None:
            on_case(case, total)
    return Evaluation(
        predictions=ours,
        references=theirs,
        protocol=protocol,
        cases=tuple(sorted(cases, key=lambda case: case.name)),
        summaries=tuple(summarise(cases, protocol)),
        remarks=(*found.remarks, *_tell_renumbered(names, found.label_names, values), *_tell_apart(cases)),
        left_out=len(found.lonely_references) if only_predicted else 0,
        started=started,
        finished=utc_now(),
    )


def save_evaluation(
    evaluation: Evaluation, folder: Path, *, images: Path | None = None, worst: int = WORST_CASES
) -> None:
    """Write evaluation.json, metrics.csv, summary.csv and evaluation.html.

    Args:
        evaluation: what was found.
        folder: where they go.
        images: a folder of scans, for the pictures of the worst cases; those of a dataset are known.
        worst: how many cases to show.

    Raises:
        OutputError: one of them cannot be written.
        UsageError: there is no scan among the images.
    """
    scans = {} if images is None else find_images(images)
    evaluation.save(folder / "evaluation.json")
    evaluation.save_cases(folder / "metrics.csv")
    evaluation.save_summary(folder / "summary.csv")
    shown = draw_worst(evaluation, worst, scans)
    write_page(evaluation, shown, folder / "evaluation.html")


def _score(pairs: Sequence[Match], protocol: Protocol, threads: int) -> Iterator[CaseScores]:
    """Yield the scores of each pair, in order."""
    if threads == 1:
        yield from (score_case(pair, protocol) for pair in pairs)
        return
    with ThreadPoolExecutor(threads, "tomoseg-evaluate") as pool:
        waiting, running = deque(pairs), deque[_Future]()
        try:
            while waiting or running:
                while waiting and len(running) < threads:
                    running.append(pool.submit(score_case, waiting.popleft(), protocol))
                yield running.popleft().result()
        except BaseException:
            for future in running:
                future.cancel()
            raise


def _renumbered(pair: Match, values: Mapping[int, int]) -> Match:
    if pair.annotated is None:
        return pair
    return replace(pair, annotated=frozenset(values.get(value, value) for value in pair.annotated))


def _unmistakable(planned: Mapping[int, int], names: Mapping[int, str]) -> dict[int, int]:
    """Return what values of references become, where none of them could be one of ours as it is."""
    changed = {value: label for label, value in planned.items() if value != label}
    return {} if changed.keys() & (names.keys() | planned.keys()) else changed


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
    told = []
    moved = [
        f"{ours[label]} is {label}, and {value} in the references" for value, label in values.items() if label in ours
    ]
    if moved:
        told.append(f"labels have other values in the references: {'; '.join(moved)}")
    strange = [
        f"{value} is {theirs[value]} there, not {ours[value]}"
        for value, label in values.items()
        if label not in ours and value in ours and not is_ignored(theirs.get(value))
    ]
    if strange:
        told.append(f"labels of the references that are not scored, for their names are others: {'; '.join(strange)}")
    return told


def _without_prediction(reference: Path, predictions: Path) -> CaseScores:
    reason = f"{reference}: expected a prediction in {predictions}, got none; --only-predicted leaves such cases out"
    return CaseScores(case_name(reference), None, reference, "failed", reason)


def _without_reference(prediction: Path, references: Path) -> CaseScores:
    reason = f"{prediction}: expected a reference in {references}, got none"
    return CaseScores(case_name(prediction), prediction, None, "failed", reason)
