"""The files show which weights a run uses, before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from support.bundles import random_window
from tomoseg import Segmenter, TomosegError, find_bundle
from tomoseg.bundle.ensemble import ensemble_config
from tomoseg.bundle.options import PrecisionName, RunOptions
from tomoseg.core.files import sha256
from tomoseg.inference.backends.int8_network import save_model
from tomoseg.inference.backends.openvino_model import convert
from tomoseg.inference.config import InferenceConfig
from tomoseg.inference.weights import hash_weights, name_weights, weights_in_use

CPU = torch.device("cpu")


def put_in_int8(bundle: Path, checkpoint: Path, xml: Path) -> None:
    """Write a network that says of itself that it is in int8; quantising would take longer."""
    config = InferenceConfig(find_bundle(bundle), CPU, None)
    model = convert(config.load_network(checkpoint), random_window(bundle))
    save_model(model, xml, checkpoint, config.network_definition, "int8")


@pytest.fixture
def ensemble(small_bundle: Path) -> Path:
    """A bundle that averages two networks."""
    models = small_bundle / "models"
    weights = torch.load(models / "model.pt", weights_only=True)
    torch.save({name: 1.01 * weight for name, weight in weights.items()}, models / "second.pt")
    path = small_bundle / "configs" / "inference.json"
    path.write_text(json.dumps(ensemble_config(json.loads(path.read_text()), ["model.pt", "second.pt"])))
    return small_bundle


def test_they_are_reported_as_the_segmenter_reports_them(ensemble: Path) -> None:
    """The same hashes show which weights other machines run."""
    models = ensemble / "models"
    checkpoints = [models / "model.pt", models / "second.pt"]
    for checkpoint in checkpoints:
        put_in_int8(ensemble, checkpoint, checkpoint.with_name(f"{checkpoint.stem}_int8.xml"))
    int8 = [models / "model_int8.xml", models / "second_int8.xml"]
    cases: list[tuple[PrecisionName, list[Path]]] = [("fp32", []), ("int8", int8)]
    for precision, others in cases:
        options = RunOptions(precision=precision)
        found = hash_weights(weights_in_use(InferenceConfig(find_bundle(ensemble), CPU, None), options))
        assert found == [sha256(path) for path in [*checkpoints, *others]]
        weights = Segmenter(find_bundle(ensemble), options).weights
        assert hash_weights(weights) == found
        shown = ["models/model.pt", "models/second.pt", *(f"models/{path.name}" for path in others)]
        assert name_weights(weights, ensemble.absolute()) == shown


def test_a_network_in_int8_is_known_by_what_it_was_made_from(ensemble: Path, tmp_path: Path) -> None:
    """Of several checkpoints, that one is loaded with it."""
    put_in_int8(ensemble, ensemble / "models" / "second.pt", tmp_path / "any.xml")
    config = InferenceConfig(find_bundle(ensemble), CPU, None)
    (found,) = weights_in_use(config, RunOptions(checkpoints=(str(tmp_path / "any.xml"),)))
    assert found.checkpoint == config.checkpoints[1]
    assert found.sha256 == sha256(ensemble / "models" / "second.pt")
    other = tmp_path / "other.pt"
    shutil.copy(ensemble / "models" / "second.pt", other)
    with pytest.raises(TomosegError, match=r"other_int8\.xml: no int8 network there"):
        weights_in_use(config, RunOptions(precision="int8", checkpoints=(str(other),)))


def scaled(bundle: Path, name: str, factor: float, without: str = "") -> Path:
    """Write the bundle's weights times a factor; those with this in their names are left out."""
    weights = torch.load(bundle / "models" / "model.pt", weights_only=True)
    kept = {key: factor * value for key, value in weights.items() if not (without and without in key)}
    torch.save(kept, bundle / "models" / name)
    return bundle / "models" / name


LOADER: dict[str, Any] = {"_target_": "CheckpointLoader", "load_dict": {"model": "@network_def"}, "strict": True}
TWICE = {**LOADER, "load_path": "$@bundle_root + '/models/twice.pt'"}
THRICE = {**LOADER, "load_path": "models/thrice.pt"}
LOAD = "$@network_def.load_state_dict(torch.load(@bundle_root + '/models/twice.pt', weights_only=True))"
SEED = "$monai.utils.set_determinism(seed=0)"
CONFIGS: dict[str, tuple[dict[str, Any], float]] = {
    "in the evaluator": ({"handlers": [], "evaluator::val_handlers": [TWICE]}, 2),
    "an expression": ({"handlers": [], "initialize": [SEED, LOAD]}, 2),
    "an expression, then a loader": ({"handlers": [THRICE], "initialize": [LOAD]}, 3),
    "disabled beside another": ({"handlers": [TWICE, {**THRICE, "_disabled_": True}]}, 2),
    "disabled by an expression": ({"handlers": [TWICE, {**THRICE, "_disabled_": "$1 + 1 == 2"}]}, 2),
    "two, of which the last counts": ({"handlers": [TWICE, THRICE]}, 3),
    "two places": ({"handlers": [TWICE], "evaluator::val_handlers": ["@handlers", THRICE]}, 3),
    "a path relative to the bundle": ({"handlers": [THRICE]}, 3),
    "of another object": ({"handlers": [TWICE, {**THRICE, "load_dict": {"model": "$torch.nn.Linear(1, 1)"}}]}, 2),
}


def put(bundle: Path, entries: dict[str, Any]) -> Path:
    path = bundle / "configs" / "inference.json"
    config = json.loads(path.read_text())
    for key, value in entries.items():
        *above, last = key.split("::")
        place = config
        for part in above:
            place = place[part]
        place[last] = value
    path.write_text(json.dumps(config))
    return bundle


@pytest.mark.parametrize("case", CONFIGS)
def test_the_weights_are_those_that_a_run_of_monai_has(case: str, small_bundle: Path) -> None:
    entries, factor = CONFIGS[case]
    own = torch.load(small_bundle / "models" / "model.pt", weights_only=True)
    for name, times in (("twice.pt", 2.0), ("thrice.pt", 3.0)):
        scaled(small_bundle, name, times)
    # what a run would need besides: it is not built
    put(small_bundle, {**entries, "dataset": {"_target_": "no.such.Dataset"}})
    (found,) = InferenceConfig(find_bundle(small_bundle), CPU, None).networks
    for name, tensor in found.module.state_dict().items():
        torch.testing.assert_close(tensor, factor * own[name], rtol=0, atol=0)
    assert len(found.sha256) == 64


def test_weights_that_fit_in_part_are_loaded_where_the_config_says_so(small_bundle: Path) -> None:
    own = torch.load(small_bundle / "models" / "model.pt", weights_only=True)
    part = "bias"
    path = scaled(small_bundle, "part.pt", 2, without=part)
    loader = {**LOADER, "load_path": "models/part.pt"}
    put(small_bundle, {"handlers": [loader]})
    with pytest.raises(TomosegError, match=r"part\.pt: expected the weights '.*', got \d+ others without it"):
        _ = InferenceConfig(find_bundle(small_bundle), CPU, None).networks
    put(small_bundle, {"handlers": [{**loader, "strict": False}]})
    (found,) = InferenceConfig(find_bundle(small_bundle), CPU, None).networks
    loaded = {name for name, tensor in found.module.state_dict().items() if torch.equal(tensor, 2 * own[name])}
    assert loaded == {name for name in own if part not in name}
    assert (found.checkpoint, found.sha256) == (path, sha256(path))


def test_a_disabled_loader_loads_nothing(small_bundle: Path, real_scan: Path) -> None:
    put(small_bundle, {"handlers": [{**TWICE, "_disabled_": True}]})
    (found,) = InferenceConfig(find_bundle(small_bundle), CPU, None).networks
    own = torch.load(small_bundle / "models" / "model.pt", weights_only=True)
    assert found.checkpoint is None
    assert any(not torch.equal(tensor, own[name]) for name, tensor in found.module.state_dict().items())
    result = Segmenter.from_bundle(small_bundle, device="cpu")(real_scan)
    assert "nothing in the config loads weights: the network runs with its initial ones" in result.stats.notes


def test_torchscript_in_place_of_the_network(small_bundle: Path, real_scan: Path) -> None:
    expected = Segmenter.from_bundle(small_bundle, device="cpu", backend="torch", precision="fp32")(real_scan)
    (found,) = InferenceConfig(find_bundle(small_bundle), CPU, None).networks
    module = found.module.eval()
    torch.jit.trace(module, random_window(small_bundle)).save(str(small_bundle / "models" / "model.ts"))  # type: ignore[no-untyped-call]
    (small_bundle / "models" / "model.pt").unlink()
    put(small_bundle, {"handlers": [], "network_def": "$torch.jit.load(@bundle_root + '/models/model.ts')"})
    for backend in ("torch", "auto"):
        segmenter = Segmenter.from_bundle(small_bundle, device="cpu", backend=backend, precision="fp32")
        assert (segmenter(real_scan).labels != expected.labels).mean() < 1e-3
        assert len(segmenter.weights[0].sha256) == 64
        assert name_weights(segmenter.weights, small_bundle) == ["no single file"]


def test_what_is_missing_is_reported(small_bundle: Path) -> None:
    config = InferenceConfig(find_bundle(small_bundle), CPU, None)
    (small_bundle / "models" / "model.pt").unlink()
    with pytest.raises(TomosegError, match=r"model\.pt: no such checkpoint\. Train the bundle: tomoseg train "):
        weights_in_use(config, RunOptions())
