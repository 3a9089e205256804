"""Hostile bundles: nothing in them runs before the yes, and weights never run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from support.command_line import complaint, run_inside
from support.trust import nothing_trusted
from tomoseg.bundle.metadata import MAX_CHANNELS, MAX_MEMBERS

TOUCH = "__import__('pathlib').Path('marker').touch()"
# one expression for each trick, and where it may stand
EXPRESSIONS = {
    "import": f"${TOUCH}",
    "builtin": "$open('marker', 'w')",
    "attribute of an allowed module": "$monai.utils.module.os.system('touch marker')",
    "dunder chain": "$[c for c in ().__class__.__base__.__subclasses__() if 'Popen' in str(c)][0](['touch', 'marker'])",
    "comprehension": "$[c('marker', 'w') for c in [open]]",
    "lambda": "$(lambda f: f('marker', 'w'))(open)",
    "f-string": "$f\"{open('marker', 'w')}\"",
    "getattr": "$getattr(torch, '_' + '_builtins_' + '_')['open']('marker', 'w')",
    "walrus": "$(x := open)('marker', 'w')",
    "star": "$[*map(open, ['marker'], 'w')]",
    "torch.hub": "$torch.hub.load('.', 'x', source='local')",
    "unpickled": "$torch.load('evil.pt', weights_only=False)",
    "numpy": "$numpy.load('evil.npy', allow_pickle=True)",
    "import statement": "$import evil",
}
TARGETS: dict[str, Any] = {
    "subprocess": {"_target_": "subprocess.run", "args": ["touch", "marker"]},
    "eval": {"_target_": "builtins.eval", "source": TOUCH},
    "exec by its short name": {"_target_": "exec", "_mode_": "default", "_args_": [TOUCH]},
    "os.system": {"_target_": "os.system", "command": "touch marker"},
    "through an allowed module": {"_target_": "monai.utils.module.os.system", "command": "touch marker"},
    "run by name": {"_target_": "monai.bundle.scripts.run", "config_file": "evil.json"},
    "module of its own": {"_target_": "scripts.net.Net"},
    "debugger": {"_target_": "Compose", "_mode_": "debug"},
    "required": {"_target_": "Compose", "_requires_": f"${TOUCH}"},
    "disabled": {"_target_": "Compose", "_disabled_": f"${TOUCH}"},
}
KEYS = (
    "imports", "bundle_root", "device", "preprocessing", "network_def", "network", "inferer", "postprocessing",
    "handlers", "evaluator::amp", "mirror_axes", "skip_empty", "nnunet_windows", "initialize", "run", "_meta_",
    "dataset", "unheard of",
)  # fmt: skip
NAME = "\x1b[2J\x9b1m\x07\rname"
BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmn"))
Write = Callable[[Path], object]


def put(name: str, text: str | bytes) -> Write:
    """Return what writes a file of a bundle."""

    def write(root: Path) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode(errors="surrogateescape") if isinstance(text, str) else text)

    return write


def config(content: Any, name: str = "inference.json") -> Write:
    return put(f"configs/{name}", json.dumps(content))


def at(key: str, value: Any) -> Any:
    for part in reversed(key.split("::")):
        value = {part: value}
    return value


def image(**entries: Any) -> Write:
    return config({"network_data_format": {"inputs": {"image": entries}}}, "metadata.json")


def link(name: str, target: str) -> Write:
    def write(root: Path) -> None:
        (root / name).symlink_to(target)

    return write


class Touch:
    """Makes the marker when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch marker",)


HOSTILE: dict[str, Write] = {
    **{f"expression: {name}": config({"network_def": code, "imports": [code]}) for name, code in EXPRESSIONS.items()},
    **{f"target: {name}": config({"network_def": entry, "inferer": entry}) for name, entry in TARGETS.items()},
    **{f"key: {key}": config(at(key, f"${TOUCH}")) for key in KEYS},
    "in a list": config({"handlers": [{"_target_": "CheckpointLoader", "load_path": f"${TOUCH}"}]}),
    "of training": config({"train": {"handlers": [f"${TOUCH}"]}}, "train.json"),
    "macro": config({"network_def": "%/etc/passwd"}),
    "scripts": put("scripts/__init__.py", TOUCH),
    "module that shadows": put("numpy.py", TOUCH),
    "sitecustomize": put("sitecustomize.py", TOUCH),
    "logging.conf": put("configs/logging.conf", f"[handlers]\nkeys=x\n[handler_x]\nclass={TOUCH}\nargs=({TOUCH},)\n"),
    "YAML tag": put("configs/inference.yaml", "x: !!python/object/apply:os.system ['touch marker']\n"),
    "YAML bomb": put("configs/train.yaml", BOMB),
    "YAML in itself": put("configs/train.yaml", "a: &a [*a]\n"),
    "pickle as TorchScript": put("models/model.ts", pickle.dumps(Touch())),
    "metadata too deep": put("configs/metadata.json", "[" * 100_000),
    "metadata too deep in objects": put("configs/metadata.json", '{"a":' * 100_000),
    "metadata of no numbers": image(num_channels="1e9"),
    "10^9 channels": image(num_channels=10**9),
    "codes of a terminal": config(
        {"network_data_format": {"outputs": {"pred": {"channel_def": {"1": NAME}}}}}, "metadata.json"
    ),
    "hundreds of folders": lambda root: (root / "/".join("d" * 900)).mkdir(parents=True),
    "folder linked to itself": link("scripts", "."),
    "file linked to itself": link("configs/train.json", "train.json"),
    "endless file": link("configs/train.json", "/dev/zero"),
}  # fmt: skip
COMMANDS = {
    "segment": ["segment", "scan.nii.gz", "-o", "seg.nii.gz", "-b"],
    "info": ["info"],
    "info --json": ["info", "--json"],
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text(TOUCH)
    for name in ("evil.pt", "evil.npy"):
        Path(name).write_bytes(pickle.dumps(Touch()))
    with nothing_trusted(tmp_path / "data"):
        yield


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_runs_before_the_yes(name: str, command: str) -> None:
    root = Path("bundle")
    config({})(root)
    config({}, "metadata.json")(root)
    HOSTILE[name](root)
    done = run_inside(*COMMANDS[command], "./bundle")
    assert not Path("marker").exists()
    if done.returncode:
        assert done.returncode == 2
        assert complaint(done)
    assert command != "segment" or done.returncode == 2
    assert not {letter for letter in done.stdout + done.stderr if not letter.isprintable()} - {"\n"}


def _zip_of_pickle(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Touch()))
        archive.writestr("archive/version", "3\n")


@pytest.mark.parametrize("write", [lambda path: path.write_bytes(pickle.dumps({"model": Touch()})), _zip_of_pickle])
def test_weights_never_run(write: Callable[[Path], object], bundle_folder: Path, real_scan: Path) -> None:
    shutil.copytree(bundle_folder / "configs", "bundle/configs")
    Path("bundle/models").mkdir()
    write(Path("bundle/models/model.pt"))
    done = run_inside("segment", real_scan, "-o", "seg.nii.gz", "-b", "./bundle", "--trust")
    assert done.returncode == 2
    assert "model.pt: " in complaint(done)
    assert not Path("marker").exists()


def test_a_scan_of_too_many_channels_is_refused_at_once(bundle_folder: Path, real_scan: Path) -> None:
    shutil.copytree(bundle_folder / "configs", "bundle/configs")
    image(num_channels=10**9)(Path("bundle"))
    done = run_inside("segment", real_scan, "-o", "seg.nii.gz", "-b", "./bundle", "--trust")
    assert done.returncode == 2
    assert f"num_channels: expected 1 to {MAX_CHANNELS}, got 1000000000" in complaint(done)


def test_a_set_of_too_many_bundles_is_refused_at_once(real_scan: Path) -> None:
    config({"members": [{"folder": "one", "labels": {"1": 1}}] * (MAX_MEMBERS + 1)}, "metadata.json")(Path("bundle"))
    done = run_inside("segment", real_scan, "-o", "seg.nii.gz", "-b", "./bundle", "--trust")
    assert done.returncode == 2
    assert f"members: cannot be read: {MAX_MEMBERS + 1} bundles, at most {MAX_MEMBERS} are allowed" in complaint(done)
