"""Write the output files of a scan atomically, with a manifest that records their hashes."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tomoseg.batch.cases import Case
from tomoseg.batch.manifest import Manifest, read_manifest
from tomoseg.batch.options import OutputOptions
from tomoseg.bundle.confidence import ExpectedDice
from tomoseg.core.errors import OutputError, SchemaVersionError, VolumeError, one_line
from tomoseg.core.files import real_path, sha256, staging_folder
from tomoseg.core.notes import collect_notes
from tomoseg.core.run_stats import RunStats
from tomoseg.data.channels import channels_of
from tomoseg.data.label_tables import write_label_tables
from tomoseg.data.labels import file_names
from tomoseg.data.read import read_volume
from tomoseg.inference.segmentation import Segmentation
from tomoseg.report.records import CaseReport, LabelVolume
from tomoseg.report.statistics import measure_labels


@dataclass(frozen=True)
class OutputWriter:
    """Write the output files of a scan.

    Attributes:
        run: SHA-256 of all besides the scan that decides what comes of it.
        options: which files, and which are replaced.
        uncertainty: there is an entropy map.
        channels: how many each scan has.
    """

    run: str
    options: OutputOptions = field(default_factory=OutputOptions)
    uncertainty: bool = False
    channels: int = 1

    def outputs(self, case: Case) -> list[Path]:
        """Return the files without which the case is not done."""
        labels = [case.output, *case.output_type.further_files(case.output)]
        return [*([] if self.options.statistics_only else labels), *([case.entropy] if self.uncertainty else [])]

    def find_existing(self, case: Case, hash_scan: Callable[[], str]) -> CaseReport | None:
        """Return the report of an earlier run that made just this, if its manifest proves it.

        Args:
            case: the scan and its files.
            hash_scan: returns the SHA-256 of the scan; called where there is a manifest.

        Raises:
            OutputError: there are files that no manifest accounts for, and they are not to be replaced.
        """
        _require_inside(case)
        if self.options.overwrite:
            return None
        manifest = read_manifest(case.manifest) if case.resumable else None
        outputs, folder = self.outputs(case), case.output.parent
        scan = "" if manifest is None else hash_scan()
        manifest = manifest if scan else None
        asked = [*outputs, *([case.picture] if self.options.preview else [])]
        if manifest is not None and self.options.split:
            names = file_names({row.label: row.name for row in manifest.case.labels})
            asked += [case.split_folder / f"{name}.nii.gz" for name in names.values()]
        if manifest is not None and manifest.proves(scan, self.run, folder, asked):
            return _skipped(manifest, case)
        split = case.split_folder.glob("*.nii.gz") if self.options.split else ()
        for path in filter(Path.exists, dict.fromkeys((case.output, *outputs, *split))):
            # files of an interrupted run are replaced; other files are not
            if manifest is None or not manifest.made(folder, path):
                raise OutputError(f"{path}: exists. Pass --overwrite to replace it")
            if self.options.follow and manifest.scan == scan and manifest.run != self.run:
                note = "made by another bundle, other weights or other options; kept"
                return _skipped(manifest, case, note)
            if (manifest.scan, manifest.run) != (scan, self.run) and not self.options.follow:
                changed = "the scan" if manifest.scan != scan else "the bundle, its weights or the options"
                raise OutputError(f"{path}: exists, and {changed} changed since. Pass --overwrite to replace it")
        return None

    def write(self, case: Case, result: Segmentation, scan: str) -> CaseReport:
        """Write what belongs to a case and return what the report says of it.

        All files are written beside their places first, then the manifest with their hashes; then all take their names.
        A run that is killed leaves files that the manifest proves, or files that the next run makes again.

        Args:
            case: the scan and its files.
            result: its labels.
            scan: SHA-256 of the scan.

        Raises:
            OutputError: a file cannot be written.
        """
        start = time.perf_counter()
        _require_inside(case)
        # beside the writing, the scan is read again where the report measures it
        with staging_folder(case.output.parent) as folder, ThreadPoolExecutor(1, "tomoseg-read-again") as pool:
            again = pool.submit(copy_context().run, self._read_again, case)  # with the limits that hold here
            staged = [folder / path.name for path in self.outputs(case)]
            label_map = folder / case.output.name
            with collect_notes() as notes:
                if label_map in staged:
                    named = replace(result, origin=self.run, earlier=case.earlier, replaces=case.replaces)
                    case.output_type.write(label_map, named)
            if self.uncertainty:
                result.save_entropy(folder / case.entropy.name)
            if label_map in staged and case.output_type.name == "nifti":
                staged += write_label_tables(label_map, result.label_table)
            if self.options.split:
                staged += result.save_each(folder / case.split_folder.name)
            stats = result.stats + RunStats(notes=tuple(notes))
            image, why = again.result()
            preview = None
            if self.options.preview:
                picture = folder / case.picture.name
                if image is not None:
                    why = self._draw(picture, case, result, image)
                if why:
                    stats += RunStats(notes=(f"no preview: {why}",))
                else:
                    staged.append(picture)
                    preview = str(case.picture)
            report = CaseReport(
                str(case.input), str(case.output) if label_map in staged else None, "done",
                series=result.series.uid if result.series else None,
                study=result.series.description if result.series else "", stats=stats,
                warnings=result.warnings, location=result.location, out_of_domain=result.out_of_domain, preview=preview,
                voxels=math.prod(result.grid.shape), labels=_measure(result, image, self.options.measure),
            )  # fmt: skip
            report = case.hide(report)
            earlier = None
            with suppress(SchemaVersionError):  # it is replaced
                earlier = read_manifest(case.manifest) if case.resumable else None
            hashes = {path.relative_to(folder).as_posix(): sha256(path) for path in staged}
            if case.resumable:
                Manifest(scan, self.run, hashes, report).save(case.manifest)
            for place in hashes:
                target = case.output.parent / place
                target.parent.mkdir(exist_ok=True)
                (folder / place).replace(target)
            if earlier is not None:  # of labels that this run has not
                for path in case.split_folder.glob("*.nii.gz"):
                    if f"{path.parent.name}/{path.name}" not in hashes and earlier.made(case.output.parent, path):
                        path.unlink()
        return replace(report, stats=stats + RunStats({"writing": time.perf_counter() - start}))

    def _draw(self, path: Path, case: Case, result: Segmentation, image: NDArray[np.float32]) -> str:
        """Draw the preview; return why there is none."""
        try:
            result.save_preview(path, image, title=case.name, neurological=self.options.neurological)
        except Exception as error:  # matplotlib; the labels are good without the picture
            return one_line(error)
        return ""

    def _read_again(self, case: Case) -> tuple[NDArray[np.float32] | None, str]:
        """Return the first channel of the scan, (I, J, K), or the reason why it cannot be read; None if unneeded."""
        if not (self.options.measure or self.options.preview):
            return None, ""
        try:
            return case.source.read(self.channels, allow_non_finite=True).array, ""
        except Exception as error:  # the libraries that read files; the labels are good without the scan
            return None, one_line(error)


def _require_inside(case: Case) -> None:
    """Raise OutputError if a link below the folder of all results leads out of it."""
    for folder in (case.output.parent, case.split_folder):
        if case.folder is not None and not real_path(folder).is_relative_to(real_path(case.folder)):
            raise OutputError(f"{folder}: a link leads out of {case.folder}. Remove it.")


def _skipped(manifest: Manifest, case: Case, *notes: str) -> CaseReport:
    preview = str(case.picture) if manifest.made(case.output.parent, case.picture) else None
    labels, output = manifest.case.labels, None
    if case.output.name in manifest.outputs and case.output.is_file():
        output = str(case.output)
        try:
            labels = _count_again(case, labels)
        except VolumeError:
            if case.output_type.name == "nifti":  # the others may be of a part of the grid, contours, or layers
                raise
            notes = (*notes, "its volumes are those that an earlier run wrote down")
    return replace(
        manifest.case, input=str(case.input), output=output, preview=preview, status="skipped",
        stats=manifest.case.stats + RunStats(notes=notes), labels=labels,
    )  # fmt: skip


def _count_again(case: Case, rows: Sequence[LabelVolume]) -> tuple[LabelVolume, ...]:
    """Return what an earlier run measured, with volumes and places counted in the label map that is there.

    Raises:
        VolumeError: the label map cannot be read as one volume.
    """
    if case.output_type.of_series:
        raise VolumeError(f"{case.output}: has no grid of its own")
    volume = read_volume(case.output, channels=channels_of(case.output) or 1)
    labels = np.rint(volume.array).astype(np.uint16)
    if volume.other_channels:
        labels = np.stack([channel > 0.5 for channel in volume.channels]).astype(np.uint16)
    measured = measure_labels(labels, {row.label: row.name for row in rows}, volume.grid.voxel_volume_ml)
    found = {one.label: one for one in measured}
    again = []
    for row in rows:
        one = found[row.label]
        unchanged = one.voxels == row.voxels
        again.append(
            replace(row, first=one.first, stop=one.stop, touches_border=one.touches_border) if unchanged else one
        )
    return tuple(again)


def _measure(result: Segmentation, image: NDArray[np.float32] | None, all_measures: bool) -> tuple[LabelVolume, ...]:
    """Return the volume of each label, and all other measures if they are asked for."""
    names, voxel_ml = result.names, result.grid.voxel_volume_ml
    if all_measures:
        rows = measure_labels(result.labels, names, voxel_ml, image)
    else:
        counts = result.voxel_counts.items()
        rows = tuple(LabelVolume(value, names[value], count, count * voxel_ml) for value, count in counts)
    return tuple(_with_expected_dice(row, result.expected_dice.get(row.label)) for row in rows)


def _with_expected_dice(row: LabelVolume, known: ExpectedDice | None) -> LabelVolume:
    if known is None:
        return row
    return replace(row, expected_dice=known.dice, expected_dice_low=known.low, presence=known.presence)
