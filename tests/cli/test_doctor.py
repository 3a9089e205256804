"""What `tomoseg doctor` finds in installations that are not sound."""

from __future__ import annotations

from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tomoseg.cli.doctor import PARTS, Finding, Part, examine_packages, examine_part


def install(site: Path, package: str, version: str, module: str = "", source: str = "") -> None:
    """Lay a package where Python finds it before the one that is really installed."""
    info = site / f"{package.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    if module:
        (site / f"{module}.py").write_text(source)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def faults() -> dict[str, str]:
    return {finding.what: finding.found for finding in examine_packages() if not finding.good}


def test_a_sound_installation_has_no_fault() -> None:
    assert faults() == {}


@pytest.mark.parametrize(
    ("package", "version", "advice"),
    [
        ("torch", "2.9.1", 'expected >=2.10, got 2.9.1. Install it with: pip install "torch>=2.10"'),
        ("pydicom", "3.0.1", "got 3.0.1. Install it with: pip install"),
        ("numpy", "3.1", "got 3.1"),
    ],
)
def test_a_version_that_does_not_fit_is_bad(site: Path, package: str, version: str, advice: str) -> None:
    install(site, package, version)
    found = faults()
    assert list(found) == [package]
    assert advice in found[package]


def test_the_versions_of_an_extra_count_where_it_is_installed(site: Path) -> None:
    """Those of MONAI Label, which needs NumPy 1, are no fault of an installation without it."""
    install(site, "ray", "2.40.0")
    assert faults() == {"ray": 'expected >=2.59, got 2.40.0. Install it with: pip install "ray>=2.59"'}


def test_a_part_that_raises_as_it_is_imported_is_bad(site: Path) -> None:
    install(site, "worn", "1.2", "worn", "raise ImportError('libworn.so is missing')")
    found = examine_part(Part("wear", "worn", "worn", "clean"))
    assert found == Finding("wear", "worn 1.2 does not work: ImportError: libworn.so is missing", good=False)


def test_a_part_that_kills_python_is_bad(site: Path) -> None:
    install(site, "deadly", "1.2", "deadly", "import os; os.abort()")
    assert not examine_part(Part("death", "deadly", "deadly")).good


def test_a_part_that_is_absent_comes_with_its_command() -> None:
    found = examine_part(Part("--executor ray", "no-such-ray", "ray", "ray"))
    assert found == Finding(
        "--executor ray", 'no-such-ray is not installed. Install it with: pip install "tomoseg[ray]"'
    )


def test_python_3_14_is_reported_about_jpeg_ls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tomoseg.cli.doctor.PYTHON", (3, 14))
    monkeypatch.setattr("tomoseg.cli.doctor.installed_packages", lambda names: {})
    (found,) = (examine_part(part) for part in PARTS if part.package == "pyjpegls")
    assert found.good
    assert found.found == (
        "pyjpegls is not installed. Install it with: pip install pyjpegls "
        "(Python 3.14 has no wheel of pyjpegls, so that pip needs a C++ compiler)"
    )


def test_each_part_is_one_that_tomoseg_asks_for() -> None:
    asked = [Requirement(text) for text in requires("tomoseg") or []]
    for part in PARTS:
        own = [one for one in asked if one.name.lower() == part.package.lower()]
        extras = [str(one.marker) for one in own if one.marker]
        if part.extra:
            assert any(f'extra == "{part.extra}"' in marker for marker in extras), part
        else:
            assert [one for one in own if "extra" not in str(one.marker)], part
