"""The house: sizes, the top level, and the names that others may rely on. Style, types and floors: `scripts/test`."""

from __future__ import annotations

import re
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

SCRIPTS = tuple(f"scripts/{name}" for name in ("bench", "demo", "docs", "lock", "offline_kit", "release", "test"))


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
    assert {path.name for path in large} <= {"model.pt", "model_int8.bin"}
    assert all((checkout / path).stat().st_size < 25 * 2**20 for path in large)


def test_the_package_holds_its_rooms(checkout: Path, project_files: list[Path]) -> None:
    package = Path("plugin", "tomoseg")
    held = {path.relative_to(package).parts[0] for path in project_files if path.is_relative_to(package)}
    assert held == {*rooms(checkout), "__init__.py", "__init__.pyi", "__main__.py", "py.typed"}
    assert len(rooms(checkout)) == 13


def test_the_imports_run_down_the_picture_in_the_readme(checkout: Path, imports: dict[str, set[str]]) -> None:
    floors = rooms(checkout)
    arrows = {(f"{one}.".split(".")[1], f"{other}.".split(".")[1]) for one in imports for other in imports[one]}
    between = {(one, other) for one, other in arrows if one != other and {one, other} <= floors.keys()}
    assert len(between) > 20
    assert {(one, other) for one, other in between if floors[one] <= floors[other]} == set()


def test_no_file_imports_itself_through_others(imports: dict[str, set[str]]) -> None:
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the files of a circle


def rooms(checkout: Path) -> dict[str, int]:
    """Return the rooms of the picture in the README, with their floors from the ground."""
    picture = (checkout / "README.md").read_text().partition("## The house\n\n```\n")[2].partition("```")[0]
    lines = [re.split(" {2,}", line)[0].split(" | ") for line in picture.splitlines()]
    return {room: floor for floor, names in enumerate(reversed(lines)) for room in names}


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """The modules of the package that each of them imports when it runs."""
    graph = grimp.build_graph("tomoseg", exclude_type_checking_imports=True, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
