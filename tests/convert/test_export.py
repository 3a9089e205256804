"""Exported networks give PyTorch's logits in their own runtimes; what does not is not kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.bundles import load_network, random_window
from support.command_line import run_inside
from support.disk import full_disk
from support.tiers import rest_slow
from tomoseg import TomosegError, find_bundle
from tomoseg.convert.export.export import export
from tomoseg.convert.export.export_source import load_origin
from tomoseg.convert.export.formats import FORMATS
from tomoseg.convert.export.parity import Runner, compare
from tomoseg.convert.export.samples import real_samples, spread
from tomoseg.core.errors import BackendError, OutputError

Runtime = Callable[[Path, torch.Tensor], Any]
FULL_PRECISION = [name for name, kind in FORMATS.items() if kind.packages != ("torch_tensorrt",) and kind.tolerance]


def run_onnx(file: Path, batch: torch.Tensor) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"]).run(
        ["pred"], {"image": batch.numpy()}
    )[0]


def run_torchscript(file: Path, batch: torch.Tensor) -> Any:
    return torch.jit.load(file)(batch).detach().numpy()  # type: ignore[no-untyped-call]


def run_program(file: Path, batch: torch.Tensor) -> Any:
    return torch.export.load(file).module()(batch).detach().numpy()


def run_openvino(file: Path, batch: torch.Tensor) -> Any:
    from tomoseg.inference.backends.openvino_model import openvino_core

    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino_core().compile_model(file, "CPU", hints)(batch.numpy())[0]


# each as its users run it, and how many windows at once
RUNTIMES: dict[str, tuple[Runtime, int]] = {
    "onnx": (run_onnx, 3),
    "torchscript": (run_torchscript, 3),
    "torch-export": (run_program, 3),
    "openvino": (run_openvino, 1),
}


@pytest.mark.parametrize("format_name", rest_slow(sorted(FULL_PRECISION, key="torchscript".__ne__)))
def test_the_file_gives_the_networks_scores(
    format_name: str, bundle_folder: Path, real_scan: Path, tmp_path: Path
) -> None:
    file = tmp_path / f"net{FORMATS[format_name].suffix}"
    made = export(find_bundle("hippocampus"), format_name, file, calibration=[real_scan])
    runtime, batch_size = RUNTIMES[format_name]
    batch = torch.cat([random_window(bundle_folder).flip(axis) for axis in range(batch_size)])
    with torch.no_grad():
        wanted = load_network(bundle_folder, bundle_folder / "models" / "model.pt")(batch).numpy()
    np.testing.assert_allclose(runtime(file, batch), wanted, atol=1e-4 * float(np.ptp(wanted)))
    assert (made.format, made.scans, made.check_windows) == (format_name, 1, 1)
    assert 0 <= made.largest_difference < 1e-4
    assert made.mean_dice == pytest.approx(1, abs=1e-3)
    assert set(made.dice) == {"anterior", "posterior"}
    assert made.notes == ()
    assert sorted(tmp_path.iterdir()) == sorted(map(Path, made.files))
    assert made.size_bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_torchscript_reports_what_it_was_made_from(small_bundle: Path) -> None:
    """As MONAI's own export: MONAI Deploy reads config and metadata from the file. It lies beside the weights."""
    from monai.data import load_net_with_metadata

    made = export(find_bundle(small_bundle), "torchscript")
    assert made.files == (str(small_bundle / "models" / "model.ts"),)
    _, metadata, extra = load_net_with_metadata(made.files[0], more_extra_files=["inference.json"])
    assert metadata["name"] == "Hippocampus MR segmentation"
    assert json.loads(extra["inference.json"]) == json.loads((small_bundle / "configs" / "inference.json").read_text())
    assert made.notes == ("checked on random windows. Give real scans with --calibration",)
    assert made.scans == 0


def test_other_weights_are_exported_beside_them(bundle_folder: Path, tmp_path: Path) -> None:
    weights = torch.load(bundle_folder / "models" / "model.pt", weights_only=True)
    halved = {name: weight / 2 if name.startswith("output_block") else weight for name, weight in weights.items()}
    torch.save({"model": halved}, tmp_path / "fold0.pt")  # as MONAI's CheckpointSaver writes it
    export(find_bundle("hippocampus"), "torchscript", checkpoint=tmp_path / "fold0.pt")
    window = random_window(bundle_folder)
    with torch.no_grad():
        wanted = load_network(bundle_folder, bundle_folder / "models" / "model.pt")(window).numpy() / 2
    np.testing.assert_allclose(run_torchscript(tmp_path / "fold0.ts", window), wanted, atol=1e-4)


class Branching(torch.nn.Module):
    """Its computation depends on the brightness of a window; a trace follows one way for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv3d(1, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(x - 0.5 if x.mean() > 0.5 else x)
        return logits


class Plain(Branching):
    """Computes the same of every window."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.layer(x)
        return logits


class Unscriptable(Branching):
    """TorchScript knows no keyword arguments of any name."""

    def forward(self, x: torch.Tensor, **others: Any) -> torch.Tensor:
        logits: torch.Tensor = self.layer(x, **others)
        return logits


@pytest.fixture
def other_network(bundle_copy: Path) -> Callable[[type[Branching]], Path]:
    """Returns what puts another network into a bundle."""

    def put(kind: type[Branching]) -> Path:
        path = bundle_copy / "configs" / "inference.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "network_def": {"_target_": f"{kind.__module__}.{kind.__name__}"}}))
        torch.save(kind().state_dict(), bundle_copy / "models" / "model.pt")
        return bundle_copy

    return put


def test_a_branch_that_would_be_frozen_is_not_kept(other_network: Callable[[type[Branching]], Path]) -> None:
    bundle = other_network(Branching)
    files = sorted(bundle.rglob("*"))
    with pytest.raises(BackendError, match=r"model\.xml: not kept, for its logits are off by .* of their range"):
        export(find_bundle(bundle), "openvino")
    assert sorted(bundle.rglob("*")) == files
    assert export(find_bundle(bundle), "torchscript").largest_difference < 1e-6  # which keeps both ways


def test_what_cannot_be_scripted_is_traced(other_network: Callable[[type[Branching]], Path]) -> None:
    made = export(find_bundle(other_network(Unscriptable)), "torchscript")
    assert "traced, because TorchScript does not support all of its code" in made.notes
    assert made.largest_difference < 1e-6


def test_what_fails_halfway_leaves_nothing(small_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of an earlier export stays as it was."""
    (small_bundle / "models" / "model.onnx").write_text("an earlier one")
    files = sorted(small_bundle.rglob("*"))

    def write(source: Any, file: Path, samples: Any) -> Iterator[str]:
        file.write_text("half")
        yield from FORMATS["torchscript"].write(source, file.with_name("net.ts"), samples)
        raise RuntimeError("no such operation")

    kind = replace(FORMATS["onnx"], write=write, read=lambda file: lambda window: window)
    monkeypatch.setitem(FORMATS, "onnx", kind)
    with pytest.raises(BackendError, match=r"model\.onnx: .*: expected logits of shape"):
        export(find_bundle(small_bundle), "onnx", overwrite=True)
    kind = replace(kind, read=lambda file: lambda window: torch.full((1, 3, *window.shape[2:]), torch.nan))
    monkeypatch.setitem(FORMATS, "onnx", kind)
    with pytest.raises(BackendError, match=r"model\.onnx: .* cannot be exported to onnx: no such operation"):
        export(find_bundle(small_bundle), "onnx", overwrite=True)
    assert sorted(small_bundle.rglob("*")) == files
    assert (small_bundle / "models" / "model.onnx").read_text() == "an earlier one"


@pytest.mark.parametrize("format_name", FULL_PRECISION)
def test_a_full_disk_leaves_nothing(
    format_name: str, other_network: Callable[[type[Branching]], Path], tmp_path: Path
) -> None:
    bundle = find_bundle(other_network(Branching if format_name == "torchscript" else Plain))
    out = tmp_path / "out"
    with full_disk(100), pytest.raises((BackendError, OutputError), match=r"^/.*out"):
        export(bundle, format_name, out / f"net{FORMATS[format_name].suffix}")
    assert list(out.iterdir()) == []


def test_scores_that_are_not_finite_are_not_near(small_bundle: Path, real_scan: Path) -> None:
    source = load_origin(find_bundle(small_bundle))
    windows = real_samples(source, [real_scan], False, print).check
    same = compare(source, source.network, windows)
    assert (same.largest_difference, same.mean_dice) == (0, 1)

    def broken(window: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = source.network(window)
        logits[0, 0, 0, 0, 0] = torch.nan
        return logits

    for order in ((broken, source.network), (source.network, broken)):  # in any window
        turns: Iterator[Runner] = iter(order)
        found = compare(source, lambda window, turns=turns: next(turns)(window), [*windows, *windows])  # type: ignore[misc]
        assert FORMATS["onnx"].reason(found, 0.01) == "its logits are off by nan of their range"


def test_dice_is_that_of_the_masks(real_scan: Path) -> None:
    source = load_origin(find_bundle("hippocampus"))
    windows = real_samples(source, [real_scan], False, print).check

    def shifted(window: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = source.network(window).roll(1, dims=2)
        return logits

    found = compare(source, shifted, windows)
    with torch.no_grad():
        labels = source.network(windows[0]).argmax(1)
    for value, name in enumerate(("anterior", "posterior"), 1):
        one, other = labels == value, labels.roll(1, dims=1) == value
        assert found.dice[name] == pytest.approx(float(2 * (one & other).sum() / (one.sum() + other.sum())))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format_name": "caffe"}, "format: expected onnx, torchscript, .*, got 'caffe'"),
        ({"format_name": "onnx", "output": Path("net.pt")}, r"net\.pt: expected a name that ends in \.onnx, for onnx"),
        ({"format_name": "openvino-int8"}, "openvino-int8 needs real scans. Give some with --calibration FOLDER"),
        ({"format_name": "onnx", "checkpoint": Path("no.pt")}, r"no\.pt: no such checkpoint"),
        ({"format_name": "onnx", "max_dice_loss": 2.0}, "max_dice_loss: expected a share from 0 to 1, got 2"),
        ({"format_name": "onnx", "calibration": [Path("empty")]}, "empty: contains no scans"),
        ({"format_name": "onnx", "calibration": [Path("no.nii.gz")]}, r"no\.nii\.gz: no such file"),
    ],
)
def test_what_cannot_be_is_reported(
    arguments: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TomosegError, match=message):
        export(find_bundle("hippocampus"), **arguments)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_files_are_not_replaced_unasked(small_bundle: Path) -> None:
    (small_bundle / "models" / "model.ts").write_text("mine")
    with pytest.raises(TomosegError, match=r"model\.ts: exists. Pass --overwrite to replace it"):
        export(find_bundle(small_bundle), "torchscript")
    assert (small_bundle / "models" / "model.ts").read_text() == "mine"
    export(find_bundle(small_bundle), "torchscript", overwrite=True)
    assert (small_bundle / "models" / "model.ts").read_bytes() != b"mine"


def test_nor_are_those_that_come_with_them(small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "net.bin").write_text("mine")
    with pytest.raises(TomosegError, match=r"net\.bin: exists. Pass --overwrite to replace it"):
        export(find_bundle(small_bundle), "openvino", tmp_path / "net.xml")
    assert {path.name: path.read_text() for path in tmp_path.glob("net*")} == {"net.bin": "mine"}


@pytest.mark.parametrize("roi_size", [[40, 56, -1], [0, 0, 0]])
def test_windows_must_be_of_one_size(bundle_copy: Path, roi_size: list[int]) -> None:
    path = bundle_copy / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["inferer"]["roi_size"] = roi_size
    path.write_text(json.dumps(config))
    with pytest.raises(TomosegError, match=r"inference\.json: expected a roi_size of three voxels"):
        export(find_bundle(bundle_copy), "onnx")
    config["inferer"] = {"_target_": "SliceInferer", "roi_size": [56, 40], "spatial_dim": 0}
    path.write_text(json.dumps(config))
    with pytest.raises(TomosegError, match=r"expected a SlidingWindowInferer, .*; got the inferer SliceInferer"):
        export(find_bundle(bundle_copy), "onnx")


@pytest.mark.parametrize("format_name", FORMATS)
def test_missing_packages_are_reported(format_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tomoseg.convert.export import formats

    kind = FORMATS[format_name]
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    if kind.packages:
        advice = {"tensorrt": r'"tomoseg\[tensorrt\]"', "openvino": "openvino"}.get(format_name, r'"tomoseg\[export\]"')
        with pytest.raises(TomosegError, match=rf"{kind.packages[0]} is not installed. .*pip install {advice}$"):
            export(find_bundle("hippocampus"), format_name, tmp_path / f"net{kind.suffix}")
    else:
        kind.require()


@pytest.mark.skipif(torch.cuda.is_available(), reason="for computers without a GPU")
def test_tensorrt_without_a_gpu_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI's own export is called as it wants to be, as far as it comes without a GPU."""
    from tomoseg.convert.export import formats

    monkeypatch.setattr(formats, "find_spec", lambda name: True)
    with pytest.raises(
        TomosegError, match="format: tensorrt is made for the NVIDIA GPU of this computer, and there is no"
    ):
        export(find_bundle("hippocampus"), "tensorrt", tmp_path / "net.ts")
    monkeypatch.setitem(FORMATS, "tensorrt", replace(FORMATS["tensorrt"], gpu=False))
    with pytest.raises(BackendError, match=r"net\.ts: .* cannot be exported to tensorrt: Cannot find any GPU devices"):
        export(find_bundle("hippocampus"), "tensorrt", tmp_path / "net.ts")
    assert list(tmp_path.iterdir()) == []


@given(st.lists(st.integers(), unique=True), st.integers(1, 20))
def test_what_is_spread_is_in_order_and_even(items: list[int], count: int) -> None:
    found = spread(items, count)
    assert len(found) == min(len(items), count)
    places = [items.index(item) for item in found]
    assert places == sorted(set(places))
    if found:
        steps = np.diff([*places, len(items)])
        assert places[0] == 0
        assert steps.max() - steps.min() <= 1


@pytest.mark.slow
def test_the_command_line(bundle_copy: Path, real_scan: Path) -> None:
    command = ["export", bundle_copy, "--format", "torchscript"]
    done = run_inside(*command, "--calibration", real_scan, "--json")
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    assert reported["files"] == [str(bundle_copy / "models" / "model.ts")]
    assert reported["mean_dice"] == 1
    again = run_inside(*command)
    assert again.returncode == 2
    assert again.stderr.startswith("tomoseg: error: ")
    assert again.stderr.endswith("model.ts: exists. Pass --overwrite to replace it\n")
    plain = run_inside(*command, "--overwrite")
    assert plain.returncode == 0, plain.stderr
    assert "compared with PyTorch in fp32 on 2 random windows:" in plain.stdout
    assert "note: checked on random windows" in plain.stdout


def test_empty_scans_are_reported(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.ones((40, 56, 40), "float32"), np.eye(4)), tmp_path / "flat.nii.gz")
    with pytest.raises(TomosegError, match="expected scans with something in them, got 1 of one value each"):
        export(find_bundle("hippocampus"), "onnx", tmp_path / "net.onnx", calibration=[tmp_path / "flat.nii.gz"])
