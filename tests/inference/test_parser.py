"""A bundle's config as MONAI reads it on this machine, from any folder and with scripts of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from support.blobs import blobs
from support.bundles import Json
from support.one_layer import ARGMAX, CONFIG, INVERT, NETWORK, write
from tomoseg import Segmentation, Segmenter, TomosegError, find_bundle
from tomoseg.inference.config import InferenceConfig

SCRIPT = """
import torch

class Net(torch.nn.Module):
    def __init__(self, outputs=3, returns=tuple):
        super().__init__()
        self.layer = torch.nn.Conv3d(1, outputs, 3, padding=1)
        self.returns = returns

    def forward(self, x):
        from scripts.late import as_logits
        logits = as_logits(self.layer(x))
        return logits if self.returns is None else self.returns([logits, logits])
"""


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nib.save(blobs()[0], path)
    return path


def segment(root: Path, scan: Path) -> Segmentation:
    return Segmenter.from_bundle(root, device="cpu", backend="torch")(scan)


@pytest.fixture(scope="module")
def plain(scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Segmentation:
    result = segment(write(tmp_path_factory.mktemp("plain") / "bundle", {}), scan)
    assert len(np.unique(result.labels)) == 3
    return result


@pytest.mark.parametrize("returns", ["$None", "$tuple", "$list"])
def test_scripts_are_importable_for_their_own_bundle_only(
    tmp_path: Path, scan: Path, plain: Segmentation, returns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = {"_target_": "scripts.net.Net", "returns": returns}
    first = {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x[0] if isinstance(x, (tuple, list)) else x"}
    steps = [*([first] if returns != "$None" else []), {**INVERT, "nearest_interp": False}, ARGMAX]
    config = {"network_def": network, "postprocessing": {"_target_": "Compose", "transforms": steps}}
    files = {"scripts/__init__.py": "", "scripts/net.py": SCRIPT, "scripts/late.py": "as_logits = lambda x: x"}
    other = type(sys)("scripts")
    monkeypatch.setitem(sys.modules, "scripts", other)
    path = list(sys.path)
    result = segment(write(tmp_path / "bundle", config, files), scan)
    np.testing.assert_array_equal(result.labels, plain.labels)
    assert sys.modules["scripts"] is other
    assert "scripts.net" not in sys.modules
    assert sys.path == path
    assert not list(tmp_path.rglob("__pycache__"))


def test_two_bundles_with_scripts_of_the_same_names(tmp_path: Path, scan: Path) -> None:
    config = {"network_def": {"_target_": "scripts.net.Net", "returns": "$None"}}
    found = []
    for sign in ("", "-"):
        files = {
            "scripts/__init__.py": "",
            "scripts/net.py": SCRIPT,
            "scripts/late.py": f"as_logits = lambda x: {sign}x",
        }
        root = write(tmp_path / f"bundle{sign}", config, files)
        found.append(Segmenter.from_bundle(root, device="cpu", backend="torch"))
    first, second = (segmenter(scan).labels for segmenter in found)
    assert (first != second).any()


PARTS = {"network": NETWORK, "more": {"inferer": "%deeper.yaml"}}
INCLUDED: dict[str, tuple[Json, str]] = {
    "a file": ({"network_def": "%parts.json::network"}, ""),
    "with a sharp": ({"network_def": "%parts.json#network"}, ""),
    "in a folder": ({"network_def": "%sub/net.json"}, ""),
    "from the bundle": ({"network_def": "%configs/sub/net.json"}, ""),
    "files in files": ({"inferer": "%parts.json::more::inferer"}, ""),
    "metadata": ({"network_def": {**NETWORK, "out_channels": "$len(@_meta_['classes'])"}}, ""),
    "elsewhere": ({"network_def": "%../../outside.json"}, "expected a file in the bundle's configs"),
    "results": ({"network_def": "%eval/net.json"}, "expected a file in the bundle's configs"),
    "itself": ({"network_def": "%round.json"}, "include each other"),
}


@pytest.mark.parametrize("name", INCLUDED)
def test_what_a_config_takes_in_lies_in_the_bundle(
    tmp_path: Path, scan: Path, plain: Segmentation, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, error = INCLUDED[name]
    files = {
        "configs/parts.json": json.dumps(PARTS),
        "configs/sub/net.json": json.dumps(NETWORK),
        "configs/deeper.yaml": json.dumps(CONFIG["inferer"]),
        "configs/round.json": json.dumps({"x": "%round.json"}),
        "eval/net.json": json.dumps(NETWORK),
        "../outside.json": json.dumps(NETWORK),
    }
    root = write(tmp_path / "a #bundle @of %", config, files, {"classes": ["a", "b", "c"]})
    monkeypatch.chdir(tmp_path)
    if error:
        with pytest.raises(TomosegError, match=error):
            segment(root, scan)
    else:
        np.testing.assert_array_equal(segment(root, scan).labels, plain.labels)


def test_labels_are_not_interpolated(tmp_path: Path, scan: Path) -> None:
    """As the judge, MONAI's own nearest neighbour; `plain` interpolates logits, and differs."""
    found = []
    for nearest in (False, True):
        steps = [ARGMAX, {**INVERT, "nearest_interp": nearest}]
        config = {"postprocessing": {"_target_": "Compose", "transforms": steps}}
        found.append(segment(write(tmp_path / str(nearest), config), scan))
    np.testing.assert_array_equal(found[0].labels, found[1].labels)
    assert any("nearest_interp: true" in note for note in found[0].stats.notes)
    assert not found[1].stats.notes


def test_one_hot_labels_are_interpolated_as_the_config_says(tmp_path: Path) -> None:
    steps = [{**ARGMAX, "to_onehot": 3}, {**INVERT, "nearest_interp": False}, ARGMAX]
    config = {"postprocessing": {"_target_": "Compose", "transforms": steps}}
    found = InferenceConfig(find_bundle(write(tmp_path / "bundle", config)))
    assert found.postprocessing.transforms[1].nearest_interp == (False,)
    assert found.notes == ()


ADAPTED: dict[str, tuple[Json, str]] = {
    "device": (
        {"extra": {"device": "cuda:0"}, "network_def": {**NETWORK, "device": "cuda"}},
        "network_def::device is set",
    ),
    "expression": (
        {"network_def": {**NETWORK, "device": "$torch.device('cuda:0')"}},
        "network_def::device is set to cpu",
    ),
    "adapting inferer": ({"inferer": {**CONFIG["inferer"], "_target_": "SlidingWindowInfererAdapt"}}, ""),
}


@pytest.mark.parametrize("name", ADAPTED)
def test_what_cannot_work_here_is_changed_with_a_note(
    tmp_path: Path, scan: Path, plain: Segmentation, name: str
) -> None:
    config, note = ADAPTED[name]
    result = segment(write(tmp_path / "bundle", config), scan)
    np.testing.assert_array_equal(result.labels, plain.labels)
    assert [one for one in result.stats.notes if note in one] if note else result.stats.notes == ()


def test_each_phase_is_a_channel_and_labels_are_not_loaded(tmp_path: Path, scan: Path) -> None:
    """As the zoo's bundle of renal structures in three phases, whose LoadImaged wants a label, too."""
    keys = ["artery", "vein"]
    preprocessing: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": [*keys, "label"]},
        {"_target_": "EnsureChannelFirstd", "keys": keys},
        {"_target_": "ConcatItemsd", "keys": keys, "name": "image"},
    ]
    config = {
        "preprocessing": {"_target_": "Compose", "transforms": preprocessing},
        "network_def": {"_target_": "torch.nn.Identity"},
        "postprocessing": {"_target_": "Compose", "transforms": [ARGMAX]},
    }
    metadata = {"network_data_format": {"inputs": {"image": {"num_channels": 2}}}}
    root = write(tmp_path / "bundle", config, metadata=metadata)
    torch.save({}, root / "models" / "model.pt")
    second = scan.with_name("second.nii.gz")
    image = nib.load(scan)
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj)[::-1].copy(), image.affine), second)
    result = Segmenter.from_bundle(root, device="cpu", backend="torch")([scan, second])
    first = np.asanyarray(image.dataobj)
    np.testing.assert_array_equal(result.labels, first[::-1] > first)
    assert "'preprocessing' loads no label, for a scan has none" in result.stats.notes


@pytest.mark.parametrize("whole", [True, False])
def test_one_of_several_configs_is_chosen_by_its_path(tmp_path: Path, scan: Path, whole: bool) -> None:
    """As MONAI does with several --config_file, a part of a config changes entries of the usual one."""
    root = write(tmp_path / "bundle", {}, {})
    other, usual = root / "configs" / "inference_other.yaml", root / "configs" / "inference.json"
    last = {"_target_": "AsDiscreted", "keys": "pred", "threshold": 99}
    part = {"postprocessing#transforms#1": last}
    other.write_text(json.dumps({**CONFIG, "postprocessing": {"_target_": "Compose", "transforms": [INVERT, last]}}))
    if not whole:
        other.write_text(json.dumps(part))
    assert segment(root, scan).labels.any()
    assert not segment(other, scan).labels.any()
    usual.unlink()
    with pytest.raises(TomosegError, match=r"Give the config that segments: -b .*NAME\.json"):
        segment(root, scan)
    if whole:
        assert not segment(other, scan).labels.any()
        return
    with pytest.raises(TomosegError, match="expected the entry 'preprocessing'"):
        segment(other, scan)


def test_a_bundle_named_relative_to_the_working_directory(
    tmp_path: Path, scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "bundle", {})
    monkeypatch.chdir(tmp_path)
    assert segment(Path("bundle"), scan).labels.any()


def test_an_evaluator_of_its_own_runs_as_it_is(tmp_path: Path, scan: Path, plain: Segmentation) -> None:
    script = """
from monai.engines import SupervisedEvaluator

class Mirrored(SupervisedEvaluator):
    def _iteration(self, engine, batch):
        self.inferer, inner = (lambda x, network: inner(x, network)[:, [2, 1, 0]]), self.inferer
        return super()._iteration(engine, batch)
"""
    evaluator = {
        "_target_": "scripts.own.Mirrored", "device": "@device", "val_data_loader": "@no such entry",
        "network": "@network_def", "inferer": "@inferer", "postprocessing": "@postprocessing",
    }  # fmt: skip
    files = {"scripts/own.py": script}
    result = segment(write(tmp_path / "bundle", {"evaluator": evaluator}, files), scan)
    np.testing.assert_array_equal(result.labels, 2 - plain.labels)
    assert any("the evaluator's scripts.own.Mirrored" in note for note in result.stats.notes)


def test_a_header_with_huge_voxels_fails_before_it_is_resampled(tmp_path: Path, scan: Path) -> None:
    root, path = write(tmp_path / "bundle", {}), tmp_path / "huge.nii.gz"
    nib.save(nib.Nifti1Image(np.asanyarray(nib.load(scan).dataobj), np.diag([500, 500, 500, 1])), path)
    for limit in ("1GB", None):
        segmenter = Segmenter.from_bundle(root, device="cpu", backend="torch", max_memory=limit)
        with pytest.raises(MemoryError, match=r"resampled to \(1\.7, 1\.7, 1\.7\) mm: its header declares"):
            segmenter(path)
