"""Deferred imports: nothing is imported before it is used, and everything works once it is."""

from __future__ import annotations

import copy
import gc
import importlib
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from support.bundles import CHECKOUT
from tomoseg.bundle import trust
from tomoseg.cli.lazy_import import collector_paused, deferred

USER = """
import heavy
import heavy.inner as inner_module
from heavy.inner import Base, add

def total(): return add(1, 2) + inner_module.add(3, 4) + heavy.inner.add(5, 6)
def is_base(thing): return isinstance(thing, Base)
"""


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "heavy").mkdir()
    (tmp_path / "heavy" / "__init__.py").write_text("__version__ = '2.1'\n")
    inner = "class Base:\n    def name(self): return 'base'\n\ndef add(a, b): return a + b\n\nTABLE = {'a': 1}\n"
    (tmp_path / "heavy" / "inner.py").write_text(inner)
    (tmp_path / "light.py").write_text(USER)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield tmp_path
    for name in ("heavy", "heavy.inner", "light"):
        sys.modules.pop(name, None)


def _import_light() -> ModuleType:
    with deferred("heavy"):
        light = importlib.import_module("light")
    assert "heavy" not in sys.modules
    assert "heavy.inner" not in sys.modules
    return light


def test_the_real_module_is_used_once_something_is_called(packages: Path) -> None:
    light = _import_light()
    assert light.total() == 21
    assert sys.modules["heavy.inner"].add(1, 1) == 2
    assert importlib.import_module("heavy").__version__ == "2.1"


def test_a_module_out_of_a_package_is_found(packages: Path) -> None:
    (packages / "light.py").write_text("from heavy import inner\n\ndef total(): return inner.add(1, 2)\n")
    assert _import_light().total() == 3


def test_isinstance_asks_the_real_class(packages: Path) -> None:
    light = _import_light()
    assert not light.is_base(3)
    assert light.is_base(sys.modules["heavy.inner"].Base())


def test_a_class_can_be_derived_from_a_stand_in(packages: Path) -> None:
    light = _import_light()
    derived = type(importlib.import_module("types").new_class("Derived", (light.Base,))())
    assert derived().name() == "base"
    assert light.is_base(derived())


def test_what_is_needed_during_the_imports_is_imported(packages: Path) -> None:
    (packages / "light.py").write_text(USER + "\nclass Derived(Base): pass\nVERSION = heavy.__version__\n")
    with deferred("heavy"):
        light = importlib.import_module("light")
    assert light.Derived().name() == "base"
    assert light.VERSION == "2.1"
    assert light.total() == 21


def test_a_stand_in_stays_one_as_the_parameter_of_a_generic_class(packages: Path) -> None:
    """As nibabel names pydicom's."""
    generic = "from typing import Generic, TypeVar\nT = TypeVar('T')\nclass Box(Generic[T]): pass\n"
    (packages / "light.py").write_text(f"{generic}import heavy.inner\nclass Own(Box[heavy.inner.Base]): pass\n")
    assert issubclass(_import_light().Own, _import_light().Box)
    assert "heavy" not in sys.modules


def test_copies_and_pickles_are_of_the_real_thing(packages: Path) -> None:
    light = _import_light()
    again = pickle.loads(pickle.dumps(light.add))
    assert again is sys.modules["heavy.inner"].add
    assert copy.deepcopy(light.add)(1, 2) == 3


def test_missing_and_imported_modules_are_left_alone(packages: Path) -> None:
    heavy = importlib.import_module("heavy")
    with deferred("heavy", "no_such_module_anywhere"):
        assert importlib.import_module("heavy") is heavy
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("no_such_module_anywhere")


def test_an_error_leaves_no_stand_in_behind(packages: Path) -> None:
    with pytest.raises(RuntimeError), deferred("heavy"):
        importlib.import_module("light")
        raise RuntimeError
    assert "heavy" not in sys.modules
    assert not any(type(finder).__module__ == "tomoseg.cli.lazy_import" for finder in sys.meta_path)


def test_the_collector_is_back_after_the_pause() -> None:
    try:
        with collector_paused():
            assert not gc.isenabled()
        assert gc.isenabled()
    finally:
        gc.unfreeze()


@pytest.mark.slow
def test_a_bundle_that_needs_a_deferred_package_works(tmp_path: Path) -> None:
    """FillHolesd calls scipy.ndimage; the config's expressions ask for more."""
    bundle = tmp_path / "filling"
    shutil.copytree(CHECKOUT / "monai_bundle" / "hippocampus_mr_segmentation", bundle)
    path = bundle / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["imports"] += ["$import matplotlib.pyplot as plt", "$from scipy import stats"]
    config["cut"] = "$float(stats.norm.cdf(0)) + int(monai.metrics.utils.distance_transform_edt([1, 0])[1])"
    config["fill"] = "$lambda x: x if @cut == 0.5 and plt.Figure else None"
    steps = config["postprocessing"]["transforms"]
    steps[2:2] = [
        {"_target_": "FillHolesd", "keys": "pred"},
        {"_target_": "Lambdad", "keys": "pred", "func": "@fill"},
    ]
    path.write_text(json.dumps(config))
    trust.record(bundle)
    scan = tmp_path / "scan.nii.gz"
    voxels = np.random.default_rng(0).normal(size=(36, 50, 36)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), scan)

    plain = CHECKOUT / "monai_bundle" / "hippocampus_mr_segmentation"
    assert _segment(scan, tmp_path / "plain.nii.gz", plain) == ["imported: False"]
    assert _segment(scan, tmp_path / "filled.nii.gz", bundle) == ["imported: True"]
    assert nib.load(tmp_path / "filled.nii.gz").shape == voxels.shape


def _segment(scan: Path, output: Path, bundle: Path) -> list[str]:
    """Segment in a new process; return its output: whether scipy.ndimage was imported in the end."""
    arguments = ["tomoseg", "segment", str(scan), "-o", str(output), "-b", str(bundle), "--device", "cpu", "-q"]
    code = f"""
import atexit, sys
atexit.register(lambda: print("imported:", "scipy.ndimage" in sys.modules))
sys.argv = {arguments!r}
from tomoseg.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
