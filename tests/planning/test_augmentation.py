"""How a planned training changes scans at random, by MONAI's own transforms, built from the config."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from support.fingerprints import BUDGET, with_spacing
from tomoseg.planning.configs import make_configs
from tomoseg.planning.layout import Layout
from tomoseg.planning.rules import TrainingPlan, decide


def steps_of(plan: TrainingPlan) -> dict[str, Any]:
    """Return the random transforms of train.json by their classes."""
    steps = make_configs(plan, Layout(True), "bundle", "data")["train"]["train"]["random_transforms"]
    return {step["_target_"]: step for step in steps}


@pytest.mark.parametrize(
    ("spacing", "shrunk", "blurs"), [(1.0, 0.28, 1.5), (2.0, 0.5, 1.0), (0.4, 0.28, 1.5), (4.0, 0.5, 1.0)]
)
def test_fine_scans_are_seen_as_coarse_ones_are(spacing: float, shrunk: float, blurs: float) -> None:
    """As those of slices of 3.6 mm; along all axes, and by the blur of each axis for itself, along one."""
    fingerprint = with_spacing(spacing, spacing, spacing, (40, 40, 40))
    steps = steps_of(decide(fingerprint, "MR", BUDGET))
    assert steps["RandSimulateLowResolutiond"]["zoom_range"][0] == shrunk
    assert {steps["RandGaussianSmoothd"][f"sigma_{axis}"][1] for axis in "xyz"} == {blurs}


@pytest.mark.parametrize("coarse", [0, 1, 2])
def test_slices_of_scans_with_a_coarse_axis_are_turned_and_scaled_within_themselves(coarse: int) -> None:
    x, y, z = (3.0 if axis == coarse else 0.6 for axis in range(3))
    i, j, k = (20 if axis == coarse else 128 for axis in range(3))
    plan = decide(replace(with_spacing(x, y, z, (i, j, k)), coarse_spacing_mm=(x, y, z)), "MR", BUDGET)
    keys = {"image_key": "image", "label_key": "label", "cache_device": "cpu", "patch_size": list(plan.patch)}
    step = ConfigParser({**keys, "step": steps_of(plan)["RandAffined"]}).get_parsed_content("step")
    step.set_random_state(0)
    numbers = torch.arange(1.0, plan.crop[coarse] + 1).reshape([-1 if axis == coarse else 1 for axis in range(3)])
    scan = numbers.expand(plan.crop)[None].contiguous()
    middle = (plan.crop[coarse] - plan.patch[coarse]) // 2
    corners = []
    for _ in range(8):
        done = step({"image": scan, "label": scan})
        for key in ("image", "label"):
            slices = done[key][0].movedim(coarse, 0)
            for number, found in enumerate(slices, start=1 + middle):
                assert ((found - number).abs() < 1e-3).float().mean() > 0.9, "a slice holds none of another"
        corners.append(float((slices == 0).float().mean()))
    assert max(corners) > 0, "they are turned and scaled"
    assert max(corners) < 0.1
    smooth = steps_of(plan)["RandGaussianSmoothd"]
    assert [smooth[f"sigma_{axis}"][1] > 1 for axis in "xyz"] == [axis != coarse for axis in range(3)]


def test_short_scans_of_the_body_are_seen_as_a_window_pads_them() -> None:
    plan = decide(replace(with_spacing(2, 2, 2), intensity_low=-100.0, intensity_high=900.0), "CT", BUDGET)
    choice = steps_of(plan)["OneOf"]
    shape = (24, 20, 64)
    content = {"image_key": "image", "label_key": "label", "crop_size": shape, "step": choice["transforms"][1]}
    shorten = ConfigParser(content).get_parsed_content("step")
    shorten.set_random_state(0)
    lengths = set()
    for _ in range(60):
        done = shorten({"image": torch.full((1, *shape), 0.5), "label": torch.ones(1, *shape)})
        kept = done["label"] == 1
        assert kept.shape == (1, *shape)
        assert torch.equal(done["image"] == 0.5, kept)
        assert done["image"][~kept].eq(plan.outside).all()
        slices = kept.any(dim=(0, 1, 2))
        assert kept[..., slices].all(), "all of a slice, or nothing"
        lengths.add(int(slices.sum()))
    assert min(lengths) < 20
    assert max(lengths) > 50
