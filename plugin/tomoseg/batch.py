"""Many scans, one after the other; one that fails does not stop the rest."""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from tomoseg.errors import OutputError, TomosegError, UsageError, one_line
from tomoseg.files import sha256
from tomoseg.preview import require_matplotlib, save_preview
from tomoseg.report import CaseReport, LabelVolume, Report
from tomoseg.segmentation import Segmentation
from tomoseg.segmenter import Segmenter
from tomoseg.volumes import VOLUME_SUFFIXES, find_volumes, read_volume, strip_suffix

# a scan's path, the number of its windows that are done, and of all of them
OnWindow = Callable[[Path, int, int], None]


@dataclass(frozen=True)
class Case:
    """One scan and where its label map goes."""

    input: Path
    output: Path

    @property
    def picture(self) -> Path:
        """The preview's file."""
        return self.output.with_name(f"{strip_suffix(self.output.name)}.png")

    @property
    def entropy(self) -> Path:
        """The entropy map's file."""
        return self.output.with_name(f"{strip_suffix(self.output.name)}_entropy.nii.gz")


def is_single_file(output: Path) -> bool:
    """Tell whether an output names one label map, and not a folder for any number of them."""
    return output.name.lower().endswith(VOLUME_SUFFIXES) and not output.is_dir()


def plan_cases(inputs: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]) -> list[Case]:
    """Decide which file is written for which scan.

    Args:
        inputs: files, folders (searched for NIfTI files, the tree is kept) and glob patterns.
        output: a file name that ends in .nii.gz or .nii for a single scan, else a folder.

    Raises:
        UsageError: there is no scan, two scans would be written to one file, or the output is an input.
    """
    target = Path(output)
    folders, scans = [], []
    expanded = _expand(inputs)
    for given in expanded:
        if given.is_dir():
            if given.resolve() == target.resolve():
                raise UsageError(f"{target}: the output folder is the input folder; choose another with -o")
            folders.append(given)
            scans.extend(find_volumes(given, leave_out=target))
        else:
            scans.append(given)
    if not scans:
        raise UsageError(f"{', '.join(map(str, folders))}: no NIfTI file (.nii.gz or .nii) in there")
    scans = list(dict.fromkeys(scans))
    if is_single_file(target):
        if len(scans) > 1:
            raise UsageError(f"{target}: {len(scans)} scans cannot go into one file; give a folder with -o")
        cases = [Case(scans[0], target)]
    else:
        base = folders[0] if folders == expanded and len(folders) == 1 else _common_parent(scans)
        cases = [Case(scan, _below(target, scan, base)) for scan in scans]
    _refuse_clashes(cases)
    return cases


def segment_batch(
    segmenter: Segmenter,
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    preview: bool = False,
    on_case: Callable[[CaseReport], None] | None = None,
    on_window: OnWindow | None = None,
) -> Report:
    """Segment every scan and write its label map; a scan that fails is recorded and the rest go on.

    Args:
        segmenter: the loaded bundle.
        inputs: files, folders and glob patterns, as for `plan_cases`.
        output: a file name for one scan, else a folder.
        overwrite: replace label maps that are there already; without it they are kept and the scan counts as failed.
        preview: write a PNG beside each label map.
        on_case: called after each scan.
        on_window: called with a scan's path, the number of its windows that are done, and of all of them.

    Raises:
        UsageError: as for `plan_cases`.
        MissingExtraError: a preview was asked for and matplotlib is not installed.
    """
    cases = plan_cases(inputs, output)
    return segment_cases(segmenter, cases, overwrite=overwrite, preview=preview, on_case=on_case, on_window=on_window)


def segment_cases(
    segmenter: Segmenter,
    cases: Sequence[Case],
    *,
    overwrite: bool = False,
    preview: bool = False,
    on_case: Callable[[CaseReport], None] | None = None,
    on_window: OnWindow | None = None,
) -> Report:
    """Segment scans whose outputs are planned already; otherwise as `segment_batch`."""
    if preview:
        require_matplotlib()
    bundle = segmenter.bundle
    report = Report(
        bundle={
            "name": bundle.name,
            "version": bundle.version,
            "config_sha256": sha256(bundle.inference_config),
            "checkpoint_sha256": " ".join(segmenter.checkpoint_sha256),
        },
        device=segmenter.device,
        backend=segmenter.backend,
        precision=segmenter.precision,
        options={**asdict(segmenter.options), "overwrite": overwrite, "preview": preview},
    )
    if segmenter.options.uncertainty:
        _refuse_entropy_clashes(cases)
    for case in cases:
        progress = None if on_window is None else partial(on_window, case.input)
        record = _segment_case(segmenter, case, overwrite, preview, progress)
        report.cases.append(record)
        if on_case is not None:
            on_case(record)
    report.backend = segmenter.backend  # known for sure once a network was compiled
    return report


def _segment_case(
    segmenter: Segmenter, case: Case, overwrite: bool, preview: bool, on_window: Callable[[int, int], None] | None
) -> CaseReport:
    try:
        for path in (case.output, *([case.entropy] if segmenter.options.uncertainty else [])):
            if path.exists() and not overwrite:
                raise OutputError(f"{path}: is there already; pass --overwrite to replace it")
        result = segmenter(case.input, on_window)
        start = time.perf_counter()
        if result.entropy is not None:
            result.save_entropy(case.entropy)
        result.save(case.output)
        remarks = [*result.remarks, *([_save_picture(case, result)] if preview else [])]
        writing = time.perf_counter() - start
    except TomosegError as error:
        reason = one_line(error)
    except MemoryError as error:
        reason = f"{case.input}: not enough memory for this scan: {one_line(error)}"
    except Exception as error:  # an error of ours or of a library: the other scans still matter
        reason = f"{case.input}: unexpected {type(error).__name__}: {one_line(error)}"
    else:
        return CaseReport(
            input=str(case.input),
            output=str(case.output),
            status="done",
            remarks=tuple(filter(None, remarks)),
            seconds={**result.seconds, "writing": writing},
            windows=result.windows,
            skipped_windows=result.skipped_windows,
            memory=result.memory,
            labels=_measure(result),
        )
    return CaseReport(input=str(case.input), output=None, status="failed", reason=reason)


def _save_picture(case: Case, result: Segmentation) -> str:
    """Write the preview; return why there is none, for the label map is good without it."""
    labels = result.labels
    if result.overlapping:  # the last of several labels is drawn
        labels = np.zeros(result.grid.shape, np.uint16)
        for value, mask in enumerate(result.labels, 1):
            labels[mask > 0] = value
    try:
        scan = read_volume(case.input)  # once more: while the network ran, its memory was of better use
        save_preview(case.picture, scan.array, labels, result.grid, result.names, case.input.name)
    except Exception as error:  # whatever matplotlib raises, the label map is written
        return f"no preview: {one_line(error)}"
    return ""


def _measure(result: Segmentation) -> tuple[LabelVolume, ...]:
    return tuple(
        LabelVolume(value, result.names[value], count, count * result.grid.voxel_volume_ml)
        for value, count in result.voxel_counts.items()
    )


def _expand(inputs: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """Resolve glob patterns that no shell resolved; a name that exists is never a pattern."""
    paths: list[Path] = []
    for name in inputs:
        given = os.fspath(name)
        matches: list[str] = []
        if glob.has_magic(given) and not Path(given).exists():
            matches = sorted(glob.glob(given, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
        paths.extend(map(Path, matches or [given]))
    return paths


def _common_parent(scans: Sequence[Path]) -> Path:
    try:
        return Path(os.path.commonpath([scan.absolute().parent for scan in scans]))
    except ValueError:  # several drives
        return Path()


def _below(target: Path, scan: Path, base: Path) -> Path:
    try:
        tree = scan.absolute().parent.relative_to(base.absolute())
    except ValueError:
        tree = Path()
    return target / tree / f"{strip_suffix(scan.name)}_seg.nii.gz"


def _refuse_clashes(cases: Sequence[Case]) -> None:
    writers: dict[Path, Path] = {}
    sources = {case.input.resolve() for case in cases}
    for case in cases:
        place = case.output.resolve()
        if place in writers:
            raise UsageError(
                f"{case.output}: both {writers[place]} and {case.input} would be written there; rename one"
            )
        if place in sources:
            raise UsageError(f"{case.output}: is an input, too; choose another place with -o")
        writers[place] = case.input


def _refuse_entropy_clashes(cases: Sequence[Case]) -> None:
    taken = {path.resolve() for case in cases for path in (case.input, case.output)}
    for case in cases:
        if case.entropy.resolve() in taken:
            raise UsageError(f"{case.entropy}: the entropy would be written over it; choose another place with -o")
