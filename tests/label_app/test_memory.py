"""What the label server keeps: one set of weights, the last images, and where heads lie."""

from __future__ import annotations

import gc
import json
import os
import shutil
import weakref
from pathlib import Path

import numpy as np
import pytest

from support.heads import halved, mni152
from tomoseg import RunOptions, Segmenter, find_bundle, read_volume
from tomoseg.inference.localisation.template import load_template
from tomoseg.label_app.folder import LabelApp
from tomoseg.label_app.known_heads import KnownHeads
from tomoseg.label_app.model import ServedModel

pytestmark = pytest.mark.slow
CPU = RunOptions(device="cpu")


@pytest.fixture
def model(tmp_path: Path) -> ServedModel:
    return ServedModel(find_bundle("hippocampus"), LabelApp(tmp_path / "app"))


def test_options_share_one_set_of_weights(model: ServedModel, real_scan: Path) -> None:
    (network,) = model.segmenter(CPU).networks
    options = RunOptions(device="cpu", overlap=0.7, tta=True)
    shared = model.segmenter(options)
    assert shared.networks == [network]
    assert model.segmenter(options) is shared
    np.testing.assert_array_equal(shared(real_scan).labels, Segmenter(model.bundle, options)(real_scan).labels)

    scene = model.scene(real_scan, CPU, model.weights.current)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    gone = [weakref.ref(one) for one in (network, scene)]
    del network, shared, scene
    model.weights.publish(state)
    assert model.segmenter(CPU).options.checkpoints
    gc.collect()
    assert [one() for one in gone] == [None, None]  # the old weights and their results went


def test_a_click_starts_from_what_run_found(model: ServedModel, real_scan: Path, tmp_path: Path) -> None:
    scan = Path(shutil.copy(real_scan, tmp_path / "one.nii.gz"))
    current = model.weights.current
    own = RunOptions(device="cpu", overlap=model.config.inferer.overlap, tta=model.config.tta)  # as a panel sends them
    found = model.scene(scan, own, current)
    assert model.scene(scan, CPU, current) is found
    assert model.scene(scan, RunOptions(device="cpu", overlap=0.7), current) is not found
    os.utime(scan, (1, 1))
    assert model.scene(scan, CPU, current) is not found


def test_a_head_is_looked_for_once(tmp_path: Path) -> None:
    scan = read_volume(halved(mni152(), tmp_path / "head.nii.gz"))
    template = load_template("MNI152")

    def find(array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
        return KnownHeads(tmp_path / "heads")(template, array, scan.grid).similarity

    similarity = find(scan.array)
    (path,) = (tmp_path / "heads").iterdir()
    kept = json.loads(path.read_text())
    path.write_text(json.dumps({**kept, "similarity": 0.125}))
    assert find(scan.array) == find(np.ascontiguousarray(scan.array)) == 0.125  # another process, and another order
    for damage in (json.dumps({**kept, "matrix": [[1]]}), json.dumps({"schema_version": 9})):
        path.write_text(damage)
        assert find(scan.array) == similarity
        assert json.loads(path.read_text()) == kept
    changed = scan.array.copy()
    changed[0, 0, 0] += 1
    find(changed)
    assert len([*path.parent.iterdir()]) == 2
