"""Segment many scans and write their reports: the function behind `tomoseg segment`."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tomoseg.batch.cases import plan_cases, write_key_table
from tomoseg.batch.local import LocalExecutor
from tomoseg.batch.options import ExecutorOptions, OutputOptions
from tomoseg.batch.progress import Progress
from tomoseg.batch.run import BatchInterruptedError, Executor, run_batch
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.registry import find_bundle
from tomoseg.core.errors import OutputError, UsageError, one_line
from tomoseg.core.notes import collect_notes
from tomoseg.core.pseudonyms import load_key
from tomoseg.core.reading import read_with
from tomoseg.data.output_types import names_output_file
from tomoseg.inference.segmenter import Segmenter
from tomoseg.report.html.document import save_reports
from tomoseg.report.records import Report


class ReportsError(OutputError):
    """The reports of a batch cannot be written; the label maps are.

    Attributes:
        report: what the batch gave.
    """

    def __init__(self, message: str, report: Report) -> None:
        super().__init__(message)
        self.report = report


def segment_batch(
    segmenter: Segmenter | str | os.PathLike[str],
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    output_type: str | None = None,
    series: str | None = None,
    phase: str | None = None,
    all_files: bool = False,
    options: OutputOptions | None = None,
    report: str | os.PathLike[str] | None = None,
    statistics: bool = False,
    run_options: RunOptions | None = None,
    executor: ExecutorOptions | None = None,
    progress: Progress | None = None,
) -> Report:
    """Segment every scan, write its label map in its own grid, and report; a failed scan does not stop the others.

    In a folder, the label maps keep the tree of the inputs, and report.json, statistics.csv and report.html lie beside
    them. Scans that an earlier run has finished are skipped.

    Args:
        segmenter: the loaded bundle; or the name or folder of a bundle, which is loaded with the run options.
        inputs: files, DICOM folders, folders of scans, and glob patterns.
        output: a file name for one scan, else a folder.
        output_type: format of the label maps, one of `OutputTypeName`; by default what the output's name
            ends in, and NIfTI for a folder.
        series: only DICOM series with this SeriesInstanceUID, or with a description, which may be a pattern; "all" for
            scans of any kind and modality. By default those of the bundle's modality, if there are any.
        phase: "KEYWORD=VALUE" of the images to take where a DICOM series has several at each place.
        all_files: segment label maps that lie beside their scans, too.
        options: which files are written; without `overwrite`, existing ones are kept and the scan counts as failed;
            all labels are measured where statistics are written.
        report: file for the JSON report; by default report.json where the output is a folder, else none.
        statistics: write statistics.csv beside a single label map, too.
        run_options: how the bundle is run, if it is not loaded yet.
        executor: in this process, or on Ray's workers.
        progress: follows the batch.

    Returns:
        The report: for each scan its status, volumes in mL, seconds of each stage and bytes of memory.

    Raises:
        UsageError: there are no such inputs, or the output cannot be.
        BundleError: the bundle's config or weights cannot be used.
        MissingPackageError: what the output type or the executor needs is not installed.
        ReportsError: the label maps are written, and the reports cannot be.
        BatchInterruptedError: Ctrl-C; it has the report of the finished cases, which is written, too.

    Example:
        >>> import tomoseg
        >>> report = tomoseg.segment_batch("hippocampus", ["scans"], "results")
        >>> [(case.status, [label.name for label in case.labels]) for case in report.cases]
        [('done', ['anterior', 'posterior'])]
    """
    loaded = None if isinstance(segmenter, str | os.PathLike) else segmenter
    bundle = find_bundle(segmenter) if isinstance(segmenter, str | os.PathLike) else segmenter.bundle
    target, json_file = Path(output), None if report is None else Path(report)
    is_file = names_output_file(target)
    if not is_file and target.exists() and not target.is_dir():
        raise UsageError(f"{target}: expected a folder or a name that ends in .nii.gz, got another file")
    if is_file and options is not None and options.statistics_only:
        raise UsageError(f"{target}: statistics only writes no label map. Give a folder with -o")
    options, place, progress = options or OutputOptions(), executor or ExecutorOptions(), progress or Progress()
    run_options = run_options or (loaded.options if loaded else RunOptions())
    with collect_notes() as notes, read_with(run_options.reading):
        cases = plan_cases(
            inputs, output, output_type, series, bundle.input_channels,
            modality=bundle.modality, phase=phase, all_files=all_files, key=load_key() if options.anonymous else None,
        )  # fmt: skip
    for note in [] if options.anonymous else notes:  # they name files
        progress.on_note(note)
    if options.key_table is not None:
        write_key_table(Path(options.key_table), cases)
    options = replace(options, measure=options.measure or statistics or json_file is not None or not is_file)
    runs: Executor
    if place.executor == "ray":
        from tomoseg.batch.ray.executor import RayExecutor

        runs = RayExecutor(bundle, run_options, options, address=place.ray_address, jobs=place.jobs)
    else:
        runs = LocalExecutor(loaded or Segmenter(bundle, run_options), options)

    def save(made: Report) -> None:
        try:
            if options.min_dice is not None:
                made.save_review((target.parent if is_file else target) / "review.csv", options.min_dice)
            if not is_file:
                save_reports(made, target, json_file)
                return
            if json_file is not None:
                made.save(json_file)
            if statistics:
                made.save_statistics(target.parent / "statistics.csv")
        except OutputError as error:
            raise ReportsError(one_line(error), made) from error

    try:
        made = run_batch(cases, runs, progress)
    except BatchInterruptedError as interruption:
        try:
            save(interruption.report)
        except ReportsError as error:
            raise interruption from error
        raise
    save(made)
    return made
