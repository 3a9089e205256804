"""A network in int8: as good as it says, found beside the weights, and refused where it was not made from them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support.trust import trust_named
from tomoseg import Segmenter, TomosegError, find_bundle, segment_batch
from tomoseg.convert.export.export import Export, export
from tomoseg.report.records import CaseReport

DEFINITION, BIN, WEIGHTS = "network_def", "model_int8.bin", "model.pt"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache for each test."""
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def scans(real_scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with boxes of one real head, each with its own brightness and noise."""
    folder = tmp_path_factory.mktemp("scans")
    scan = nib.load(real_scan)
    voxels = scan.get_fdata(dtype="float32")
    order = np.random.default_rng(0)
    for index in range(6):
        noisy = voxels * (1 + index) + order.normal(0, 0.03 * voxels.std(), voxels.shape)
        nib.save(nib.Nifti1Image(np.roll(noisy, 2 * index - 6, axis=1), scan.affine), folder / f"{index}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def made(bundle_folder: Path, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Export]:
    """A copy of the bundle with its network in int8 beside the weights, and the notes on it."""
    bundle = tmp_path_factory.mktemp("bundle") / "copy"
    shutil.copytree(bundle_folder, bundle, ignore=shutil.ignore_patterns("train", "eval", "*_int8.*"))
    return bundle, export(find_bundle(bundle), "openvino-int8", calibration=[scans])


@pytest.fixture
def bundle(made: tuple[Path, Export], tmp_path: Path) -> Path:
    """A copy of that bundle which a test may damage."""
    shutil.copytree(made[0], tmp_path / "bundle")
    return tmp_path / "bundle"


def dice(one: NDArray[Any], other: NDArray[Any]) -> list[float]:
    return [2 * np.sum((one == k) & (other == k)) / (np.sum(one == k) + np.sum(other == k)) for k in (1, 2)]


def test_it_is_small_and_its_dice_is_reported(made: tuple[Path, Export]) -> None:
    bundle, export = made
    models = bundle / "models"
    assert export.files == (str(models / "model_int8.xml"), str(models / BIN))
    assert sorted(path.name for path in models.iterdir()) == sorted([WEIGHTS, "model_int8.xml", BIN])
    assert (models / BIN).stat().st_size < 0.3 * (models / WEIGHTS).stat().st_size
    assert (export.scans, export.calibration_windows, export.check_windows) == (6, 5, 1)
    assert export.mean_dice is not None
    assert 0.98 < export.mean_dice < 1
    assert 0 < export.largest_difference < 0.5


def test_the_segmenter_runs_it_when_asked(made: tuple[Path, Export], scans: Path) -> None:
    bundle, _ = made
    segmenters = {name: Segmenter.from_bundle(bundle, precision=name) for name in ("fp32", "int8")}
    assert (segmenters["int8"].backend, segmenters["int8"].precision) == ("openvino", "int8")
    assert Segmenter.from_bundle(bundle).precision != "int8", "only where the user asks for it"
    assert [one.sha256 for one in segmenters["fp32"].weights] == [one.sha256 for one in segmenters["int8"].weights]
    for scan in sorted(scans.iterdir())[::3]:
        plain, quantised = (segmenters[name](scan).labels for name in ("fp32", "int8"))
        assert 0.97 < np.mean(dice(quantised, plain)) < 1
    # compiled once
    np.testing.assert_array_equal(Segmenter.from_bundle(bundle, precision="int8")(scan).labels, quantised)


def test_it_may_lie_elsewhere(bundle: Path, bundle_folder: Path, real_scan: Path, tmp_path: Path) -> None:
    """Beside weights that are given, or given itself for the bundle's own; a bundle may be in a read-only folder."""
    beside = Segmenter.from_bundle(bundle, precision="int8")(real_scan).labels
    xml = tmp_path / "elsewhere" / "mine.xml"
    xml.parent.mkdir()
    for suffix in (".xml", ".bin"):
        shutil.copy(bundle / "models" / f"model_int8{suffix}", xml.with_suffix(suffix))
    given = Segmenter.from_bundle(bundle_folder, checkpoints=(str(xml),))
    assert given.precision == "int8"
    np.testing.assert_array_equal(given(real_scan).labels, beside)
    weights = str(bundle / "models" / WEIGHTS)
    np.testing.assert_array_equal(
        Segmenter.from_bundle(bundle_folder, precision="int8", checkpoints=(weights, str(xml)))(real_scan).labels,
        beside,
    )
    with pytest.raises(TomosegError, match="checkpoint: one is in int8, which does not go with --precision bf16"):
        Segmenter.from_bundle(bundle_folder, precision="bf16", checkpoints=(str(xml),))


def change_weights(bundle: Path) -> None:
    path = bundle / "models" / WEIGHTS
    weights = torch.load(path, weights_only=True)
    torch.save({name: 1.001 * weight for name, weight in weights.items()}, path)


def change_definition(bundle: Path) -> None:
    path = bundle / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["network_def"]["act_name"] = ["leakyrelu", {"negative_slope": 0.3}]
    path.write_text(json.dumps(config))


def damage_bin(bundle: Path) -> None:
    path = bundle / "models" / BIN
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def put_another(bundle: Path) -> None:
    export(find_bundle(bundle), "openvino", bundle / "models" / "model_int8.xml", overwrite=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_weights, r"was made from other weights than those in use: expected SHA-256 \w+…, got \w+…\. Make it"),
        (change_definition, "was made from another network_def than the bundle's"),
        (damage_bin, r"was made with other weights than those in model_int8\.bin"),
        (put_another, "expected a network in int8 that tomoseg made, got another one"),
        (lambda bundle: (bundle / "models" / "model_int8.xml").write_text("<net"), "cannot be read as a network of Op"),
        (lambda bundle: (bundle / "models" / BIN).unlink(), r"model_int8\.bin: missing"),
        (
            lambda bundle: (bundle / "models" / "model_int8.xml").unlink(),
            r"no int8 network there\. Make it with: tomoseg",
        ),
    ],
    ids=["weights", "definition", "damage", "another", "garbage", "no weights", "none"],
)
def test_it_is_refused_where_it_does_not_belong(change: Callable[[Path], object], message: str, bundle: Path) -> None:
    change(bundle)
    with pytest.raises(TomosegError, match=message):
        Segmenter.from_bundle(bundle, precision="int8")
    Segmenter.from_bundle(bundle)  # of no interest unless asked for


def test_it_is_for_windows_of_one_size(bundle: Path, real_scan: Path) -> None:
    path = bundle / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["inferer"]["roi_size"] = [32, 32, 32]
    path.write_text(json.dumps(config))
    segmenter = Segmenter.from_bundle(bundle, precision="int8")
    with pytest.raises(TomosegError, match=r"expected a network for windows \(1, 1, 32, 32, 32\), got one for .*56"):
        segmenter(real_scan)
    config["inferer"] = {"_target_": "SliceInferer", "roi_size": [56, 40], "spatial_dim": 0}
    path.write_text(json.dumps(config))
    with pytest.raises(TomosegError, match="no --precision int8 for the inferer SliceInferer"):
        Segmenter.from_bundle(bundle, precision="int8")(real_scan)


def test_what_does_not_go_with_int8_is_reported(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TomosegError, match=r"backend: torch does not run int8\. Use --backend openvino"):
        Segmenter.from_bundle(bundle, precision="int8", backend="torch")
    with pytest.raises(TomosegError, match="compile: is for the torch backend"):
        Segmenter.from_bundle(bundle, precision="int8", compile=True)
    from tomoseg.inference import backends

    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(TomosegError, match=r"openvino is not installed. .*pip install openvino$"):
        Segmenter.from_bundle(bundle, precision="int8")


@pytest.mark.slow
def test_what_loses_too_much_is_not_kept(bundle: Path, real_scan: Path) -> None:
    """Each way of leaving layers in floating point is tried first; the old file stays."""
    before = {path: path.read_bytes() for path in (bundle / "models").iterdir()}
    steps: list[str] = []
    with pytest.raises(TomosegError, match=r"not kept, for its labels have a mean Dice of 0\.9\d+ with those of fp32"):
        export(
            find_bundle(bundle),
            "openvino-int8",
            calibration=[real_scan],
            max_dice_loss=0.0,
            overwrite=True,
            on_step=steps.append,
        )
    assert steps.count("checking openvino-int8") == 3
    assert {path: path.read_bytes() for path in (bundle / "models").iterdir()} == before


@pytest.mark.slow
def test_a_network_that_was_exported_again_is_another_run(bundle: Path, real_scan: Path, tmp_path: Path) -> None:
    """A result of one int8 network does not count as one of another."""
    (tmp_path / "in").mkdir()
    shutil.copy(real_scan, tmp_path / "in" / "scan.nii.gz")

    def run() -> CaseReport:
        segmenter = Segmenter.from_bundle(bundle, precision="int8")
        return segment_batch(segmenter, [tmp_path / "in"], tmp_path / "out").cases[0]

    assert [run().status, run().status] == ["done", "skipped"]
    export(find_bundle(bundle), "openvino-int8", calibration=[real_scan], overwrite=True)
    assert "exists, and the bundle, its weights or the options changed since" in run().reason


SPY = """
import runpy, sys
wanted = []
sys.addaudithook(lambda event, arguments: wanted.append(f"{event} {arguments}")
                 if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "urllib.Request") else None)
sys.argv = ["tomoseg", *sys.argv[1:]]
try:
    runpy.run_module("tomoseg", run_name="__main__", alter_sys=True)
except SystemExit as error:
    assert not error.code, error.code
assert "nncf" in sys.modules
assert "openvino_telemetry" not in sys.modules
assert wanted == [], wanted
"""


@pytest.mark.slow
def test_nothing_is_sent_home(bundle: Path, real_scan: Path) -> None:
    """A process that notices each attempt to reach the network; OpenVINO's and nncf's telemetry is not imported."""
    arguments = ["export", bundle, "--format", "openvino-int8", "--calibration", real_scan, "--overwrite", "--json"]
    trust_named((bundle,), None)
    done = subprocess.run(
        [sys.executable, "-c", SPY, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    reported = json.loads(done.stdout)
    assert reported["notes"][0] == "calibrated and checked on the same scan. Give several with --calibration"
