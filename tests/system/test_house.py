"""The house: sizes, the top level, and the names that others may rely on. Style, types and floors: `scripts/test`."""

from __future__ import annotations

from pathlib import Path

import pytest

import tomoseg

PUBLIC_NAMES = {
    "Bundle",
    "Grid",
    "OutputOptions",
    "Progress",
    "Report",
    "Segmentation",
    "Segmenter",
    "TomosegError",
    "Volume",
    "__version__",
    "find_bundle",
    "read_volume",
    "registered_names",
    "segment_batch",
}
SCRIPTS = ("scripts/bench", "scripts/demo", "scripts/lock", "scripts/offline_kit", "scripts/test")


def test_the_top_level_is_what_the_design_says(project_files: list[Path]) -> None:
    wanted = {"pyproject.toml", "monai_bundle", "plugin", "tests", "scripts", "README.md"}
    expected_by_tools = {"LICENSE", "CHANGELOG.md", ".ci", ".gitignore"}
    assert {path.parts[0] for path in project_files} == wanted | expected_by_tools


def test_no_source_file_is_longer_than_400_lines(checkout: Path, project_files: list[Path]) -> None:
    sources = [path for path in project_files if path.suffix == ".py" or path.as_posix() in SCRIPTS]
    assert len(sources) > 20
    lengths = {str(path): len((checkout / path).read_text().splitlines()) for path in sources}
    assert {path: count for path, count in lengths.items() if count > 400} == {}


def test_only_weights_are_large(checkout: Path, project_files: list[Path]) -> None:
    large = {path for path in project_files if (checkout / path).stat().st_size > 2**20}
    assert {path.name for path in large} <= {"model.pt"}
    assert all((checkout / path).stat().st_size < 25 * 2**20 for path in large)


def test_the_public_names_are_these() -> None:
    assert set(tomoseg.__all__) == PUBLIC_NAMES
    assert {name for name in PUBLIC_NAMES if getattr(tomoseg, name, None) is None} == set()
    assert set(dir(tomoseg)) == PUBLIC_NAMES
    with pytest.raises(AttributeError, match="no attribute 'segment'"):
        _ = tomoseg.segment
