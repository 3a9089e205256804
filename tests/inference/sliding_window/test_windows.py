"""Windows and their weights where a bundle declares nnU-Net's."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.inferers import SlidingWindowInferer

from tomoseg import Segmenter
from tomoseg.inference.sliding_window.windows import importance_map, place_windows


def nnunet_inferer(roi_size: tuple[int, int, int], overlap: float = 0.5) -> SlidingWindowInferer:
    inferer = SlidingWindowInferer(roi_size, overlap=overlap, mode="gaussian")
    inferer.nnunet_windows = True
    return inferer


# first voxels as nnunetv2 2.8.1's compute_steps_for_sliding_window gives them
@pytest.mark.parametrize(
    ("size", "overlap", "starts"),
    [
        (30, 0.5, [0]),
        (40, 0.5, [0]),
        (41, 0.5, [0, 1]),
        (90, 0.5, [0, 17, 33, 50]),
        (100, 0.5, [0, 20, 40, 60]),
        (100, 0.2, [0, 30, 60]),
    ],
)
def test_windows_are_evenly_spread(size: int, overlap: float, starts: list[int]) -> None:
    windows = place_windows((size, 8, 8), nnunet_inferer((40, 8, 8), overlap))
    assert [start for start, _ in windows.groups] == starts
    assert windows.shape == (max(size, 40), 8, 8)


def test_weights_are_float16_around_half_the_size() -> None:
    inferer = nnunet_inferer((16, 8, 6))
    weights = importance_map(place_windows((16, 8, 6), inferer), inferer, torch.device("cpu")).numpy()
    assert weights[8, 4, 3] == weights.max()
    assert weights.max() == 10
    assert weights.min() > 0
    assert np.array_equal(weights, weights.astype(np.float16))


def test_the_evaluator_finds_what_the_segmenter_does(bundle_copy: Path, real_scan: Path, tmp_path: Path) -> None:
    path = bundle_copy / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["inferer"]["roi_size"] = [24, 32, 24]
    path.write_text(json.dumps({**config, "nnunet_windows": True}))
    wanted = Segmenter.from_bundle(bundle_copy, backend="torch")(real_scan).labels
    found = {}
    for declared in (True, False):
        parser = ConfigParser(config)
        parser.update({"dataset_dir": str(real_scan.parent), "output_dir": str(tmp_path / str(declared))})
        parser.update({"bundle_root": f"$bytes.fromhex('{str(bundle_copy).encode().hex()}').decode()"})
        parser["evaluator::_target_"] = "tomoseg.StreamingEvaluator"
        parser.update({"evaluator::nnunet_windows": declared, "evaluator::backend": "torch"})
        parser.get_parsed_content("evaluator").run()
        written = next((tmp_path / str(declared)).rglob("*.nii.gz"))
        found[declared] = np.asarray(nib.load(written).dataobj)
    np.testing.assert_array_equal(found[True], wanted)
    assert (found[False] != wanted).any()
