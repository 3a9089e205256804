"""The extras of tomoseg: each that a message or a page names exists, resolves and works."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.tiers import rest_exhaustive
from tomoseg.cli.doctor import PARTS
from tomoseg.convert.export.formats import FORMATS

TORCH = "torch==2.13.0"  # that of scripts/environment.py
EXTRAS = {"all", "clean", "export", "label", "nnunet", "ray", "tensorrt", "train"}
# packages that each extra brings beyond those of tomoseg itself
BROUGHT = {
    "train": {"tensorboard", "scikit-image"},
    "clean": {"pywavelets", "scikit-image"},
    "ray": {"ray"},
    "export": {"jsonschema", "nncf", "onnx", "onnxruntime", "onnxscript"},
    "nnunet": {"dynamic-network-architectures"},
    "label": {"monailabel", "pywavelets", "scikit-image"},
}
BROUGHT["all"] = BROUGHT["train"] | BROUGHT["clean"] | BROUGHT["ray"] | BROUGHT["export"] | BROUGHT["nnunet"]
CORE = {"contourpy", "highdicom", "itk-io", "matplotlib", "nilearn", "openvino", "pyjpegls", "torch"}


def project(checkout: Path) -> dict[str, dict[str, list[str]]]:
    loaded: dict[str, dict[str, list[str]]] = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    return loaded


def test_the_extras_are_these(checkout: Path) -> None:
    assert set(project(checkout)["optional-dependencies"]) == EXTRAS


def test_each_extra_that_is_named_exists(checkout: Path, project_files: list[Path]) -> None:
    named: dict[str, str] = {}
    for path in project_files:
        if path.suffix not in (".py", ".md", ".toml") or path.parts[0] == "tests":
            continue
        text = (checkout / path).read_text("utf-8")
        for extras in re.findall(r"(?:tomoseg|\.)\[([a-z][a-z,-]*)\]", text):
            named |= dict.fromkeys(extras.split(","), str(path))
        if path.suffix == ".py":
            for call in ast.walk(ast.parse(text)):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "MissingPackageError":
                    named |= {
                        ast.literal_eval(extra): str(path) for extra in call.args[1:] if isinstance(extra, ast.Constant)
                    }
    named |= {one.extra: "doctor" for one in PARTS if one.extra}
    named |= {one.extra: "export" for one in FORMATS.values() if one.extra}
    assert {extra: where for extra, where in named.items() if extra not in EXTRAS} == {}
    assert set(named) >= EXTRAS - {"all"}


def resolve(folder: Path, *wanted: str) -> dict[str, str]:
    """Return the versions that pip would install into an empty environment."""
    report = folder / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    done = subprocess.run([*command, "--report", str(report), *wanted], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [entry["metadata"] for entry in json.loads(report.read_text())["install"]]
    return {entry["name"].lower().replace("_", "-"): entry["version"] for entry in found}


@pytest.mark.slow
@pytest.mark.parametrize("extra", rest_exhaustive(dict.fromkeys(["all", *BROUGHT])))
def test_each_extra_resolves(extra: str, checkout: Path, tmp_path: Path) -> None:
    found = resolve(tmp_path, TORCH, f"{checkout}[{extra}]")
    assert set(found) >= BROUGHT[extra] | CORE
    assert found["torch"].startswith("2.13.0")
    if extra == "label":
        assert found["numpy"].startswith("1.26.")
        assert found["pydicom"].startswith("2.4.")


@pytest.mark.slow
def test_the_package_of_tensorrt_exists(checkout: Path, tmp_path: Path) -> None:
    """Its own requirements come from NVIDIA's own index."""
    (wanted,) = project(checkout)["optional-dependencies"]["tensorrt"]
    assert set(resolve(tmp_path, "--no-deps", wanted)) == {"torch-tensorrt"}


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An environment that goes with the test, for it takes gigabytes."""
    yield tmp_path / "environment"
    shutil.rmtree(tmp_path / "environment", ignore_errors=True)


@pytest.mark.exhaustive
@pytest.mark.parametrize("extra", ["", *BROUGHT])
def test_each_extra_installs_and_doctor_finds_it_sound(extra: str, checkout: Path, folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=25.1"], check=True)
    wanted = f"{checkout}[{extra}]" if extra else str(checkout)
    subprocess.run([python, "-m", "pip", "install", "--quiet", TORCH, wanted], check=True)
    command = [
        python,
        "-c",
        "from tomoseg.cli.doctor import examine_installation; print(*examine_installation(), sep='\\n')",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "weights load" in done.stdout
    assert "good=False" not in done.stdout
    missing = {part.package.lower() for part in PARTS if f"{part.package} is not installed" in done.stdout}
    assert not missing & (BROUGHT.get(extra, set()) | CORE)
