"""A processing module of the DICOM orchestrator mercure: `tomoseg mercure`.

mercure hands over DICOM files in a folder, with settings in task.json, and takes DICOM files and result.json from
another folder: https://github.com/mercure-imaging/mercure/blob/main/docs/modules.rst
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from tomoseg.batch.cases import Case, plan_cases
from tomoseg.batch.local import LocalExecutor
from tomoseg.batch.options import OutputOptions
from tomoseg.batch.run import run_batch
from tomoseg.bundle.options import RunOptions
from tomoseg.bundle.registry import describe_all, find_bundle
from tomoseg.core.errors import UsageError, errors_as
from tomoseg.core.files import staging_folder
from tomoseg.core.json_files import load_json, write_json
from tomoseg.core.json_records import from_json
from tomoseg.data.dicom.file_reader import read_dataset
from tomoseg.data.output_types import combine
from tomoseg.inference.segmenter import Segmenter
from tomoseg.report.records import Report

TASK, RESULT = "task.json", "result.json"


@dataclass(frozen=True)
class ModuleSettings:
    """Settings of the module in mercure; all others are those of `RunOptions`.

    Attributes:
        bundle: a registered name, its beginning, or a folder.
        output_types: of the results; those of DICOM.
        series: SeriesInstanceUID or description (may be a pattern) of the series to segment; by default those of the
            bundle's modality.
    """

    bundle: str
    output_types: tuple[str, ...] = ("dicom-sr",)
    series: str | None = None


def run_module(inputs: Path, outputs: Path) -> Report:
    """Segment the series that mercure hands over; write results and result.json where it takes them from.

    Args:
        inputs: folder with the DICOM files and task.json.
        outputs: folder for the results, each named SERIES#INSTANCE.dcm, as mercure names files.

    Raises:
        UsageError: task.json has no settings of the module, or there is no series for the bundle.
        OutputError: the results cannot be written.
    """
    settings, options = _read_settings(inputs / TASK)
    bundle = find_bundle(settings.bundle)
    with staging_folder(outputs) as staging:
        kind = combine(settings.output_types)
        planned = plan_cases(
            [inputs], staging, "dicom-sr", settings.series, bundle.input_channels, modality=bundle.modality
        )
        cases = [
            Case(case.input, staging / f"{number}{kind.ending}", kind, case.series, number=case.series or case.name)
            for number, case in enumerate(planned)
        ]
        report = run_batch(cases, LocalExecutor(Segmenter(bundle, options), OutputOptions(measure=False)))
        for path in staging.glob("*.dcm"):
            named = read_dataset(path, ["SeriesInstanceUID", "SOPInstanceUID"])
            path.replace(outputs / f"{named.SeriesInstanceUID}#{named.SOPInstanceUID}.dcm")
    series = [
        {
            "series": case.input, "status": case.status, "reason": case.reason, "warnings": case.warnings,
            "volumes_ml": {row.name: row.volume_ml for row in case.labels},
        }
        for case in report.cases
    ]  # fmt: skip
    text = f"{bundle.name} {bundle.version}: {len(series) - len(report.failed)} of {len(series)} series segmented"
    about = {"bundle": bundle.name, "version": bundle.version, "series": series}
    write_json(outputs / RESULT, {**about, "__mercure_notification": {"text": text}})
    return report


def _read_settings(path: Path) -> tuple[ModuleSettings, RunOptions]:
    remedy = '. Set them in mercure, e.g. {"bundle": "head_neck"}'
    with errors_as(UsageError, f"{path}: cannot be read", OSError, ValueError, remedy=". Is MERCURE_IN_DIR right?"):
        task = load_json(path)
    process = task.get("process") if isinstance(task, dict) else None
    process = process[0] if isinstance(process, list) and process else process  # of several modules in a row
    given: Any = process.get("settings") if isinstance(process, dict) else None
    if not isinstance(given, dict) or not given.get("bundle"):
        raise UsageError(f"{path}: expected the settings of the module with a bundle{remedy}: {describe_all()}")
    own = {field.name for field in fields(ModuleSettings)}
    with errors_as(UsageError, f"{path}: settings", UsageError, ValueError, remedy=remedy):
        settings = from_json(ModuleSettings, {key: value for key, value in given.items() if key in own})
        options = from_json(RunOptions, {key: value for key, value in given.items() if key not in own})
        combine(settings.output_types)
    return settings, options
