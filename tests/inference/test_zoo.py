"""The engine gives the labels of MONAI's evaluator on the segmentation bundles of MONAI's model zoo."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from support.bundles import voxels
from support.zoo import BUNDLES, SEGMENTED, ZOO, write_case, zoo_parser
from tomoseg import RunOptions, Segmenter, find_bundle

DENSE = (
    "renalStructures_CECT_segmentation",
    "spleen_deepedit_annotation",
    "vista3d",
)


def heavy_exhaustive(names: Iterable[str]) -> list[Any]:
    """Return the names; the network that takes longest runs with `scripts/test --all`."""
    return [pytest.param(name, marks=[pytest.mark.exhaustive] * ("UNEST" in name)) for name in names]


@pytest.mark.slow
@pytest.mark.skipif(not ZOO.is_dir(), reason="the zoo's configs are not on this machine")
@pytest.mark.parametrize("name", heavy_exhaustive(BUNDLES))
def test_a_bundle_of_the_zoo(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if name.startswith("swin"):
        pytest.importorskip("einops", reason="SwinUNETR needs einops")
    case = write_case(name, tmp_path / "case")
    found = {}
    for kind in ("stock", "ours"):
        caplog.clear()
        with zoo_parser(name, tmp_path / "bundle", [case]) as parser, caplog.at_level(logging.WARNING):
            parser["output_dir"] = str(tmp_path / kind)
            if kind == "ours":
                parser.update({"evaluator::_target_": "tomoseg.StreamingEvaluator", "evaluator::backend": "torch"})
            if "initialize" in parser:
                parser.get_parsed_content("initialize")
            parser.get_parsed_content("evaluator").run()
        (path,) = (tmp_path / kind).rglob("*.nii.gz")
        found[kind] = nib.load(path)
    said = [line for line in caplog.messages if "run by MONAI's own" in line]
    expected = f"run by MONAI's own evaluator: the engine does not support {BUNDLES[name].reason}"
    assert [line[: len(expected)] for line in said] == ([expected] if BUNDLES[name].reason else [])
    np.testing.assert_array_equal(voxels(found["ours"]), voxels(found["stock"]))
    np.testing.assert_allclose(found["ours"].affine, found["stock"].affine, atol=1e-6)
    assert len(np.unique(voxels(found["stock"]))) > 1


@pytest.mark.slow
@pytest.mark.skipif(not ZOO.is_dir(), reason="the zoo's configs are not on this machine")
@pytest.mark.parametrize("name", heavy_exhaustive(SEGMENTED))
def test_segment_runs_a_bundle_of_the_zoo(name: str, tmp_path: Path) -> None:
    """Its config on disk is the zoo's but for a small window; the judge gets the smallest override that it needs."""
    if "swin" in name:
        pytest.importorskip("einops", reason="SwinUNETR needs einops")
    zoo = SEGMENTED[name]
    case = write_case(name, tmp_path / "case")
    with zoo_parser(name, tmp_path / "bundle", [case]) as parser:
        config = copy.deepcopy(parser.config)
        parser.update({"output_dir": str(tmp_path / "stock"), **zoo.judge})
        if "initialize" in parser:
            parser.get_parsed_content("initialize")
        parser.get_parsed_content("evaluator").run()
    if zoo.without:
        config["network_def"][zoo.without] = [96, 96, 96]
    configs = tmp_path / "bundle" / "configs"
    for path in configs.glob(f"{zoo.config}.*"):
        path.unlink()
    (configs / f"{zoo.config}.json").write_text(json.dumps(config))
    images = case["image"] if isinstance(case.get("image"), list) else list(case.values())
    place = tmp_path / "bundle" if zoo.config == "inference" else configs / f"{zoo.config}.json"
    result = Segmenter(find_bundle(place), RunOptions(device="cpu", backend="torch"))(
        images if len(images) > 1 else images[0]
    )
    (path,) = (tmp_path / "stock").rglob("*.nii.gz")
    stock = voxels(nib.load(path))
    ours = np.moveaxis(result.labels, 0, -1) if result.overlapping else result.labels
    np.testing.assert_array_equal(ours, stock)
    assert len(np.unique(stock)) > 1
    assert not zoo.note or any(zoo.note in note for note in result.stats.notes)
    assert any("run by MONAI itself" in note for note in result.stats.notes) == bool(zoo.reason or name in DENSE)
