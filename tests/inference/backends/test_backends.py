"""Each backend gives what torch in full precision gives; compiled networks are kept, and shared safely."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from support import one_layer
from support.bundles import load_network, random_window
from tomoseg import Segmenter, TomosegError
from tomoseg.core.errors import BackendError
from tomoseg.inference.backends import choose_backend, choose_precision, make_backend

CPU = torch.device("cpu")
BACKENDS = [("torch", "bf16"), ("openvino", "fp32"), ("openvino", "bf16")]
# largest difference of a score, relative to the range of the scores; bf16 has 8 bits
TOLERANCE = {"fp32": 1e-5, "bf16": 2e-2}


CACHE_VARIABLES = ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME")


@pytest.fixture(scope="module", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of this module's own, so that nothing is as an earlier version compiled it."""
    folder = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        for variable in CACHE_VARIABLES:
            patch.setenv(variable, folder)
        yield


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for one test and the processes that it starts."""
    for variable in CACHE_VARIABLES:
        monkeypatch.setenv(variable, str(tmp_path))
    return tmp_path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A bundle whose network compiles in a moment."""
    return one_layer.write(tmp_path / "small", {"inferer": {"_target_": "SlidingWindowInferer", "roi_size": [32] * 3}})


@pytest.fixture(scope="module")
def uneven(real_scan: Path) -> tuple[nib.Nifti1Image, NDArray[Any]]:
    """A real scan, finer than the network's grid along two axes and coarser along one, and its labels by torch."""
    from nibabel.processing import resample_to_output

    scan = resample_to_output(nib.load(real_scan), (0.6, 0.9, 1.5), order=1)
    return scan, Segmenter.from_bundle("hippocampus", backend="torch", precision="fp32")(scan).labels


@pytest.fixture(scope="module")
def network(bundle_folder: Path) -> torch.nn.Module:
    return load_network(bundle_folder, bundle_folder / "models" / "model.pt")


def blobs(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*.blob"))


@pytest.mark.parametrize(("backend", "precision"), BACKENDS)
def test_scores_are_those_of_torch(network: torch.nn.Module, bundle_folder: Path, backend: str, precision: str) -> None:
    batch = torch.cat([random_window(bundle_folder), random_window(bundle_folder).flip(2)])
    runner = make_backend(backend, network, CPU, precision, "key", compiled=False)
    runner.prepare(tuple(batch.shape))
    with torch.no_grad():
        wanted = network(batch)
        found = runner(batch).clone()
        again = runner(batch[1:]).clone()  # another batch size
    assert (runner.name, runner.precision) == (backend, precision)
    assert found.dtype == torch.float32
    assert found.shape == wanted.shape
    limit = TOLERANCE[precision] * float(wanted.max() - wanted.min())
    assert 0 < float((found - wanted).abs().max()) < limit
    assert float((again - wanted[1:]).abs().max()) < limit


@pytest.mark.slow
def test_scores_where_most_is_air(network: torch.nn.Module) -> None:
    """Sums of equal voxels, one after the other in float32, drift."""
    window = torch.full((1, 1, 64, 64, 64), -0.8)
    window[..., 48:] = torch.randn(64, 64, 16, generator=torch.Generator().manual_seed(0))
    runner = make_backend("openvino", network, CPU, "fp32", "", compiled=False)
    with torch.no_grad():
        wanted = network(window)
    assert float((runner(window) - wanted).abs().max()) < TOLERANCE["fp32"] * float(wanted.max() - wanted.min())


@pytest.mark.parametrize(("backend", "precision"), BACKENDS)
def test_labels_are_those_of_torch(uneven: tuple[nib.Nifti1Image, NDArray[Any]], backend: str, precision: str) -> None:
    scan, wanted = uneven
    found = Segmenter.from_bundle("hippocampus", backend=backend, precision=precision)(scan).labels
    for label in (1, 2):
        one, two = wanted == label, found == label
        # the mean over many scans is above 0.999, see below; here a label is a thousand voxels
        assert 2 * (one & two).sum() / (one.sum() + two.sum()) >= (0.9999 if precision == "fp32" else 0.998)


@pytest.fixture(scope="module")
def many(hippocampus_data: Path) -> dict[Path, NDArray[Any]]:
    """Labels of real scans by torch in full precision."""
    reference = Segmenter.from_bundle("hippocampus", backend="torch", precision="fp32")
    return {scan: reference(scan).labels for scan in sorted((hippocampus_data / "imagesTr").glob("*.nii.gz"))[:12]}


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "precision"), BACKENDS)
def test_labels_are_those_of_torch_on_many_scans(many: dict[Path, NDArray[Any]], backend: str, precision: str) -> None:
    segmenter = Segmenter.from_bundle("hippocampus", backend=backend, precision=precision)
    scores = []
    for scan, one in many.items():
        two = segmenter(scan).labels
        scores.append([2 * ((one == k) & (two == k)).sum() / ((one == k).sum() + (two == k).sum()) for k in (1, 2)])
    assert np.mean(scores, axis=0).min() >= (0.99999 if precision == "fp32" else 0.999)


def run(code: str, **keywords: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **keywords)


SEGMENT = """
import sys
from tomoseg import Segmenter
import numpy as np
segmenter = Segmenter.from_bundle("hippocampus", backend="openvino", precision="fp32")
print(int(segmenter({scan!r}).labels.astype(int).sum()), "openvino_telemetry" in sys.modules)
"""


@pytest.mark.slow
def test_processes_that_start_at_once_share_the_cache(cache: Path, real_scan: Path) -> None:
    processes = [run(SEGMENT.format(scan=str(real_scan))) for _ in range(3)]
    answers = {process.communicate(timeout=300)[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    total = int(Segmenter.from_bundle("hippocampus", backend="torch")(real_scan).labels.astype(int).sum())
    assert answers == {f"{total} False\n"}  # and nothing was sent home
    assert len(blobs(cache)) == 1
    assert [path.name for path in blobs(cache)[0].parent.iterdir()] == [blobs(cache)[0].name]


def test_what_was_compiled_is_used_again(
    cache: Path, small: Path, real_scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tomoseg.inference.backends import openvino_network

    labels = Segmenter.from_bundle(small, backend="openvino")(real_scan).labels
    (blob,) = blobs(cache)

    def convert(*_: Any) -> None:
        raise RuntimeError("converted once more")

    monkeypatch.setattr(openvino_network, "convert", convert)
    np.testing.assert_array_equal(Segmenter.from_bundle(small, backend="openvino")(real_scan).labels, labels)
    with pytest.raises(TomosegError, match="OpenVINO cannot compile the network: converted once more"):
        Segmenter.from_bundle(small, backend="openvino", precision="bf16")(real_scan)
    blob.write_bytes(blob.read_bytes()[:-100] + bytes(100))
    with pytest.raises(TomosegError, match="converted once more"):
        Segmenter.from_bundle(small, backend="openvino")(real_scan)
    monkeypatch.undo()


def test_other_weights_are_compiled_again(cache: Path, small: Path, real_scan: Path) -> None:
    Segmenter.from_bundle(small, backend="openvino")(real_scan)
    checkpoint = small / "models" / "model.pt"
    weights = torch.load(checkpoint, weights_only=True)
    torch.save({name: torch.zeros_like(weight) for name, weight in weights.items()}, checkpoint)
    assert not Segmenter.from_bundle(small, backend="openvino")(real_scan).labels.any()
    assert len(blobs(cache)) == 2


class Scaled(torch.nn.Module):
    """Its attributes define its computation, not its weights."""

    def __init__(self, scale: float, normalised: bool = False) -> None:
        super().__init__()
        self.layer = torch.nn.Conv3d(1, 2, 1)
        self.scale, self.normalised = scale, normalised

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.normalised and x.mean() > 0.5:
            x = x - 0.5
        scores: torch.Tensor = self.scale * self.layer(x)
        return scores


def test_other_settings_are_compiled_again(cache: Path) -> None:
    one, other = Scaled(1.0), Scaled(-1.0)
    other.load_state_dict(one.state_dict())
    window = torch.randn(1, 1, 8, 8, 8)
    for network in (one, other, one):
        with torch.no_grad():
            wanted = network(window)
        found = make_backend("openvino", network, CPU, "fp32", "same weights", compiled=False)(window)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert len(blobs(cache)) == 2


def test_a_branch_that_would_be_frozen_is_noticed(cache: Path) -> None:
    backend = make_backend("openvino", Scaled(1.0, normalised=True), CPU, "fp32", "key", compiled=False)
    with pytest.raises(BackendError, match="OpenVINO cannot compile the network: its logits are off by"):
        backend.prepare((1, 1, 8, 8, 8))
    assert blobs(cache) == []


class Frozen(torch.nn.Module):
    """Adds what depends on the size of the traced window, as positional encodings do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv3d(1, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = self.layer(x) + float(x.shape[2])
        return scores


def test_a_size_that_the_trace_has_frozen_is_noticed_on_small_windows(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks are traced on a small window; one that does not fit all sizes, on a whole one."""
    from tomoseg.inference.backends import openvino_network
    from tomoseg.inference.backends.openvino_model import convert

    traced: list[tuple[int, ...]] = []

    def listed(network: torch.nn.Module, window: torch.Tensor) -> Any:
        traced.append(tuple(window.shape))
        return convert(network, window)

    monkeypatch.setattr(openvino_network, "convert", listed)
    window = torch.randn(1, 1, 48, 64, 96)
    for network, expected in ((Scaled(2.0), 1), (Frozen(), 3)):
        traced.clear()
        with torch.no_grad():
            wanted = network(window)
        found = make_backend("openvino", network, CPU, "fp32", "", compiled=False)(window)
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
        assert len(traced) == expected
        assert all(2 * np.prod(shape) <= window.numel() for shape in traced[: 2 if expected > 1 else None])


def test_a_home_that_cannot_be_written_does_no_harm(cache: Path, small: Path, real_scan: Path) -> None:
    (cache / "tomoseg").touch()  # a file where the folder should be
    (cache / ".cache").touch()
    assert Segmenter.from_bundle(small, backend="openvino")(real_scan).labels.any()
    assert blobs(cache) == []


def test_a_network_that_openvino_does_not_know_runs_on_torch(
    cache: Path, small: Path, real_scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tomoseg.inference.backends import openvino_network

    def convert(*_: Any) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.setattr(openvino_network, "convert", convert)
    segmenter = Segmenter.from_bundle(small)
    result = segmenter(real_scan)
    assert result.stats.notes == ("run by torch, for OpenVINO cannot compile the network: no such operation",)
    assert segmenter.backend == result.stats.backend == "torch"
    np.testing.assert_array_equal(result.labels, Segmenter.from_bundle(small, backend="torch")(real_scan).labels)


@pytest.mark.exhaustive
def test_torch_compile_gives_the_same_labels(real_scan: Path) -> None:
    compiled = Segmenter.from_bundle("hippocampus", compile=True)
    try:
        result = compiled(real_scan)
    except BackendError as error:
        pytest.skip(f"no compiler for torch.compile here: {error}")
    assert compiled.backend == "torch.compile"
    reference = Segmenter.from_bundle("hippocampus", backend="torch")(real_scan).labels
    assert (result.labels != reference).mean() < 1e-4


def test_what_does_not_go_together_is_reported() -> None:
    cuda = torch.device("cuda")
    assert choose_backend("auto", CPU) == "openvino"
    assert choose_backend("auto", cuda) == choose_backend("torch", CPU) == "torch"
    assert choose_precision("auto", CPU, amp=True) == choose_precision("auto", cuda, amp=False) == "fp32"
    assert choose_precision("auto", cuda, amp=True) == "fp16"
    with pytest.raises(TomosegError, match="openvino runs on the CPU, the device is cuda"):
        choose_backend("openvino", cuda)
    with pytest.raises(TomosegError, match="backend: expected auto, torch, openvino, got 'onnx'"):
        Segmenter.from_bundle("hippocampus", backend="onnx")
    with pytest.raises(TomosegError, match=r"precision: fp16 needs a GPU\. Use --precision bf16 on a CPU"):
        Segmenter.from_bundle("hippocampus", precision="fp16", device="cpu")
    with pytest.raises(TomosegError, match=r"precision: int8 runs on the CPU, the device is cuda\. Use --device cpu"):
        choose_precision("int8", cuda, amp=True)
    with pytest.raises(TomosegError, match="precision: expected auto, fp32, bf16, fp16, int8, got 'int4'"):
        Segmenter.from_bundle("hippocampus", precision="int4")
    with pytest.raises(TomosegError, match="compile: is for the torch backend"):
        Segmenter.from_bundle("hippocampus", backend="openvino", compile=True)


def test_openvino_missing_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    from tomoseg.inference import backends

    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert choose_backend("auto", CPU) == "torch"
    with pytest.raises(TomosegError, match=r"openvino is not installed\. Install it with: pip install openvino$"):
        choose_backend("openvino", CPU)


@pytest.mark.slow
def test_a_signal_is_survived_after_networks_went(tmp_path: Path) -> None:
    """OpenVINO moves the stack that signals are handled on, and frees it with the network that made it."""
    program = (
        "import faulthandler, signal, torch\n"
        "from tomoseg.inference.backends import make_backend\n"
        "faulthandler.enable()\n"
        "def run(key):\n"
        "    network = torch.nn.Conv3d(1, 2, 3, padding=1)\n"
        "    backend = make_backend('openvino', network, torch.device('cpu'), 'fp32', key, compiled=False)\n"
        "    backend.prepare((1, 1, 8, 8, 8))\n"
        "    return backend\n"
        "first, second = run('a'), run('b')\n"
        "del first\n"
        "del second\n"
        "signal.signal(signal.SIGTERM, lambda *_: print('handled'))\n"
        "signal.raise_signal(signal.SIGTERM)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
