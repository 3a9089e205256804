"""`scripts/release` on a copy of the project with a repository of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import tomoseg

VERSION = tomoseg.__version__
# without making `.venv` in the copy: this Python stands for it
START = (
    "import runpy, sys\nsys.path.insert(0, 'scripts')\nimport environment\nenvironment.enter = lambda: None\n"
    "runpy.run_path('scripts/release', run_name='__main__')"
)


@pytest.fixture
def project(checkout: Path, project_files: list[Path], tmp_path: Path) -> Path:
    """A commit of the checkout's files that is ready to be released."""
    copy = tmp_path / "project"
    for path in project_files:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(checkout / path, copy / path)
    changelog = copy / "CHANGELOG.md"
    changelog.write_text(f"{changelog.read_text()}\n## [{VERSION}] - 2026-12-01\n")
    git(copy, "init", "--quiet")
    git(copy, "config", "user.name", "tester")
    git(copy, "config", "user.email", "tester@example.org")
    git(copy, "add", "--all")
    git(copy, "commit", "--quiet", "--message", "all")
    return copy


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def release(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", START, *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("uncommitted", "git: the checkout has uncommitted changes. Commit or remove them"),
        ("tagged", f"v{VERSION}: this tag exists. Raise the version in plugin/tomoseg/core/version.py"),
        ("no section", "CHANGELOG.md: has no section for this version. Write `## ["),
    ],
)
def test_what_is_not_ready_is_not_released(project: Path, fault: str, expected: str) -> None:
    if fault == "uncommitted":
        (project / "README.md").write_text("changed")
    elif fault == "tagged":
        git(project, "tag", f"v{VERSION}")
    else:
        changelog = project / "CHANGELOG.md"
        changelog.write_text(changelog.read_text().replace(f"## [{VERSION}] - 2026", f"## [{VERSION}]: 2026"))
        git(project, "commit", "--quiet", "--all", "--message", "no section")
    before = git(project, "tag", "--list")
    done = release(project)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert done.stderr.startswith(f"error: {expected}")
    assert git(project, "tag", "--list") == before
    assert not (project / "dist").exists()


@pytest.mark.exhaustive
def test_a_release_is_built_tried_and_tagged(project: Path) -> None:
    done = release(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2  # twine
    assert "left hippocampus" in done.stdout  # the demo
    assert git(project, "describe", "--exact-match").strip() == f"v{VERSION}"
    assert git(project, "status", "--porcelain") == ""
    wheel, sdist = (
        project / "dist" / f"tomoseg-{VERSION}-py3-none-any.whl",
        project / "dist" / f"tomoseg-{VERSION}.tar.gz",
    )
    assert "tomoseg/__init__.py" in zipfile.ZipFile(wheel).namelist()
    with tarfile.open(sdist) as archive:
        assert f"tomoseg-{VERSION}/CHANGELOG.md" in archive.getnames()
