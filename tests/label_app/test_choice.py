"""Which image is to be labelled next, and what that is judged by."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tomoseg import Segmenter, Volume, read_volume
from tomoseg.bundle.registry import find_bundle
from tomoseg.inference.config import InferenceConfig
from tomoseg.label_app.activelearning.acquisition_scores import describe_image, mean_entropy
from tomoseg.label_app.activelearning.choice import choose_diverse, choose_random, choose_uncertain
from tomoseg.label_app.score_store import AcquisitionScores

NUMBERS = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(0, 1), min_size=1)


@given(NUMBERS)
def test_the_most_uncertain_is_chosen(values: dict[str, float]) -> None:
    scores = {name: {"entropy": value, "expected_dice": value} for name, value in values.items()}
    assert values[str(choose_uncertain(list(values), scores, "entropy"))] == max(values.values())
    assert values[str(choose_uncertain(list(values), scores))] == min(values.values())
    assert choose_uncertain(["elsewhere"], scores) is None
    assert choose_random(list(values), random.Random(0)) in values


def test_the_least_alike_is_chosen() -> None:
    places = {"a": [0.0, 0.0], "b": [0.1, 0.0], "c": [5.0, 0.0], "d": [0.0, 2.0]}
    scores = {name: {"features": place} for name, place in places.items()}
    chosen: list[str] = []
    for _ in places:
        chosen.append(str(choose_diverse([name for name in places if name not in chosen], chosen, scores)))
    assert chosen[1:] == ["c", "d", "a"]  # after the one in the middle
    assert choose_diverse(["e"], ["a"], scores) is None


def test_a_noisy_scan_is_less_certain(real_scan: Path) -> None:
    segmenter = Segmenter.from_bundle("hippocampus", device="cpu", uncertainty=True)
    volume = read_volume(real_scan)
    noise = np.random.default_rng(0).normal(0, 1.0 * volume.array.std(), volume.array.shape).astype(np.float32)
    noisy = Volume(volume.array + noise, volume.grid, "noisy")
    assert mean_entropy(segmenter(noisy)) > 1.2 * mean_entropy(segmenter(volume))
    with pytest.raises(ValueError, match="uncertainty=True"):
        mean_entropy(Segmenter.from_bundle("hippocampus", device="cpu")(volume))


def test_features_tell_scans_apart(real_scan: Path) -> None:
    bundle = find_bundle("hippocampus")
    segmenter = Segmenter(bundle)
    inferer = InferenceConfig(bundle).inferer
    volume = read_volume(real_scan)

    def describe(array: np.ndarray) -> np.ndarray:
        prepared = segmenter.prepare(Volume(np.ascontiguousarray(array), volume.grid, "scan"))
        return describe_image(prepared.image.as_tensor(), segmenter.networks[0], inferer)

    same, scaled, turned = describe(volume.array), describe(volume.array * 7), describe(volume.array[:, :, ::-1])
    assert same.shape == (192,)  # the bottleneck's channels
    assert np.linalg.norm(same) == pytest.approx(1, abs=1e-5)
    assert np.linalg.norm(same - scaled) < 1e-3 < np.linalg.norm(same - turned)


def test_scores_are_of_one_version_of_the_weights(tmp_path: Path) -> None:
    first = AcquisitionScores(tmp_path / "scores.json", "abc")
    assert first.read() == {}
    first.add("one", {"entropy": 0.5})
    first.add("one", {"features": [1.0]})
    assert first.read() == {"one": {"entropy": 0.5, "features": [1.0]}}
    second = AcquisitionScores(tmp_path / "scores.json", "def")
    assert second.read() == {}
    second.add("two", {"entropy": 0.1})
    assert first.read() == {}
    (tmp_path / "scores.json").write_text("{")
    assert second.read() == {}
