"""The rules of planning: published choices on known data, and what holds for any data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.fingerprints import BUDGET, HIPPOCAMPUS, with_spacing
from support.tiers import examples
from tomoseg.core.errors import UsageError
from tomoseg.planning.fingerprint import LabelPlace, LabelPrint, find_opposite
from tomoseg.planning.network import Network, shape_levels
from tomoseg.planning.options import PlanningOptions
from tomoseg.planning.presets import PRESETS
from tomoseg.planning.rules import decide


def test_hippocampus_gets_the_window_that_nnunet_published() -> None:
    plan = decide(HIPPOCAMPUS, "MR", BUDGET)
    assert plan.patch == (40, 56, 40)
    assert plan.spacing_mm == (1, 1, 1)
    assert plan.network.filters == (24, 48, 96, 192)
    assert decide(HIPPOCAMPUS, "MR", PlanningOptions(24 * 10**9, "cuda")).network.filters == (32, 64, 128, 256)
    assert plan.intensities is None
    assert plan.mirror_axes == (0,)
    assert not plan.cut


def test_a_coarse_axis_gets_the_tenth_percentile_beyond_3_to_1() -> None:
    budget = PlanningOptions(24 * 10**9, "cuda")
    assert decide(with_spacing(1.0, 1.0, 5.0), "MR", budget).spacing_mm == (1.0, 1.0, 4.0)
    assert decide(with_spacing(1.0, 1.0, 2.9), "MR", budget).spacing_mm == (1.0, 1.0, 2.9)


def test_a_coarse_axis_is_halved_later_and_convolved_later() -> None:
    network = decide(with_spacing(1.0, 1.0, 5.0), "MR", PlanningOptions(24 * 10**9, "cuda")).network
    assert network.kernels[0] == (3, 3, 1)
    assert network.strides[1] == (2, 2, 1)
    assert network.kernels[-1] == (3, 3, 3)


def test_few_slices_make_a_window_of_few_slices() -> None:
    """As of the heart, along its short axis: 8 slices of 10 mm; they are not padded to 16."""
    for shape, slices in (((200, 220, 8), 8), ((200, 220, 3), 4), ((200, 220, 9), 10)):
        heart = replace(with_spacing(1.5, 1.5, 10.0, shape), coarse_spacing_mm=(1.5, 1.5, 10.0))
        plan = decide(heart, "MR", BUDGET)
        assert plan.patch[2] == slices
        assert plan.coarse == (False, False, True)


def test_scans_beyond_the_reach_of_moved_windows_are_cut() -> None:
    small = with_spacing(1.0, 1.0, 1.0, (40, 56, 40))
    assert not decide(replace(small, largest_extent_mm=(48.0, 66.0, 48.0)), "MR", BUDGET).cut
    assert decide(replace(small, largest_extent_mm=(49.0, 66.0, 48.0)), "MR", BUDGET).cut
    # along a coarse axis no window is moved
    flat = with_spacing(1.0, 1.0, 5.0, (128, 128, 16))
    same = decide(replace(flat, coarse_spacing_mm=(1.0, 1.0, 5.0)), "MR", BUDGET)
    assert (same.patch, same.cut) == ((128, 128, 16), False)
    longer = replace(flat, coarse_spacing_mm=(1.0, 1.0, 5.0), largest_extent_mm=(128.0, 128.0, 85.0))
    assert decide(longer, "MR", BUDGET).cut


def test_a_deep_network_on_a_gpu_has_fewer_features_at_its_coarse_levels_not_at_its_fine_ones() -> None:
    network = decide(with_spacing(1.25, 1.25, 1.37, (320, 320, 110)), "MR", PlanningOptions(24 * 10**9, "cuda")).network
    assert len(network.filters) == 6
    assert network.filters[0] == 16
    assert network.filters[-1] < 256


def test_a_small_network_stays_below_3_mb_and_is_trained_for_longer() -> None:
    plan = decide(HIPPOCAMPUS, "MR", PlanningOptions(8 * 10**9, "cpu", "small"))
    assert plan.network.filters == (12, 24, 48, 80)
    assert plan.network.parameters * 4 < 3e6
    assert plan.epochs["cpu"] > decide(HIPPOCAMPUS, "MR", BUDGET).epochs["cpu"]


def test_scans_too_large_for_the_window_are_seen_coarser() -> None:
    plan = decide(with_spacing(0.5, 0.5, 0.5, shape=(700, 700, 700)), "MR", BUDGET)
    assert min(plan.spacing_mm) > 1
    assert "coarser" in plan.reasons["spacing_mm"]
    whole = math.prod(350 / mm for mm in plan.spacing_mm)
    assert whole / math.prod(plan.patch) < 100


@settings(max_examples=examples(60), deadline=None)
@given(
    spacing=st.tuples(*[st.floats(0.3, 6)] * 3),
    shape=st.tuples(*[st.integers(20, 512)] * 3),
    labels=st.integers(1, 20),
    device=st.sampled_from(["cpu", "cuda"]),
    preset=st.sampled_from(sorted(PRESETS)),
    memory=st.sampled_from([4, 8, 40]),
)
def test_every_plan_can_be_built_and_fits(
    spacing: tuple[float, float, float], shape: tuple[int, int, int], labels: int, device: Any, preset: Any, memory: int
) -> None:
    named = tuple(LabelPrint(value, f"organ {value}", 9, 9, 1.0) for value in range(1, labels + 1))
    budget = PlanningOptions(memory * 10**9, device, preset)
    plan = decide(replace(with_spacing(*spacing, shape=shape), labels=named), "MR", budget)
    network = plan.network
    assert all(size % by == 0 for size, by in zip(plan.patch, network.divisor, strict=True))
    assert len(network.kernels) == len(network.strides) == len(network.filters) >= 3
    assert max(size // by for size, by in zip(plan.patch, network.divisor, strict=True)) >= 2  # DynUNet's own demand
    assert network.training_bytes(plan.patch, plan.batch) <= budget.memory_bytes
    assert network.parameters <= PRESETS[preset].parameters * 1e6
    # an even difference: a crop is turned about the middle of the window
    for crop, size, coarse in zip(plan.crop, plan.patch, plan.coarse, strict=True):
        assert (crop - size) % 2 == 0
        assert (crop == size) if coarse else (crop > size)
    assert set(plan.choices()) == set(plan.reasons)
    assert plan == decide(replace(with_spacing(*spacing, shape=shape), labels=named), "MR", budget)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 4.0)])
def test_parameters_are_those_that_monai_builds(spacing: tuple[float, float, float], residual: bool) -> None:
    from monai.bundle import ConfigParser

    kernels, strides = shape_levels((64, 64, 32), spacing, 4)
    network = Network(3, tuple(kernels), tuple(strides), tuple(8 * 2**i for i in range(len(strides))), residual)
    built = ConfigParser({"network": network.config(supervised=False)}).get_parsed_content("network")
    assert sum(parameter.numel() for parameter in built.parameters()) == network.parameters


def test_too_little_memory_is_reported() -> None:
    with pytest.raises(UsageError, match=r"memory: expected at least .* GB for 3 labels, got 0\.1 GB"):
        decide(HIPPOCAMPUS, "MR", PlanningOptions(10**8, "cpu"))


@pytest.mark.parametrize(("arguments", "reported"), [((1, "tpu"), "device"), ((1, "cpu", "huge"), "preset")])
def test_unknown_hardware_and_presets_are_reported(arguments: tuple[Any, ...], reported: str) -> None:
    with pytest.raises(UsageError, match=f"{reported}: expected "):
        PlanningOptions(*arguments)


def test_ct_is_scaled_by_the_fingerprint_and_mri_by_itself() -> None:
    ct = decide(HIPPOCAMPUS, "CT", BUDGET)
    assert ct.intensities == (28.0, 265104.0, 19609.8, 56154.8)
    assert decide(replace(HIPPOCAMPUS, zeros=0.6), "MR", BUDGET).nonzero


def test_labels_with_a_side_by_name_or_by_place_are_not_mirrored() -> None:
    sided = (LabelPrint(1, "Kidney, left", 5, 5, 1.0), LabelPrint(2, "Kidney, right", 5, 5, 1.0))
    assert decide(replace(HIPPOCAMPUS, labels=sided), "MR", BUDGET).mirror_axes == ()
    placed = decide(replace(HIPPOCAMPUS, opposite=((1, 2),)), "MR", BUDGET)
    assert placed.mirror_axes == ()
    assert "Anterior and Posterior" in placed.reasons["mirror_axes"]


@pytest.mark.parametrize(
    ("names", "mirrored"),
    [
        (["parotid_right", "parotid_left", "mandible"], False),
        (["LeftLung", "RightLung"], False),
        (["LtKidney", "RtKidney"], False),
        (["ParotidL", "ParotidR"], False),
        (["hippocampus L", "hippocampus R"], False),
        (["left_kidney", "tumour"], False),  # the other kidney is background
        (["vertebra L5", "vertebra T12"], True),
        (["liver", "lesion", "tracheal wall"], True),
    ],
)
def test_no_label_with_a_side_in_its_name_is_mirrored(names: list[str], mirrored: bool) -> None:
    labels = tuple(LabelPrint(value, name, 5, 5, 1.0) for value, name in enumerate(names, start=1))
    assert decide(replace(HIPPOCAMPUS, labels=labels), "MR", BUDGET).mirror_axes == ((0,) if mirrored else ())


def test_labels_beside_each_other_are_opposite_only_if_always_in_one_order() -> None:
    def case(x: float, volume: float = 1.0, y: float = 0.0) -> dict[int, LabelPlace]:
        return {1: LabelPlace(9, 1.0, (0.0, 0.0, 0.0)), 2: LabelPlace(9, volume, (x, y, 0.0))}

    assert find_opposite([case(20.0)] * 4) == ((1, 2),)
    assert find_opposite([case(20.0), case(-20.0)] * 2) == ()
    assert find_opposite([case(20.0, y=15.0)] * 4) == ()
    assert find_opposite([case(20.0, volume=5.0)] * 4) == ()
    assert find_opposite([case(20.0)] * 2) == ()  # too few to decide
