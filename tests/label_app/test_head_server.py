"""MONAI Label's server with a whole head and a crop in one folder of studies."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from support.heads import halved, mni152
from support.label_server import Server, require_monailabel, running_server
from support.waiting import wait_until
from tomoseg import Segmentation, Segmenter, read_volume

pytestmark = pytest.mark.slow
NAME = "hippocampus_mr_segmentation"
NAMES = [{"name": "anterior", "idx": 1}, {"name": "posterior", "idx": 2}]
BACK = np.array([0, 1, 2, 1, 2], np.uint8)  # what left and right are to the bundle


@pytest.fixture(scope="module")
def studies(real_scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("heads") / "studies"
    folder.mkdir()
    halved(mni152(), folder / "head.nii.gz")
    shutil.copy(real_scan, folder / "crop.nii.gz")
    return folder


@pytest.fixture(scope="module")
def server(studies: Path) -> Iterator[Server]:
    require_monailabel()
    with running_server(studies.parent, str(studies), "-b", NAME, MONAI_LABEL_AUTO_UPDATE_SCORING="false") as running:
        yield running


@pytest.fixture(scope="module")
def found(studies: Path) -> Segmentation:
    return Segmenter.from_bundle(NAME, device="cpu")(studies / "head.nii.gz")


def values(path: str | Path) -> Any:
    return read_volume(path).array.astype(np.uint8)


def test_a_head_is_found_as_everywhere_else(server: Server, found: Segmentation) -> None:
    path, reported = server.client.infer(NAME, "head", {"largest_component": True})
    served = values(path)
    np.testing.assert_array_equal(served, BACK[found.labels])
    assert reported["label_names"] == {"anterior": 1, "posterior": 2}
    assert reported["warnings"] == []
    assert [one["name"] for one in reported["location"]["regions"]] == ["left hippocampus", "right hippocampus"]
    sagittal = np.flatnonzero(served.any(axis=(1, 2)))
    assert np.ptp(sagittal) * read_volume(path).grid.spacing[0] > 50  # both sides are there


def test_places_may_be_given_by_hand(server: Server, studies: Path) -> None:
    left, right = "left=-26,-22,-10", "right=26,-22,-10"
    wanted = Segmenter.from_bundle(NAME, device="cpu", roi=(left, right))(studies / "head.nii.gz")
    for model in (NAME, f"{NAME}_clicks"):
        assert server.client.info()["models"][model]["config"]["roi"] == ""
        path, reported = server.client.infer(model, "head", {"roi": f"{left} {right}"})
        np.testing.assert_array_equal(values(path), BACK[wanted.labels])
        assert reported["location"]["similarity"] is None
    for wrong, message in (
        (["somewhere"], b"roi: expected whole, or once for each of left hippocampus, right hippocampus"),
        (5, b"roi: expected a text or a list of texts, got 5"),
    ):
        status, answer = server.ask_form(f"/infer/{NAME}", {"roi": wrong}, image="head")
        assert status == 400
        assert message in answer


def test_a_doubtful_head_is_reported_in_answer_and_log(server: Server, studies: Path, tmp_path: Path) -> None:
    head = nib.load(studies / "head.nii.gz")
    turned = np.asanyarray(head.dataobj)[:, ::-1, ::-1]
    path = tmp_path / "turned.nii.gz"
    nib.save(nib.Nifti1Image(np.where(turned > 150, 0, turned), head.affine), path)
    _, reported = server.client.infer(NAME, "", {}, file=str(path))
    assert any("the MNI152 head fits badly" in warning for warning in reported["warnings"])
    assert reported["warnings"][0] in server.log.read_text()


def test_clicks_in_a_head(server: Server, found: Segmentation) -> None:
    model = f"{NAME}_clicks"
    before = BACK[found.labels]
    path, _ = server.client.infer(model, "head", {})
    np.testing.assert_array_equal(values(path), before)
    for own in (2, 4):  # left and right posterior
        inside = [int(index) for index in np.argwhere(found.labels == own)[100]]
        begin = time.monotonic()
        path, reported = server.client.infer(model, "head", {"background": [inside]})
        print(f"a click took {time.monotonic() - begin:.2f} s from end to end, {reported['latencies']}")
        changed = values(path)
        assert changed[tuple(inside)] == 0
        apart_mm = np.linalg.norm((np.argwhere(changed != before) - inside) * found.grid.spacing, axis=1)
        assert 0 < len(apart_mm) < 200
        assert apart_mm.max() < 9
    status, answer = server.ask_form(f"/infer/{model}", {"anterior": [[1, 2, 3]]}, image="head")
    assert status == 400
    assert b"expected a voxel of what the model looks at (left hippocampus [" in answer


def test_heads_and_crops_are_scored_segmented_and_trained_on(server: Server, found: Segmentation) -> None:
    def run(path: str, kind: str, **query: Any) -> str:
        status, answer = server.ask("POST", path, {"device": "cpu", "max_epochs": 1}, **query)
        assert status == 200, answer
        task = server.wait_for(kind, 600)
        details = "\n".join(task["details"])
        assert task["status"] == "DONE", details
        return details

    run("/scoring/all", "scoring")
    scores = json.loads((server.app / "models" / NAME / "scores.json").read_text())["images"]
    assert scores.keys() == {"crop", "head"}
    # the head has the same hippocampus as the crop, only coarser
    assert scores["head"]["entropy"] < 2 * scores["crop"]["entropy"]
    assert np.dot(scores["head"]["features"], scores["crop"]["features"]) > 0.8

    details = run(f"/batch/infer/{NAME}", "batch/infer", images="all")
    assert "2 of 2 images segmented, 0 failed" in details
    wait_until(lambda: server.client.info()["datastore"]["label_tags"].get("original", 0) >= 2, "two label maps")
    np.testing.assert_array_equal(values(server.client.download_label("head", "original")), BACK[found.labels])

    for image in ("crop", "head"):
        path, _ = server.client.infer(NAME, image, {})
        server.client.save_label(image, path, params={"label_info": NAMES})
    details = run(f"/train/{NAME}", "train")
    assert "on 1 cases; 2 are held out" in details  # both sides of the head
    assert "version 1 of the weights is in use: validation not validated, for only 1 of 5" in details
    assert server.client.infer(NAME, "head", {})[1]["weights_version"] == 1
