"""Which weights a run uses is told by their files, before anything is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from support.bundles import random_window
from tomoseg import Segmenter, TomosegError, find_bundle
from tomoseg.bundle.options import PrecisionName, RunOptions
from tomoseg.core.files import sha256
from tomoseg.inference.backends.int8_network import save_model
from tomoseg.inference.backends.openvino_model import convert
from tomoseg.inference.config import InferenceConfig
from tomoseg.inference.weights import hash_weights, weights_in_use

CPU = torch.device("cpu")


def put_in_int8(bundle: Path, checkpoint: Path, xml: Path) -> None:
    """Write a network that says of itself that it is in int8; quantising would take longer."""
    config = InferenceConfig(find_bundle(bundle), CPU, None)
    model = convert(config.load_network(checkpoint), random_window(bundle))
    save_model(model, xml, checkpoint, config.network_definition, "int8")


@pytest.fixture
def ensemble(bundle_copy: Path) -> Path:
    """A bundle that averages two networks."""
    models = bundle_copy / "models"
    weights = torch.load(models / "model.pt", weights_only=True)
    torch.save({name: 1.01 * weight for name, weight in weights.items()}, models / "second.pt")
    path = bundle_copy / "configs" / "inference.json"
    config = json.loads(path.read_text())
    (loader,) = config["handlers"]
    config["handlers"].append({**loader, "load_path": "$@bundle_root + '/models/second.pt'"})
    path.write_text(json.dumps(config))
    return bundle_copy


def test_they_are_told_as_the_segmenter_tells_them(ensemble: Path) -> None:
    """Whoever hands scans to other machines knows by the same hashes what they run."""
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
        assert Segmenter(find_bundle(ensemble), options).checkpoint_sha256 == found


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


def test_what_is_missing_is_told(bundle_copy: Path) -> None:
    config = InferenceConfig(find_bundle(bundle_copy), CPU, None)
    (bundle_copy / "models" / "model.pt").unlink()
    with pytest.raises(TomosegError, match=r"model\.pt: no such checkpoint\. Train the bundle: tomoseg train "):
        weights_in_use(config, RunOptions())
