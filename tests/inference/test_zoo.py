"""`StreamingEvaluator` gives the labels of MONAI's evaluator on the segmentation bundles of MONAI's model zoo."""

from __future__ import annotations

import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from support.bundles import voxels
from support.zoo import BUNDLES, ZOO, write_case, zoo_parser


@pytest.mark.slow
@pytest.mark.skipif(not ZOO.is_dir(), reason="the zoo's configs are not on this machine")
@pytest.mark.parametrize("name", BUNDLES)
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
