"""Every JSON file that the package writes fits its schema, and one of a newer layout is rejected."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import jsonschema
import pytest
import torch
from hatchling.builders.wheel import WheelBuilder

from support.command_line import run_inside, run_process
from support.dicoms import make_series
from support.evaluations import write_cases
from support.trainings import write_dataset
from tomoseg import Segmenter, TomosegError, find_bundle, read_volume, segment_batch
from tomoseg.batch.archive.queue import Queue
from tomoseg.batch.archive.rules import FoundSeries, Rule
from tomoseg.batch.options import OutputOptions
from tomoseg.bundle.confidence import CONFIDENCE, Confidence, LabelConfidence
from tomoseg.bundle.domain import DOMAIN, Domain
from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.precision import PRECISION, MeasuredPrecision
from tomoseg.core.json_files import SCHEMA_VERSION
from tomoseg.inference.localisation.template import load_template
from tomoseg.label_app.folder import LabelApp
from tomoseg.label_app.known_heads import KnownHeads
from tomoseg.label_app.score_store import AcquisitionScores
from tomoseg.label_app.versions import WeightsVersions
from tomoseg.planning.bundle_writer import plan
from tomoseg.planning.options import PlanningOptions
from tomoseg.training.cross_validation import CrossValidation, _Row, _write_summary
from tomoseg.training.training import Trained

FOLDER = Path(__file__).parents[2] / "plugin" / "tomoseg" / "report" / "schemas"
SCHEMAS = {path.name.removesuffix(".schema.json"): json.loads(path.read_text("utf-8")) for path in FOLDER.iterdir()}


def write_report(folder: Path, scan: Path) -> Path:
    shutil.copy(scan, folder / "good.nii.gz")
    (folder / "cut.nii.gz").write_bytes(scan.read_bytes()[:5000])
    segmenter = Segmenter.from_bundle("hippocampus", device="cpu", max_memory="8GB")
    report = segment_batch(segmenter, [folder], folder / "out", options=OutputOptions(preview=True))
    assert [case.status for case in report.cases] == ["failed", "done"]
    report.save(folder / "report.json")
    return folder / "report.json"


def write_manifest(folder: Path, scan: Path) -> Path:
    write_report(folder, scan)
    return folder / "out" / ".good_seg.nii.gz.done.json"


def write_evaluation(folder: Path, scan: Path) -> Path:
    predictions, references = write_cases(folder)
    run_inside("evaluate", predictions, references, "-o", folder / "out")
    return folder / "out" / "evaluation.json"


def write_cross_validation(folder: Path, scan: Path) -> Path:
    names = {1: "front", 2: "back"}
    folds = [Trained(folder, fold, 2, 0.5, 1, {}, (), 2) for fold in (0, 1)]
    rows = [_Row("a", 0, [0.5, math.nan], [0.6, math.nan]), _Row("b", 1, [0.7, 0.8], [0.7, 0.9])]
    result = CrossValidation(folder, 2, names, (0.6, math.nan), {1: 0.65}, averaged=True, installed=True)
    _write_summary(folder / "summary.json", result, folds, rows, 0.6, 0.7)
    return folder / "summary.json"


def write_plan(folder: Path, scan: Path) -> Path:
    plan(write_dataset(folder / "data"), folder / "bundle", PlanningOptions(4 * 10**9, "cpu", "small"))
    return folder / "bundle" / "configs" / "plan.json"


def write_confidence(folder: Path, scan: Path) -> Path:
    label = LabelConfidence(2.0, (1.0, 0.0, 0.5, 0.2, 0.0), ((-3.0, 0.1), (2.0, 0.9)), 2.0, (), 1.0, 3, 30, 0.9, 0.05)
    Confidence(("0" * 64,), 2.0, {"liver": label}).save(folder)
    return folder / CONFIDENCE


def write_precision(folder: Path, scan: Path) -> Path:
    MeasuredPrecision(("ab" * 32,), 2, {"front": 0.9}, {"bf16": {"front": -0.001}}).save(folder)
    return folder / PRECISION


def write_domain(folder: Path, scan: Path) -> Path:
    sides = ((1.0, 2.0),) * 3
    Domain(2, sides, sides, (0.5,), (((0.0, 1.0),),), (0.1, 0.2), (0.0,) * 512, 0.5).save(folder)
    return folder / DOMAIN


def write_inspection(folder: Path, scan: Path) -> Path:
    write_dataset(folder / "data")
    (folder / "cut.nii.gz").write_bytes(scan.read_bytes()[:5000])
    return printed(folder / "check.json", "check", folder / "data", folder / "cut.nii.gz", scan, "--voxels", "--json")


def write_bundle(folder: Path, scan: Path) -> Path:
    return printed(folder / "info.json", "info", "--json")


def write_bundles(folder: Path, scan: Path) -> Path:
    return printed(folder / "bundles.json", "bundles", "--json")


def write_installation(folder: Path, scan: Path) -> Path:
    return printed(folder / "doctor.json", "doctor", "--json")


def write_export(folder: Path, scan: Path) -> Path:
    output = folder / "network.ts"
    command = ("export", "hippocampus", "--format", "torchscript", "-o", output, "--json")
    return printed(folder / "export.json", *command)


def write_settings(folder: Path, scan: Path) -> Path:
    LabelApp(folder).write(["hippocampus"])
    LabelApp(folder).serve("/scans")
    return folder / "tomoseg.json"


def write_submission(folder: Path, scan: Path) -> Path:
    history = LabelApp(folder).history
    names = [{"name": "anterior", "idx": 1}]
    facts = {"user": "ann", "weights": "hippocampus version 1", "restored": 1, "label_info": names}
    with history.adding("one", facts) as staging:
        (staging / "label.nii.gz").touch()
    return history.of("one")[0].label.with_name("submission.json")


def write_head(folder: Path, scan: Path) -> Path:
    volume = read_volume(scan)
    KnownHeads(folder)(load_template("MNI152"), volume.array, volume.grid)
    return next(folder.glob("*.json"))


def write_weights(folder: Path, scan: Path) -> Path:
    facts: dict[str, Any] = {
        "cases": 1,
        "epochs": 2,
        "learning_rate_scale": 0.1,
        "held_out": 5,
        "dice": 0.5,
        "dice_before": 0.4,
    }
    WeightsVersions(folder).publish({"layer": torch.zeros(2)}, **facts)
    return folder / "0001" / "version.json"


def write_current(folder: Path, scan: Path) -> Path:
    return write_weights(folder, scan).parents[1] / "current.json"


def write_scores(folder: Path, scan: Path) -> Path:
    AcquisitionScores(folder / "similarities.json", "ab" * 32).add("image", {"entropy": 0.5})
    return folder / "similarities.json"


def write_progress(folder: Path, scan: Path) -> Path:
    pytest.importorskip("monailabel")
    from tomoseg.label_app.trainers.train_task import BundleTraining
    from tomoseg.training.fine_tuning import Progress

    task: Any = SimpleNamespace(_stats_file=folder / "train_stats.json")
    compared = {"held_out": 5, "dice": 0.6, "dice_before": 0.5, "best_metric": 0.6}
    BundleTraining._save_stats(task, Progress(1, 2, 0.5), 0.0, compared, ended=True)
    return folder / "train_stats.json"


def write_archive_status(folder: Path, scan: Path) -> Path:
    with closing(Queue(folder / "state")) as queue:
        found = [(FoundSeries("1.2", f"1.2.{number}", 9, "CT"), Rule("organs", "CT")) for number in (3, 4)]
        queue.observe(found, 0)
        for _ in found:
            entry = queue.next_due(0, 100)
            assert entry is not None
            queue.fail(entry, "the archive is down", 100, for_good=entry.uid == "1.2.3")
    return printed(folder / "status.json", "watch", "--status", folder / "state", "--json")


def write_mercure_result(folder: Path, scan: Path) -> Path:
    places = [folder / "in", folder / "out"]
    for place in places:
        place.mkdir()
    make_series(places[0], (20, 24, 12), modality="MR")
    (places[0] / "task.json").write_text(json.dumps({"process": {"settings": {"bundle": "hippocampus"}}}))
    with patch.dict("os.environ", {"MERCURE_IN_DIR": str(places[0]), "MERCURE_OUT_DIR": str(places[1])}):
        assert run_inside("mercure").returncode == 0
    return places[1] / "result.json"


def write_log(folder: Path, scan: Path) -> Path:
    done = run_process("watch", "--status", folder, "--log-json")
    (folder / "line.json").write_text(done.stderr)
    return folder / "line.json"


def printed(path: Path, *arguments: object) -> Path:
    """Write what a command prints to a file."""
    path.write_text(run_inside(*arguments).stdout, encoding="utf-8")
    return path


WRITERS: dict[str, Callable[[Path, Path], Path]] = {
    "app_settings": write_settings,
    "archive_status": write_archive_status,
    "bundle": write_bundle,
    "bundles": write_bundles,
    "confidence": write_confidence,
    "cross_validation": write_cross_validation,
    "current_version": write_current,
    "domain": write_domain,
    "evaluation": write_evaluation,
    "export": write_export,
    "image_scores": write_scores,
    "inspection": write_inspection,
    "installation": write_installation,
    "known_head": write_head,
    "log_line": write_log,
    "manifest": write_manifest,
    "mercure_result": write_mercure_result,
    "plan": write_plan,
    "precision": write_precision,
    "report": write_report,
    "submission": write_submission,
    "training_progress": write_progress,
    "weights_version": write_weights,
}


def test_commands_that_write_a_file_print_it(tmp_path: Path) -> None:
    data, (predictions, references) = write_dataset(tmp_path / "data"), write_cases(tmp_path)
    planned = run_inside("plan", data, "-o", tmp_path / "bundle", "--preset", "small", "--device", "cpu", "--json")
    assert json.loads(planned.stdout) == json.loads((tmp_path / "bundle" / "configs" / "plan.json").read_text("utf-8"))
    compared = run_inside("evaluate", predictions, references, "-o", tmp_path / "out", "--json")
    assert json.loads(compared.stdout) == json.loads((tmp_path / "out" / "evaluation.json").read_text("utf-8"))


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield each object in a schema that describes an object of ours."""
    if isinstance(schema, dict):
        if "properties" in schema:
            yield schema
        for part in schema.values():
            yield from parts(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from parts(part)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_fits_its_schema(kind: str, real_scan: Path, tmp_path: Path) -> None:
    content = json.loads(WRITERS[kind](tmp_path, real_scan).read_text("utf-8"))
    # MONAI Label needs jsonschema 3, which knows no newer draft
    validator = getattr(jsonschema, "Draft202012Validator", jsonschema.Draft7Validator)
    validator(SCHEMAS[kind]).validate(content)
    for one in content if isinstance(content, list) else [content]:
        assert next(iter(one)) == "schema_version"
        assert one["schema_version"] == SCHEMA_VERSION


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_schema_describes_every_field(kind: str) -> None:
    assert kind in WRITERS
    validator = getattr(jsonschema, "Draft202012Validator", jsonschema.Draft7Validator)
    validator.check_schema(SCHEMAS[kind])
    found = list(parts(SCHEMAS[kind]))
    assert found
    for one in found:
        assert one["additionalProperties"] is False
        assert all(field.get("description") or "const" in field for field in one["properties"].values()), one


def test_the_wheel_holds_the_schemas(checkout: Path) -> None:
    packed = {file.distribution_path for file in WheelBuilder(str(checkout)).recurse_included_files()}
    assert {f"tomoseg/report/schemas/{kind}.schema.json" for kind in SCHEMAS} <= packed


READERS: dict[str, Callable[[Path], object]] = {
    "app_settings": lambda path: LabelApp(path.parent).bundles,
    "current_version": lambda path: WeightsVersions(path.parent).current,
    "image_scores": lambda path: AcquisitionScores(path, "ab" * 32).read(),
    "plan": lambda path: Bundle("bundle", path.parents[1]).dataset_values,
    "weights_version": lambda path: WeightsVersions(path.parents[1]).version(1),
}


@pytest.mark.parametrize("kind", READERS)
def test_a_file_of_a_newer_layout_is_rejected(kind: str, real_scan: Path, tmp_path: Path) -> None:
    path = WRITERS[kind](tmp_path, real_scan)
    READERS[kind](path)
    make_newer(path)
    with pytest.raises(TomosegError, match="a newer version of tomoseg wrote it") as raised:
        READERS[kind](path)
    assert str(raised.value).startswith(f"{path}: ")


def test_a_manifest_of_a_newer_layout_fails_its_case(real_scan: Path, tmp_path: Path) -> None:
    make_newer(write_manifest(tmp_path, real_scan))
    segmenter = Segmenter(find_bundle("hippocampus"))
    report = segment_batch(segmenter, [tmp_path], tmp_path / "out")
    assert "a newer version of tomoseg wrote it" in report.cases[1].reason
    assert not segment_batch(segmenter, [tmp_path / "good.nii.gz"], tmp_path / "new.nii.gz").failed
    again = segment_batch(segmenter, [tmp_path], tmp_path / "out", options=OutputOptions(overwrite=True))
    assert [case.status for case in again.cases][1] == "done"


def make_newer(path: Path) -> None:
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, "schema_version": SCHEMA_VERSION + 1}), "utf-8")
