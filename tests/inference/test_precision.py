"""A faster precision runs by default where it was measured to leave the labels as good, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from support.bundles import dice
from support.command_line import run_inside
from support.trainings import check_data, tiny_bundle, write_dataset
from tomoseg import Segmenter, TomosegError, find_bundle
from tomoseg.bundle.precision import MAX_CHANGE, PRECISION, MeasuredPrecision, read_precision, safe_precisions
from tomoseg.bundle.trust import is_trusted, record
from tomoseg.core.files import sha256
from tomoseg.inference import backends
from tomoseg.inference.weights import hash_weights
from tomoseg.training.options import TrainingOptions
from tomoseg.training.precision import measure_precision
from tomoseg.training.run import train
from tomoseg.training.training import Trained

HASH = "ab" * 32
LABELS = ("anterior", "posterior")


@pytest.fixture
def faster(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor that gains by bf16; one that has none computes in fp32 when OpenVINO is asked for it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)


@pytest.fixture
def slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False}, raising=False)


def measured(weights: tuple[str, ...] = (HASH,), **change: float) -> MeasuredPrecision:
    return MeasuredPrecision(weights, 4, dict.fromkeys(LABELS, 0.9), {"bf16": change})


def measure_as_safe(bundle: Path) -> None:
    measured((sha256(bundle / "models" / "model.pt"),), anterior=0.0, posterior=-0.001).save(bundle)
    record(bundle)


@pytest.mark.parametrize(
    ("weights", "change", "safe"),
    [
        ((HASH,), {"anterior": 0.0, "posterior": -MAX_CHANGE}, True),
        ((HASH, "cd" * 32), {"anterior": 0.001, "posterior": 0.0}, True),
        ((HASH,), {"anterior": 0.0, "posterior": -MAX_CHANGE * 1.01}, False),
        ((HASH,), {"anterior": MAX_CHANGE * 1.01, "posterior": 0.0}, False),  # better by chance is no better
        ((HASH,), {"anterior": 0.0}, False),  # no case has the other label
        ((HASH,), {}, False),
        (("cd" * 32,), {"anterior": 0.0, "posterior": 0.0}, False),
        ((), {"anterior": 0.0, "posterior": 0.0}, False),
    ],
)
def test_a_precision_is_safe_if_each_label_was_measured_with_these_weights(
    tmp_path: Path, weights: tuple[str, ...], change: dict[str, float], safe: bool
) -> None:
    measured(weights, **change).save(tmp_path)
    assert safe_precisions(tmp_path, [HASH], LABELS) == ({"bf16"} if safe else set())


def test_without_a_measurement_or_weights_nothing_is_safe(tmp_path: Path) -> None:
    assert safe_precisions(tmp_path, [HASH], LABELS) == set()
    change = {"bf16": dict.fromkeys(LABELS, 0.0)}  # of labels that the network does not find, or of another dataset
    MeasuredPrecision((HASH,), 4, {"anterior": 0.9, "posterior": 0.1}, change).save(tmp_path)
    assert safe_precisions(tmp_path, [HASH], LABELS) == set()
    measured(anterior=0.0, posterior=0.0).save(tmp_path)
    assert safe_precisions(tmp_path, [], LABELS) == set()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weights": [1], "cases": 1, "dice": {}, "change": {}}', "\0"])
def test_a_damaged_file_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / PRECISION).write_text(text)
    with pytest.raises(TomosegError, match=r"precision\.json: cannot be read: .*\. Measure it again, or remove"):
        read_precision(tmp_path)


def test_the_default_is_the_safe_one_where_the_processor_gains(
    small_bundle: Path, real_scan: Path, faster: None
) -> None:
    record(small_bundle)
    before = Segmenter.from_bundle(small_bundle, device="cpu")
    assert (before.precision, before.advice.partition(" takes")[0]) == ("fp32", "--precision bf16")
    measure_as_safe(small_bundle)
    segmenter = Segmenter.from_bundle(small_bundle, device="cpu")
    assert (segmenter.precision, segmenter.backend, segmenter.advice) == ("bf16", "openvino", "")
    assert segmenter(real_scan).stats.precision == "bf16"
    other = small_bundle / "other.pt"
    torch.save({name: 2 * value for name, value in segmenter.networks[0].state_dict().items()}, other)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"precision": "fp32"}, "fp32"),
        ({"backend": "torch"}, "fp32"),  # the measurement is OpenVINO's
        ({"checkpoints": (str(other),)}, "fp32"),
        ({"checkpoints": (str(small_bundle / "models" / "model.pt"),)}, "bf16"),
    ]
    for options, expected in cases:
        assert Segmenter.from_bundle(small_bundle, device="cpu", **options).precision == expected


def test_the_bundle_comes_with_a_safe_network_in_int8(real_scan: Path) -> None:
    fast = Segmenter.from_bundle("hippocampus", device="cpu", fast=True)
    assert (fast.options.precision, fast.precision, fast.backend) == ("int8", "int8", "openvino")
    assert safe_precisions(fast.bundle.root, hash_weights(fast.weights), fast.names.values()) == {"bf16", "int8"}
    assert sum(path.stat().st_size for path in (fast.bundle.root / "models").glob("*_int8.*")) < 25e6
    full = Segmenter.from_bundle("hippocampus", device="cpu", precision="fp32")
    found, wanted = (one(real_scan).labels for one in (fast, full))
    for label in full.names:
        assert dice(found, wanted, label) > 0.98
    with pytest.raises(TomosegError, match="fast: is --precision int8, and does not go with --precision bf16"):
        Segmenter.from_bundle("hippocampus", fast=True, precision="bf16")


def test_a_damaged_measurement_is_read_only_where_it_decides(small_bundle: Path) -> None:
    (small_bundle / PRECISION).write_text("{")
    record(small_bundle)
    assert Segmenter.from_bundle(small_bundle, device="cpu", precision="fp32").precision == "fp32"
    with pytest.raises(TomosegError, match=r"precision\.json: cannot be read"):
        Segmenter.from_bundle(small_bundle, device="cpu")


def test_a_processor_that_does_not_gain_keeps_fp32(small_bundle: Path, slower: None) -> None:
    measure_as_safe(small_bundle)
    segmenter = Segmenter.from_bundle(small_bundle, device="cpu")
    assert (segmenter.precision, segmenter.advice) == ("fp32", "")


def test_torch_computes_in_fp32_what_openvino_cannot(
    small_bundle: Path, real_scan: Path, faster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # nothing was compiled before

    def convert(*_: Any) -> None:
        raise RuntimeError("no such operation")

    measure_as_safe(small_bundle)
    monkeypatch.setattr(backends.openvino_network, "convert", convert)
    result = Segmenter.from_bundle(small_bundle, device="cpu")(real_scan)
    assert (result.stats.backend, result.stats.precision) == ("torch", "fp32")
    reference = Segmenter.from_bundle(small_bundle, device="cpu", backend="torch")(real_scan)
    np.testing.assert_array_equal(result.labels, reference.labels)


def test_a_training_measures_the_cases_that_it_held_out(tmp_path: Path, faster: None) -> None:
    dataset = write_dataset(tmp_path / "data")
    folder = tiny_bundle(dataset, tmp_path / "bundle")
    bundle = find_bundle(folder)
    trained = train(bundle, dataset, TrainingOptions(fold=0, epochs=1, device="cpu", threads=1))
    found = read_precision(folder)
    assert found is not None
    assert found.weights == (sha256(folder / "models" / "model.pt"),)
    assert isinstance(trained, Trained)
    assert found.cases == len(trained.held_out)
    assert set(found.dice) == set(found.change["bf16"]) == {"Front", "Back part"}
    assert is_trusted(find_bundle(folder))
    (folder / PRECISION).unlink()
    record(folder)
    train(bundle, dataset, TrainingOptions(fold="none", epochs=1, device="cpu", threads=1, overwrite=True))
    assert read_precision(folder) is None, "nothing was held out"


def test_the_measured_dice_are_those_of_the_labels(hippocampus_data: Path, faster: None) -> None:
    bundle = find_bundle("hippocampus")
    weights = bundle.root / "models" / "model.pt"
    dataset = check_data(hippocampus_data)
    seen: list[str] = []
    found = measure_precision(
        bundle, dataset, [((weights,), pair) for pair in dataset.pairs], [weights], limit=2, on_case=seen.append
    )
    assert found.cases == 2
    assert len(seen) == 6, "each in three precisions"
    assert all(value > 0.8 for value in found.dice.values())
    assert all(abs(value) < 0.01 for value in found.change["bf16"].values())


@pytest.mark.slow
def test_doctor_shows_int8_beside_bf16_where_the_bundle_has_it() -> None:
    done = run_inside("doctor", "--measure", "hippocampus")
    rows = [line for line in done.stdout.splitlines() if "openvino" in line]
    assert [row.replace("│", " ").split()[0] for row in rows] == ["fp32", "bf16", "int8"], done.stdout
    assert "-0.0005 to -0.0002, 42 cases" in rows[2]
    assert "no" in rows[2].split(), "auto takes bf16 or fp32"


@pytest.mark.slow
def test_doctor_shows_and_measures(tmp_path: Path) -> None:
    assert run_inside("doctor", "--data", tmp_path).stderr == (
        "tomoseg: error: --data: is for --measure. Give a bundle with --measure BUNDLE.\n"
    )
    dataset = write_dataset(tmp_path / "data")
    folder = tiny_bundle(dataset, tmp_path / "bundle")
    train(find_bundle(folder), dataset, TrainingOptions(fold="none", epochs=1, device="cpu"))
    shown = run_inside("doctor", "--measure", folder)
    assert shown.returncode == 0, shown.stderr
    assert "not measured" in shown.stdout
    done = run_inside("doctor", "--measure", folder, "--data", dataset)
    if not backends.computes_faster("bf16"):
        assert done.stderr.startswith("tomoseg: error: --data: this machine has no faster precision")
        return
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / PRECISION).read_text())["cases"] == 6
    assert "6 cases" in done.stdout
