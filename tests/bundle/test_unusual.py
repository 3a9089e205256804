"""Hostile bundles are described, and nothing of them runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.bundles import BUNDLES
from support.command_line import run_inside
from support.zoo import ZOO
from tomoseg.bundle.unusual import MAX_BYTES, find_unusual

CONFIGS = {
    "expression": ({"x": "$__import__('os').system('touch marker')"}, "reaches for __import__"),
    "nested key": ({"a": [{"_disabled_": "$open('marker', 'w')"}]}, "uses open"),
    "import": ({"imports": ["$import subprocess"]}, "imports subprocess"),
    "from": ({"imports": ["$from os import system"]}, "imports os"),
    "target": ({"x": {"_target_": "subprocess.run", "args": ["touch", "marker"]}}, "runs subprocess.run"),
    "eval": ({"x": {"_target_": "builtins.eval", "source": "1"}}, "runs builtins.eval"),
    "through an allowed module": ({"x": {"_target_": "monai.utils.module.os.system"}}, "runs monai.utils.module.os"),
    "attribute of an allowed module": ({"x": "$monai.utils.module.os.system('touch marker')"}, "uses "),
    "dunder chain": ({"x": "$().__class__.__base__.__subclasses__()"}, "reaches for __"),
    "comprehension": ({"x": "$[c for c in [open] for _ in [c('marker', 'w')]]"}, "uses open"),
    "lambda": ({"x": "$(lambda f: f('marker', 'w'))(open)"}, "uses open"),
    "f-string": ({"x": '$f\'{open("marker", "w")}\''}, "uses open"),
    "text of a dunder": ({"x": "$torch.nn.Module.mro()[0] if '__globals__' else 1"}, "private names of Python"),
    "load": ({"x": "$torch.load('a.pt', weights_only=False)"}, "uses load"),
    "run by name": ({"x": {"_target_": "monai.bundle.run", "config_file": "evil.json"}}, "runs monai.bundle.run"),
    "compiled": ({"x": {"_target_": "torch.utils.cpp_extension.load_inline"}}, "runs torch.utils.cpp_extension"),
    "library": ({"x": "$torch.ops.load_library('evil.so')"}, "uses load_library"),
    "written": ({"x": {"_target_": "Lambdad", "func": "$lambda x: x.numpy().tofile('marker')"}}, "uses tofile"),
    "process": ({"x": "$torch.multiprocessing.Process(target=print).start()"}, "uses "),
    "reader": ({"x": {"_target_": "LoadImaged", "reader": "their.module.Reader"}}, "reads images with their.module"),
    "no expression": ({"x": "$1 +"}, "cannot be read"),
    "another file": ({"x": "%../../secret.json::key"}, "takes in"),
    "codes of a terminal": ({"x": {"_target_": "evil.\x1b[2Jx"}}, "runs evil.?[2Jx"),
}
FILES = {
    "scripts/__init__.py": ("open('marker', 'w')", "Python code"),
    "models/model.ts": ("", "compiled network"),
    "configs/logging.conf": ("[handler_x]\nargs=(open('marker', 'w'),)\n", "evaluates (open("),
    "configs/inference.yaml": ("x: !!python/object/apply:os.system ['touch marker']\n", "cannot be read"),
    "configs/deep.json": ("[" * 100_000, "cannot be read"),
    "configs/large.json": (" " * (MAX_BYTES + 1), "larger than 10 MB"),
    "configs/binary.json": ("\udcff", "cannot be read"),
}


def write(root: Path, name: str, text: str) -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / "configs").mkdir(exist_ok=True)
    (root / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    return root


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_config_does_is_listed(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config, expected = CONFIGS[name]
    (found,) = find_unusual(write(tmp_path / "b", "configs/inference.json", json.dumps(config)))
    assert expected in found
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", FILES)
def test_what_files_do_is_listed(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text, expected = FILES[name]
    (found,) = find_unusual(write(tmp_path / "b", name, text))
    assert found.startswith(name)
    assert expected in found
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_the_inference_of_shipped_bundles_has_nothing_unusual(bundle: Path) -> None:
    assert not [line for line in find_unusual(bundle) if "inference" in line]


@pytest.mark.skipif(not ZOO.is_dir(), reason="there is no zoo")
def test_plain_zoo_configs_have_nothing_unusual() -> None:
    for name in ("spleen_ct_segmentation", "wholeBody_ct_segmentation"):
        assert not [line for line in find_unusual(ZOO / name) if "configs/inference.json" in line]


def test_info_shows_it_and_runs_nothing(tmp_path: Path) -> None:
    root = write(tmp_path / "b", "configs/inference.json", json.dumps(CONFIGS["eval"][0]))
    write(root, "configs/metadata.json", '{"version": "1"}')
    assert json.loads(run_inside("info", str(root), "--json").stdout)["unusual"] == [
        "configs/inference.json: runs builtins.eval"
    ]
    assert "runs builtins.eval" in run_inside("info", str(root)).stdout
