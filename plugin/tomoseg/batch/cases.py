"""Which file is written for which scan."""

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tomoseg.core.errors import UsageError
from tomoseg.core.files import common_folder, real_path
from tomoseg.core.pseudonyms import hide_names, pseudonym
from tomoseg.core.tables import write_csv
from tomoseg.data.archive import is_archive
from tomoseg.data.channels import further_files
from tomoseg.data.discovery import ALL_SERIES, Scan, find_scans
from tomoseg.data.formats import SPLIT_ENDING, pair_of, strip_suffix
from tomoseg.data.labels import NOT_IN_FILE_NAMES
from tomoseg.data.masks import without_masks
from tomoseg.data.output_types import OutputType, choose_output_type, names_output_file
from tomoseg.data.scan_files import INDEX_NAME, is_dicom, is_volume
from tomoseg.data.segments import Predecessor
from tomoseg.data.source import ScanSource
from tomoseg.report.records import CaseReport

UID = re.compile(r"[0-9.]+")
OTHER_FORMATS = "NIfTI, NRRD or MetaImage file, and no "


@dataclass(frozen=True)
class Case:
    """One scan and where its labels go.

    Attributes:
        input: a file, or a folder with a DICOM series; where each channel has a file, the first.
        output: the file of the labels.
        output_type: its format.
        series: SeriesInstanceUID, where the input may hold several series.
        phase: "KEYWORD=VALUE" of the images, where the series may have several at each place.
        folder: the folder of all results, which no link below it may lead out of; None for a file that was named.
        resumable: whether a manifest proves that it is done; not for a single file that was named.
        other_channels: the files of the channels after the first.
        number: pseudonym of the scan in all outputs; empty where its path may be shown.
        earlier, replaces: for DICOM results, as in `LabelMap`.
    """

    input: Path
    output: Path
    output_type: OutputType
    series: str | None = None
    resumable: bool = False
    other_channels: tuple[Path, ...] = ()
    phase: str | None = None
    folder: Path | None = None
    number: str = ""
    earlier: int = 0
    replaces: tuple[Predecessor, ...] = ()

    @property
    def shown(self) -> str:
        """What reports call the scan."""
        return self.number or str(self.input)

    def hide(self, report: CaseReport) -> CaseReport:
        """Return a report without paths and UIDs of the scan, where it has a number."""
        if not self.number:
            return report
        stats = replace(report.stats, notes=tuple(map(self._without_names, report.stats.notes)))
        return replace(
            report, input=self.number, series=None, study="", stats=stats, reason=self._without_names(report.reason),
            warnings=tuple(map(self._without_names, report.warnings)),
        )  # fmt: skip

    def _without_names(self, text: str) -> str:
        return hide_names(text, self.number, (self.input, *self.other_channels), [self.series or ""])

    @property
    def source(self) -> ScanSource:
        """The scan on disk."""
        return ScanSource((self.input, *self.other_channels), self.series, self.phase)

    @property
    def name(self) -> str:
        """What people call the scan: the name of its file or folder."""
        return self.number or _name(self.input)

    @property
    def manifest(self) -> Path:
        """The hidden file that proves that the case is done."""
        return self.output.with_name(f".{self.output.name}.done.json")

    @property
    def picture(self) -> Path:
        """The preview's file."""
        return self.output.with_name(f"{strip_suffix(self.output.name)}.png")

    @property
    def split_folder(self) -> Path:
        """The folder of a file for each label."""
        return self.output.with_name(f"{strip_suffix(self.output.name)}{SPLIT_ENDING}")

    @property
    def entropy(self) -> Path:
        """The entropy map's file."""
        return self.output.with_name(f"{strip_suffix(self.output.name)}_entropy.nii.gz")


def plan_cases(
    inputs: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    output_type: str | None = None,
    series: str | None = None,
    channels: int = 1,
    *,
    modality: str = "",
    phase: str | None = None,
    all_files: bool = False,
    key: bytes | None = None,
) -> list[Case]:
    """Decide which file is written for which scan.

    Args:
        inputs: files, folders (searched for scans, the tree is kept) and glob patterns.
        output: a file name for a single scan, else a folder.
        output_type: one of `OUTPUT_TYPES`; None for what the output's name ends in, and NIfTI for a folder.
        series: only DICOM series of this SeriesInstanceUID, or of a description, which may be a pattern; "all" for
            scans of any kind and modality.
        channels: how many the bundle takes: files CASE_0000, CASE_0001 and so on are one scan then.
        modality: that the bundle takes.
        phase: "KEYWORD=VALUE" of the images, where a DICOM series has several at each place.
        all_files: label maps beside their scans are scans, too.
        key: of the pseudonyms of the scans; None where their paths may be shown.

    Raises:
        UsageError: there is no scan, two scans would be written to one file, or the output is an input.
    """
    target = Path(output)
    chosen = choose_output_type(output_type, target)
    expanded = _expand(inputs)
    if not all_files:
        volumes = list(filter(is_volume, expanded))
        masks = {*volumes} - {*without_masks(volumes)}
        expanded = [given for given in expanded if given not in masks]
    folders = [given for given in expanded if given.is_dir() or is_archive(given)]
    _require_scans([given for given in expanded if given not in folders], series)
    uid = series if series and UID.fullmatch(series) else None
    scans: list[Scan] = []
    empty = 0
    for given in expanded:
        if given not in folders:
            scans.append(Scan(pair_of(given)[0], uid))
            continue
        if real_path(given) == real_path(target):
            raise UsageError(f"{target}: the output folder is the input folder. Choose another with -o")
        found = find_scans(given, series, target, modality, all_files=all_files)
        empty += not found
        # a folder without any is kept beside others: it fails, and is not skipped in silence
        scans.extend(found or [Scan(given, uid)])
    if empty == len(expanded):
        anything = f"{'' if all(map(is_archive, folders)) else OTHER_FORMATS}CT or MR series in DICOM"
        wanted = anything if series in (None, ALL_SERIES) else f"series {series}"
        raise UsageError(f"{', '.join(map(str, folders))}: contains no {wanted}")
    scans = list(dict.fromkeys(scans))
    other_channels = further_files([scan.path for scan in scans], channels)
    scans = [scan for scan in scans if scan.path in other_channels]
    if names_output_file(target):
        if len(scans) > 1:
            together = len({scan.path for scan in scans}) == 1
            remedy = f"or choose one with --series: {', '.join(str(scan.series) for scan in scans)}" if together else ""
            raise UsageError(
                f"{target}: {len(scans)} scans cannot go into one file. Give a folder with -o{', ' * together}{remedy}"
            )
        named = plan_case(scans[0], scans[0].path.parent, target, chosen, phase, key)
        cases = [replace(named, output=target, resumable=False, folder=None)]
    else:
        alone = folders == expanded and len(folders) == 1
        base = folders[0] if alone else common_folder(scan.path.absolute() for scan in scans) or Path()
        cases = [plan_case(scan, base, target, chosen, phase, key) for scan in scans]
    cases = [replace(case, other_channels=other_channels[case.input]) for case in cases]
    _require_distinct_outputs(cases)
    return cases


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


def _require_scans(files: Sequence[Path], series: str | None) -> None:
    """Raise UsageError for files that are scans only together with others, or not at all."""
    dicom = [file for file in files if is_dicom(file)]
    for file in files:
        if file.name.upper() == INDEX_NAME:
            raise UsageError(f"{file}: the index of a medium. Give the folder that it lies in")
        if series not in (None, ALL_SERIES) and file not in dicom:
            raise UsageError(f"{file}: no DICOM, so it has no series {series}. Leave out --series")
    beside = [file.parent for file in dicom]
    for folder in set(beside):
        if beside.count(folder) > 1 and len(find_scans(folder)) == 1:
            raise UsageError(f"{folder}: {beside.count(folder)} files of one DICOM series. Give the folder")


def _name(scan: Path) -> str:
    """Return the last part of a path, that of "." and ".." too; a link keeps its own."""
    return Path(os.path.abspath(scan)).name  # noqa: PTH100 - `resolve` follows links


def plan_case(
    scan: Scan,
    base: Path,
    target: Path,
    output_type: OutputType,
    phase: str | None = None,
    key: bytes | None = None,
) -> Case:
    """Return the case of a scan whose place below `base` its labels have below the folder `target`.

    Args:
        scan: the scan.
        base: the folder of all scans.
        target: the folder of all results.
        output_type: of the labels.
        phase: as in `Case`.
        key: makes the scan's number, which is the name of its files then; None to keep its own.

    Raises:
        UsageError: the output type names the patient, and the scan should be anonymous.
    """
    try:
        tree = scan.path.absolute().parent.relative_to(base.absolute())
    except ValueError:  # the base itself is the scan
        tree = Path()
    parts = (strip_suffix(_name(scan.path)), scan.tag, NOT_IN_FILE_NAMES.sub("_", phase or ""))
    place, number = tree / "_".join(filter(None, parts)), ""
    if key is not None:
        if output_type.of_series:
            raise UsageError(f"--anonymous: {output_type.name} names the patient. Choose nifti or nrrd.")
        place = Path(number := pseudonym(key, place.as_posix()))
    output = target / place.with_name(f"{place.name}{output_type.ending}")
    return Case(scan.path, output, output_type, scan.series, True, phase=phase, folder=target, number=number)


def write_key_table(path: Path, cases: Sequence[Case]) -> None:
    """Write which scan stands behind each number, for the user's eyes only.

    Raises:
        OutputError: it cannot be written.
    """
    rows = ((case.number, case.input.absolute(), case.series or "") for case in cases)
    write_csv(path, ("number", "input", "series"), rows, private=True)


def _require_distinct_outputs(cases: Sequence[Case]) -> None:
    writers: dict[Path, Path] = {}
    sources = {real_path(path) for case in cases for path in (case.input, *case.other_channels)}
    for case in cases:
        place = real_path(case.output)
        if place in writers:
            raise UsageError(
                f"{case.output}: both {writers[place]} and {case.input} would be written there. Rename one"
            )
        if place in sources:
            raise UsageError(f"{case.output}: is an input, too. Choose another place with -o")
        writers[place] = case.input


def require_distinct_entropy_maps(cases: Sequence[Case]) -> None:
    """Raise UsageError if an entropy map would be written over a scan or a label map."""
    taken = {real_path(path) for case in cases for path in (case.input, *case.other_channels, case.output)}
    for case in cases:
        if real_path(case.entropy) in taken:
            raise UsageError(f"{case.entropy}: the entropy would be written over it. Choose another place with -o")
