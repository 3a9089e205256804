"""The public names: a function or class behind each command, said in `tomoseg.__all__`, with examples that run."""

from __future__ import annotations

import doctest
import inspect
import json
import re
import shutil
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Any, get_args

import pytest

import tomoseg
from support.command_line import run_inside
from support.trainings import tiny_bundle, write_dataset
from tomoseg.bundle.options import CleanerName
from tomoseg.cli import COMMANDS
from tomoseg.convert.export.formats import FORMATS
from tomoseg.convert.export.options import FormatName
from tomoseg.core.options import field_texts, field_types
from tomoseg.data.output_types import OUTPUT_TYPES, OutputTypeName
from tomoseg.planning.imbalance import LOSSES, LossName
from tomoseg.planning.presets import PRESETS, PresetName
from tomoseg.transforms import CLEANERS

BEHIND = {
    "bundles": "registered_names",
    "calibrate": "calibrate",
    "check": "inspect",
    "doctor": "examine_installation",
    "evaluate": "evaluate",
    "export": "export",
    "info": "find_bundle",
    "label_app": "LabelApp",
    "label_server": "serve_label_app",
    "mercure": "segment_batch",
    "plan": "plan",
    "segment": "segment_batch",
    "train": "train",
    "watch": "watch",
}
CLASSES = {
    "Bundle", "EvaluationOptions", "ExecutorOptions", "Grid", "OutputOptions", "PlanningOptions", "Progress",
    "ReadOptions", "Report", "RunOptions", "Segmentation", "Segmenter", "ServerOptions", "StreamingEvaluator",
    "TrainingOptions", "Volume",
}  # fmt: skip
ERRORS = {"BatchInterruptedError", "ReportsError", "TomosegError"}
NAMES = sorted({*BEHIND.values(), *CLASSES, *ERRORS, "__version__", "read_volume", "read_with"})
CALLABLES = [name for name in NAMES if name not in ERRORS and name != "__version__"]
# load a bundle, or train one
SLOW = {
    "Progress", "Report", "Segmentation", "Segmenter", "StreamingEvaluator", "calibrate", "evaluate",
    "examine_installation", "export", "plan", "segment_batch", "train", "watch",
}  # fmt: skip
OPTIONS = [name for name in NAMES if name.endswith("Options")]


def test_the_public_names_are_these() -> None:
    assert tomoseg.__all__ == NAMES
    assert dir(tomoseg) == NAMES
    assert {name for name in NAMES if getattr(tomoseg, name, None) is None} == set()
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        _ = tomoseg.segment  # type: ignore[attr-defined]


def test_a_public_name_stands_behind_each_command() -> None:
    assert {command.__name__ for command in COMMANDS} == set(BEHIND)


@pytest.mark.parametrize("name", CALLABLES)
def test_a_public_name_says_what_it_takes_and_gives(name: str) -> None:
    named = getattr(tomoseg, name)
    text = inspect.getdoc(named) or ""
    assert "Example:\n    >>> import tomoseg\n" in text
    if inspect.isfunction(named):
        assert "Returns:\n" in text
        section = text.partition("Args:\n")[2].partition("\n\n")[0]
        assert [one for one in inspect.signature(named).parameters if f"    {one}: " not in section] == []


def documented_members() -> list[tuple[str, Any]]:
    """Return the methods and properties of the public classes that are ours, by `Class.name`."""
    found: list[tuple[str, Any]] = []
    for name in sorted(CLASSES):
        for member, value in vars(getattr(tomoseg, name)).items():
            if not member.startswith("_") and isinstance(value, FunctionType | classmethod | staticmethod | property):
                found.append((f"{name}.{member}", value.fget if isinstance(value, property) else value))
    return found


@pytest.mark.parametrize(
    ("name", "member"), documented_members(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_public_method_says_what_it_takes(name: str, member: Any) -> None:
    function = inspect.unwrap(getattr(member, "__func__", member))
    text = inspect.getdoc(function) or ""
    assert text
    parameters = [one for one in list(inspect.signature(function).parameters)[1:] if not one.startswith("_")]
    if len(parameters) > 1:
        section = text.partition("Args:\n")[2]
        assert [one for one in parameters if f"    {one}: " not in section] == []


@pytest.mark.parametrize("name", sorted(name for name in CLASSES if is_dataclass(getattr(tomoseg, name))))
def test_a_public_value_describes_its_fields(name: str) -> None:
    """Also the shape, with the order of its axes, of each array."""
    value = getattr(tomoseg, name)
    texts = field_texts(value) or field_texts(value, "Args")
    public = [field for field in fields(value) if not field.name.startswith("_")]
    assert [field.name for field in public if field.name not in texts] == []
    for field in public:
        if "NDArray" in str(field.type):
            assert re.search(r"\([A-Za-z]+, |\d×\d", texts[field.name]), field.name


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_has_its_help(name: str) -> None:
    assert set(field_texts(getattr(tomoseg, name))) == set(field_types(getattr(tomoseg, name)))


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (CleanerName, CLEANERS), (FormatName, FORMATS), (LossName, LOSSES), (OutputTypeName, OUTPUT_TYPES),
        (PresetName, PRESETS),
    ],
    ids=["cleaner", "format", "loss", "output type", "preset"],
)  # fmt: skip
def test_what_may_be_chosen_is_what_there_is(names: object, table: dict[str, object]) -> None:
    assert get_args(names) == tuple(table)


@pytest.mark.parametrize("arguments", [["--help"], ["segment", "--help"], ["info"], ["bundles"], ["--version"]])
def test_what_describes_starts_without_what_computes(arguments: list[str]) -> None:
    code = (
        "import sys\nimport tomoseg\nfrom tomoseg.cli import main\n"
        f"sys.argv = ['tomoseg', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(*sorted({'torch', 'monai', 'numpy', 'nibabel', 'pydicom'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []


def test_the_command_does_what_the_function_does(real_scan: Path, tmp_path: Path) -> None:
    """The same files, and but for times the same report, with options of three classes."""
    (tmp_path / "scans").mkdir()
    shutil.copy(real_scan, tmp_path / "scans")
    options = tomoseg.RunOptions(device="cpu", overlap=0.1, clean=("non-finite",))
    ours = tomoseg.segment_batch(
        "hippocampus",
        [tmp_path / "scans"],
        tmp_path / "function",
        run_options=options,
        options=tomoseg.OutputOptions(preview=True),
    )
    done = run_inside("segment", tmp_path / "scans", "-o", tmp_path / "command", "-b", "hippocampus", "--device", "cpu",
                      "--overlap", "0.1", "--clean", "non-finite", "--preview")  # fmt: skip
    assert done.returncode == 0, done.stderr
    names = [sorted(path.name for path in (tmp_path / place).iterdir()) for place in ("function", "command")]
    assert names[0] == names[1]
    assert {"report.html", "report.json", "statistics.csv"} < set(names[0])
    theirs = json.loads((tmp_path / "command" / "report.json").read_text())
    assert theirs["options"] == json.loads((tmp_path / "function" / "report.json").read_text())["options"]
    assert [case["status"] for case in theirs["cases"]] == [case.status for case in ours.cases] == ["done"]


@pytest.fixture
def workplace(real_scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what the examples name."""
    (tmp_path / "scans").mkdir()
    shutil.copy(real_scan, tmp_path / "scans" / "scan.nii.gz")
    write_dataset(tmp_path / "dataset")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in CALLABLES]
)
def test_the_example_runs(name: str, workplace: Path) -> None:
    if name == "evaluate":
        result = tomoseg.Segmenter.from_bundle("hippocampus", device="cpu")(workplace / "scans" / "scan.nii.gz")
        for path in ("predictions/scan_seg.nii.gz", "references/scan.nii.gz"):
            result.save(workplace / path)
    if name in ("train", "calibrate"):
        tiny_bundle(workplace / "dataset", workplace / "my_bundle")
    if name == "calibrate":
        tomoseg.train("./my_bundle", "dataset", tomoseg.TrainingOptions(fold="none", epochs=1, device="cpu"))
    examples = doctest.DocTestFinder(recurse=False).find(getattr(tomoseg, name), name, globs={})
    assert len(examples) == 1
    assert doctest.DocTestRunner().run(examples[0]).failed == 0
