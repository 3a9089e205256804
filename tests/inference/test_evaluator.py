"""`StreamingEvaluator` in place of MONAI's own evaluators: the same labels, files and metrics with every config."""

from __future__ import annotations

import copy
import csv
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import EnsembleEvaluator, IterationEvents, SupervisedEvaluator
from monai.handlers import MeanDice, from_engine
from monai.inferers import SliceInferer, SlidingWindowInferer
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    CropForegroundd,
    EnsureChannelFirstd,
    FillHolesd,
    Invertd,
    LoadImaged,
    MeanEnsembled,
    Orientationd,
    SaveImaged,
    ScaleIntensityRanged,
    Spacingd,
    SpatialPadd,
)

from support.blobs import blobs
from support.bundles import Place, one_bundle, voxels
from tomoseg import Segmenter, StreamingEvaluator
from tomoseg.core.errors import MemoryLimitError, UsageError

SWITCH = ("--evaluator#_target_", "tomoseg.StreamingEvaluator")
CPU = torch.device("cpu")


class Tuple(torch.nn.Module):
    """A network that returns more than logits."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.network(batch)
        return logits, 2 * logits


def thresholds(shift: float = 0.0, channels: int = 1) -> torch.nn.Module:
    """Return a network of three labels whose logits cross between whole HU, so that no two are equal."""
    network = torch.nn.Conv3d(channels, 3, 1)
    assert network.bias is not None
    with torch.no_grad():
        network.weight.copy_(torch.tensor([0.0, 40.0, 80.0]).reshape(3, 1, 1, 1, 1) / channels)
        network.bias.copy_(torch.tensor([0.0, shift - 12.013, shift - 40.017]))
    return network


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Smooth blobs in HU with their references: plain; with other axes, anisotropic and oblique; of two channels."""
    folder = tmp_path_factory.mktemp("ct")
    plain, oblique = blobs()
    flipped = nib.Nifti1Image(voxels(plain)[::-1], plain.affine)
    several = nib.Nifti1Image(np.stack([voxels(plain), voxels(flipped)], axis=-1), plain.affine)
    images = {"plain": plain, "turned": oblique, "flipped": flipped, "several": several}
    for name, image in images.items():
        nib.save(image, folder / f"{name}.nii.gz")
    drawn = (voxels(plain) > -100).astype("uint8") + (voxels(plain) > 300)
    nib.save(nib.Nifti1Image(drawn.astype("uint8"), plain.affine), folder / "drawn.nii.gz")
    found = {name: folder / f"{name}.nii.gz" for name in (*images, "drawn")}
    return {
        "two": [found["plain"], found["turned"]],
        "same grid": [found["plain"], found["flipped"]],
        "two channels": [found["several"]],
        "reference": [found["plain"], found["drawn"]],
    }


def softmax() -> Activationsd:
    return Activationsd("pred", softmax=True)


def sigmoid() -> Activationsd:
    return Activationsd("pred", sigmoid=True)


def argmax() -> AsDiscreted:
    return AsDiscreted("pred", argmax=True)


def threshold() -> AsDiscreted:
    return AsDiscreted("pred", threshold=0.5)


def linear(preprocessing: Compose) -> Invertd:
    return Invertd("pred", preprocessing, "image", nearest_interp=False)


def nearest(preprocessing: Compose) -> Invertd:
    return Invertd("pred", preprocessing, "image", nearest_interp=True)


@dataclass(frozen=True)
class Case:
    """A config, and why MONAI's own evaluator runs it; empty where the engine does."""

    steps: Callable[[Compose], list[Any]] = lambda p: [softmax(), linear(p), argmax()]
    reason: str = ""
    scans: str = "two"
    batch_size: int = 1
    network: Callable[[], torch.nn.Module] = thresholds
    reader: dict[str, Any] = field(default_factory=dict)
    before: tuple[Any, ...] = (CropForegroundd("image", "image", allow_smaller=True),)
    options: dict[str, Any] = field(default_factory=dict)


PAD = (SpatialPadd("image", (56, 56, 56)),)
CASES = {
    "soft-max, linear": Case(),
    "no activation": Case(lambda p: [linear(p), argmax()]),
    "nearest after the arg-max": Case(lambda p: [softmax(), argmax(), FillHolesd("pred", [2]), nearest(p)]),
    "nearest before the arg-max": Case(lambda p: [nearest(p), argmax()]),
    "sigmoid, linear": Case(lambda p: [sigmoid(), linear(p), threshold()]),
    "sigmoid, nearest": Case(lambda p: [sigmoid(), threshold(), nearest(p)]),
    "one-hot": Case(lambda p: [linear(p), AsDiscreted("pred", argmax=True, to_onehot=3)]),
    "arg-max alone": Case(lambda p: [argmax()]),
    "two channels": Case(scans="two channels", network=lambda: thresholds(channels=2)),
    "a batch of two": Case(scans="same grid", batch_size=2, before=()),
    "a batch of two, nearest": Case(lambda p: [argmax(), nearest(p)], batch_size=2, before=PAD),
    "a batch of two shapes": Case(batch_size=2, before=PAD, reason="scans of different shapes in one batch"),
    "amp": Case(options={"amp": True}),
    "openvino": Case(options={"backend": "openvino"}),
    "limited": Case(options={"max_memory": "64GB"}),
    "mode train": Case(options={"mode": "train"}, reason="mode: train"),
    "not decollated": Case(lambda p: [argmax()], options={"decollate": False}, reason="decollate: false"),
    "probabilities after the inverse": Case(
        lambda p: [linear(p), softmax(), argmax()], reason="a post-processing that does not begin with Invertd and"
    ),
    "no inverse, probabilities": Case(lambda p: [softmax()], reason="a post-processing that does not begin with"),
    "no Compose": Case(lambda p: argmax(), reason="a post-processing that is no Compose"),
    "an inverse of something else": Case(
        lambda p: [linear(Compose(p.transforms)), argmax()], reason="Invertd of other transforms than the whole"
    ),
    "another order of the voxels": Case(
        reader={"reader": "NibabelReader", "as_closest_canonical": True}, reason="a reader that gives the voxels in"
    ),
    "an inferer of slices": Case(
        network=lambda: torch.nn.Conv2d(1, 3, 3, padding=1), options={"inferer": SliceInferer(2, (16, 16))},
        reason="the inferer SliceInferer",
    ),
}  # fmt: skip


def evaluate(kind: type, case: Case, images: list[Path], output: Path, **options: Any) -> list[Any]:
    """Run an evaluator on a case; return what each scan has under `pred`, and the events that were fired."""
    torch.manual_seed(0)
    preprocessing = Compose([
        LoadImaged("image", **case.reader), EnsureChannelFirstd("image"), Orientationd("image", "RAS", labels=None),
        Spacingd("image", (2.0, 2.0, 3.0), mode="bilinear"), ScaleIntensityRanged("image", -200, 600, 0, 1, clip=True),
        *case.before,
    ])  # fmt: skip
    steps = case.steps(preprocessing)
    if isinstance(steps, list):
        saved = SaveImaged("pred", output_dir=output, separate_folder=False, output_dtype="uint8", print_log=False)
        steps = Compose([*steps, *([] if case.options.get("decollate") is False else [saved])])
    loader = DataLoader(Dataset([{"image": str(path)} for path in images], preprocessing), batch_size=case.batch_size)
    options = {"inferer": SlidingWindowInferer((16, 16, 16), 4, 0.25, "gaussian"), **case.options, **options}
    if kind is SupervisedEvaluator:
        options = {key: value for key, value in options.items() if key not in ("backend", "max_memory")}
    elif "network" not in options:
        options = {"backend": "torch", **options}
    options.setdefault("network", case.network())
    if options["network"] is None:
        del options["network"]
    evaluator = kind(device=CPU, val_data_loader=loader, postprocessing=steps, **options)
    found: list[Any] = []
    for event in (IterationEvents.FORWARD_COMPLETED, IterationEvents.MODEL_COMPLETED):
        evaluator.add_event_handler(event, lambda engine, event=event: found.append(event.value))
    evaluator.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: found.append(engine.state.output))
    evaluator.run()
    return found


def assert_same(ours: Any, stock: Any) -> None:
    if isinstance(stock, dict):
        assert ours.keys() == stock.keys() - {"pred_0", "pred_1"}
        for key in ours:
            assert_same(ours[key], stock[key])
    elif isinstance(stock, list):
        assert len(ours) == len(stock)
        for one, other in zip(ours, stock, strict=True):
            assert_same(one, other)
    elif isinstance(stock, MetaTensor):
        assert (ours.dtype, type(ours)) == (stock.dtype, type(stock))
        np.testing.assert_array_equal(ours.numpy(), stock.numpy())
        np.testing.assert_allclose(ours.affine, stock.affine, atol=1e-6)
        assert ours.meta.keys() == stock.meta.keys()
        assert ours.meta["filename_or_obj"] == stock.meta["filename_or_obj"]
        assert len(ours.applied_operations) == len(stock.applied_operations)
    else:
        assert ours == stock


def assert_same_files(ours: Path, stock: Path) -> None:
    assert {path.name for path in ours.iterdir()} == {path.name for path in stock.iterdir()}
    for path in stock.iterdir():
        one, other = nib.load(ours / path.name), nib.load(path)
        assert one.get_data_dtype() == other.get_data_dtype()
        np.testing.assert_array_equal(voxels(one), voxels(other))
        np.testing.assert_allclose(one.affine, other.affine, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_equals_monais_evaluator(
    name: str, scans: dict[str, list[Path]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    case = CASES[name]
    for place in ("stock", "ours"):
        (tmp_path / place).mkdir()
    stock = evaluate(SupervisedEvaluator, case, scans[case.scans], tmp_path / "stock")
    with caplog.at_level(logging.WARNING):
        ours = evaluate(StreamingEvaluator, case, scans[case.scans], tmp_path / "ours")
    assert len(stock) == 3 * len(scans[case.scans]) // case.batch_size
    assert_same(ours, stock)
    assert_same_files(tmp_path / "ours", tmp_path / "stock")
    said = [record.getMessage() for record in caplog.records if "run by MONAI's own" in record.getMessage()]
    expected = f"run by MONAI's own evaluator: the engine does not support {case.reason}"
    assert [line[: len(expected)] for line in said] == ([expected] if case.reason else [])


@pytest.mark.parametrize("kind", [SupervisedEvaluator, StreamingEvaluator])
def test_a_network_of_two_outputs_fails_as_in_monai(
    kind: type, scans: dict[str, list[Path]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RuntimeError, match="applying transform"):
        evaluate(kind, Case(network=lambda: Tuple(thresholds())), scans["two"], tmp_path)
    assert ("a network that returns a tuple" in caplog.text) == (kind is StreamingEvaluator)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("weighted", [False, True])
def test_the_mean_of_several_networks(weighted: bool, scans: dict[str, list[Path]], tmp_path: Path) -> None:
    keys, weights = ["pred_0", "pred_1"], [1, 3] if weighted else None
    case = Case(lambda p: [MeanEnsembled(keys, "pred", weights), linear(p), argmax()])
    options = {"networks": [thresholds(), thresholds(4.0)], "pred_keys": keys, "network": None}
    stock, ours = (
        evaluate(kind, case, scans["two"], tmp_path, **options) for kind in (EnsembleEvaluator, StreamingEvaluator)
    )
    assert all("pred_1" in one for one in stock[2])
    assert all(("pred_1" in one) == weighted for one in ours[2])
    for one in (item for output in (*stock, *ours) if isinstance(output, list) for item in output):
        for key in keys:
            one.pop(key, None)
    assert_same(ours, stock)


def test_weights_that_change_between_two_runs(scans: dict[str, list[Path]], tmp_path: Path) -> None:
    """As a training changes them, with a backend that compiles them."""
    evaluators: list[StreamingEvaluator] = []

    def keep(*args: Any, **kwargs: Any) -> StreamingEvaluator:
        evaluators.append(StreamingEvaluator(*args, **kwargs))
        return evaluators[0]

    network, images = thresholds(), scans["two"][:1]
    first = evaluate(keep, Case(options={"backend": "openvino"}), images, tmp_path, network=network)[2]  # type: ignore[arg-type]
    network.load_state_dict(thresholds(4.0).state_dict())
    evaluators[0].run()
    expected = evaluate(SupervisedEvaluator, Case(), images, tmp_path, network=copy.deepcopy(network))[2]
    assert_same(evaluators[0].state.output, expected)
    assert not torch.equal(first[0]["pred"], expected[0]["pred"])


def test_a_metric_has_the_same_value(scans: dict[str, list[Path]], tmp_path: Path) -> None:
    image, label = scans["reference"]
    both = ["image", "label"]
    found = {}
    for kind in (SupervisedEvaluator, StreamingEvaluator):
        preprocessing = Compose([
            LoadImaged(both, ensure_channel_first=True), Spacingd("image", (2.0, 2.0, 3.0), mode="bilinear"),
            ScaleIntensityRanged("image", -200, 600, 0, 1, clip=True),
        ])  # fmt: skip
        discrete = AsDiscreted(["pred", "label"], argmax=[True, False], to_onehot=3)
        evaluator = kind(
            device=CPU, network=thresholds(), inferer=SlidingWindowInferer((16, 16, 16), 4),
            val_data_loader=DataLoader(Dataset([{"image": str(image), "label": str(label)}], preprocessing)),
            postprocessing=Compose([linear(preprocessing), discrete]),
            key_val_metric={"dice": MeanDice(False, output_transform=from_engine(["pred", "label"]))},
        )  # fmt: skip
        evaluator.run()
        found[kind] = evaluator.state.metrics["dice"], evaluator.state.metric_details["dice"].tolist()
        assert getattr(evaluator, "_logged", set()) == set()
    assert found[SupervisedEvaluator] == found[StreamingEvaluator]
    assert 0.5 < found[SupervisedEvaluator][0] < 1


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_memory": "lots"}, "max_memory: expected a size"),
        ({"backend": "onnx"}, "backend: "),
        ({"mirror_axes": [3]}, r"mirror_axes: expected some of \[0, 1, 2\]"),
        ({"nnunet_windows": True, "decollate": False}, "nnunet_windows: only the engine has them"),
        ({"precision": "int8"}, "precision: int8 needs the checkpoint's file"),
        ({"precision": "fp16"}, "precision: fp16 needs a GPU"),
        ({"backend": "openvino", "compile": True}, "compile: is for the torch backend"),
        ({"networks": [thresholds()]}, "expected one of them, got both"),
        ({"networks": [thresholds()], "network": None, "pred_keys": ["a", "b"]}, "pred_keys: expected one for each"),
        ({"mirror_axes": [0], "decollate": False}, "mirror_axes: only the engine averages mirrorings"),
    ],
)  # fmt: skip
def test_options_that_do_not_go(
    options: dict[str, Any], error: str, scans: dict[str, list[Path]], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=error):
        evaluate(StreamingEvaluator, Case(), scans["two"], tmp_path, **options)


def test_a_limit_that_cannot_be_kept(scans: dict[str, list[Path]], tmp_path: Path) -> None:
    with pytest.raises(MemoryLimitError, match=r"plain.nii.gz: needs \d+ MB"):
        evaluate(StreamingEvaluator, Case(), scans["two"], tmp_path, max_memory="1MB")
    assert list(tmp_path.iterdir()) == []


def test_mirroring_averages_logits(scans: dict[str, list[Path]], tmp_path: Path) -> None:
    """A network of single voxels gives the same mirrored; one that looks around does not."""
    images = scans["two"][:1]
    plain, mirrored = (
        evaluate(StreamingEvaluator, Case(), images, tmp_path, mirror_axes=axes)[2] for axes in ((), (0, 2))
    )
    assert torch.equal(mirrored[0]["pred"], plain[0]["pred"])
    torch.manual_seed(3)
    network = torch.nn.Conv3d(1, 3, 3, padding=1).requires_grad_(False)
    network.weight.mul_(50)
    plain, mirrored = (
        evaluate(StreamingEvaluator, Case(), images, tmp_path, network=network, mirror_axes=axes)[2]
        for axes in ((), (0, 2))
    )
    assert not torch.equal(mirrored[0]["pred"], plain[0]["pred"])


@pytest.mark.slow
def test_a_shipped_bundle_run_by_monai(bundle: Path, data: Path, cases: tuple[str, ...], tmp_path: Path) -> None:
    """By torch to the voxel; by OpenVINO, which rounds otherwise, what `Segmenter` finds."""
    place = Place(bundle, bundle)
    scan = tmp_path / "scans" / f"{cases[0]}.nii.gz"
    scan.parent.mkdir()
    scan.symlink_to(data / "imagesTr" / scan.name)
    runs: dict[str, tuple[str, ...]] = {
        "stock": (), "torch": (*SWITCH, "--evaluator#backend", "torch"), "auto": SWITCH,
    }  # fmt: skip
    for name, options in runs.items():
        where = ("--dataset_dir", str(scan.parent), "--output_dir", str(tmp_path / name))
        assert "run by MONAI's own" not in place.call(
            "run", "--config_file", "configs/inference.json", *where, *options
        )
    assert_same_files(tmp_path / "torch", tmp_path / "stock")
    found = voxels(nib.load(next((tmp_path / "auto").iterdir())))
    segmenter = Segmenter.from_bundle(bundle, device="cpu", roi=("whole",), precision="fp32")
    np.testing.assert_array_equal(found, segmenter(scan).labels)
    assert found.max() >= 2


@pytest.mark.slow
@one_bundle
def test_the_metrics_of_a_shipped_bundle(bundle: Path, data: Path, tmp_path: Path) -> None:
    place = Place(bundle, bundle)
    scores = {}
    for name, switch in (("stock", ()), ("ours", (*SWITCH, "--evaluator#backend", "torch"))):
        options = ("--dataset_dir", str(data), "--datalist", "$@cases[:2]", "--output_dir", str(tmp_path / name))
        printed = place.call("run", "--config_file", place.configs("evaluate"), *options, *switch)
        assert "run by MONAI's own" not in printed
        scores[name] = {
            path.name: list(csv.reader(path.open(), delimiter="\t")) for path in sorted((tmp_path / name).iterdir())
        }
    assert scores["ours"] == scores["stock"]
    assert "val_mean_dice_raw.csv" in scores["stock"]
