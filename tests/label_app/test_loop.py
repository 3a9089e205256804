"""The annotator's loop with MONAI Label's own client: choose, segment, correct, save, train, and all over again."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from support.command_line import run_inside
from support.label_server import Server, require_monailabel, running_server
from support.waiting import wait_until
from tomoseg import Segmenter, read_volume
from tomoseg.core.files import sha256

pytestmark = pytest.mark.slow
NAME = "hippocampus_mr_segmentation"
NAMES = [{"name": "anterior", "idx": 1}, {"name": "posterior", "idx": 2}]
SCANS = ("calm", "noisy", "noisier", "noisiest")


@pytest.fixture(scope="module")
def studies(real_scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same scan with more and more noise, and one file that is cut off."""
    folder = tmp_path_factory.mktemp("loop") / "studies"
    folder.mkdir()
    scan = nib.load(real_scan)
    values = scan.get_fdata(dtype=np.float32)
    random = np.random.default_rng(0)
    for level, name in enumerate(SCANS):
        noise = random.normal(0, 0.4 * level * values.std(), values.shape)
        nib.save(nib.Nifti1Image((values + noise).astype(np.float32), scan.affine), folder / f"{name}.nii.gz")
    (folder / "cut.nii.gz").write_bytes(real_scan.read_bytes()[:3000])
    return folder


@pytest.fixture(scope="module")
def server(studies: Path) -> Iterator[Server]:
    require_monailabel()
    # what MONAI Label would start by itself would come in between
    with running_server(studies.parent, str(studies), "-b", NAME, MONAI_LABEL_AUTO_UPDATE_SCORING="false") as running:
        yield running


@pytest.fixture(scope="module")
def expected(studies: Path) -> Any:
    return Segmenter.from_bundle(NAME, device="cpu")(studies / "calm.nii.gz")


def values(path: str | Path) -> Any:
    return read_volume(path).array.astype(np.uint8)


def scores(server: Server) -> dict[str, Any]:
    content = json.loads((server.app / "models" / NAME / "scores.json").read_text())
    images: dict[str, Any] = content["images"]
    return images


def start(server: Server, path: str, params: dict[str, Any], **query: Any) -> None:
    status, answer = server.ask("POST", path, params, **query)
    assert status == 200, answer


def test_nothing_annotated_is_reported(server: Server) -> None:
    start(server, f"/train/{NAME}", {"max_epochs": 1})
    task = server.wait_for("train")
    assert task["status"] == "ERROR"
    assert "expected annotated images to train with, got none" in "\n".join(task["details"])


def test_the_most_uncertain_image_comes_first(server: Server, studies: Path) -> None:
    strategies = server.client.info()["strategies"]
    assert {"uncertain", "diverse", "random"} == strategies.keys()
    assert server.ask("POST", "/activelearning/first")[0] == 404

    start(server, "/scoring/all", {"device": "cpu"})
    task = server.wait_for("scoring")
    assert task["status"] == "DONE", task
    found = scores(server)
    assert set(found) == set(SCANS)
    assert any("cut: failed: " in line and "truncated or damaged" in line for line in task["details"])
    assert found["noisiest"]["entropy"] > found["calm"]["entropy"]
    assert all(0 < entry["expected_dice"] <= 1 for entry in found.values())

    order = sorted(SCANS, key=lambda name: found[name]["expected_dice"])
    first = server.client.next_sample("uncertain", {})
    assert first["id"] == order[0]
    assert first["expected_dice"] == pytest.approx(found[order[0]]["expected_dice"])
    assert Path(first["path"]) == studies / f"{order[0]}.nii.gz"
    # another client works on that one
    assert server.client.next_sample("uncertain", {})["id"] == order[1]


def test_accept_save_next(server: Server, expected: Any) -> None:
    """A client's day: take an image, segment it, save a corrected label map, take the next."""
    labelled: list[str] = []
    for _ in range(2):
        sample = server.client.next_sample("diverse", {})
        assert sample["id"] not in labelled
        if sample["id"] == "cut":
            continue
        path, _ = server.client.infer(NAME, sample["id"], {})
        server.client.save_label(sample["id"], path, params={"label_info": NAMES})
        labelled.append(sample["id"])
    info = server.client.info()["datastore"]
    assert info["completed"] == len(labelled) > 0
    saved = server.client.download_label(labelled[0], "final")
    assert set(np.unique(values(saved))) == {0, 1, 2}
    for _ in range(6):
        assert server.client.next_sample("random", {})["id"] not in labelled


def test_a_label_that_does_not_fit_is_refused(server: Server, real_scan: Path, tmp_path: Path) -> None:
    import requests

    other = nib.Nifti1Image(np.zeros((5, 6, 7), np.uint8), np.eye(4))
    nib.save(other, tmp_path / "other.nii.gz")
    before = server.client.info()["datastore"]["completed"]
    with (tmp_path / "other.nii.gz").open("rb") as file:
        answer = requests.put(
            f"{server.url}/datastore/label", params={"image": "noisiest"}, files={"label": ("other.nii.gz", file)},
            timeout=60,
        )  # fmt: skip
    assert answer.status_code == 422
    assert "expected labels on the image's grid" in answer.json()["detail"]
    assert server.client.info()["datastore"]["completed"] == before


def test_training_makes_weights_that_are_used_at_once(
    server: Server, studies: Path, bundle_folder: Path, expected: Any
) -> None:
    shipped = {path: sha256(path) for path in bundle_folder.rglob("*") if path.is_file() and "train" not in path.parts}
    path, _ = server.client.infer(NAME, "calm", {})
    server.client.save_label("calm", path, params={"label_info": NAMES})
    server.client.train_start(NAME, {"max_epochs": 2, "device": "cpu"})
    task = server.wait_for("train")
    details = "\n".join(task["details"])
    assert task["status"] == "DONE", details
    assert "epoch 2/2: loss" in details
    assert "version 1 of the weights is in use" in details
    stats = server.client.info()["train_stats"][NAME]
    assert (stats["epoch"], stats["total_epochs"]) == (2, 2)
    assert "total_time" in stats
    weights = server.app / "models" / NAME / "0001" / "model.pt"
    path, reported = server.client.infer(NAME, "noisy", {})
    assert reported["weights_version"] == 1
    wanted = Segmenter.from_bundle(NAME, device="cpu", checkpoints=(str(weights),))(studies / "noisy.nii.gz")
    np.testing.assert_array_equal(values(path), wanted.labels)
    assert {path: sha256(path) for path in shipped} == shipped
    assert not list((server.app / "models" / NAME).glob(".tomoseg-*"))


def test_a_training_that_is_stopped_changes_nothing(server: Server) -> None:
    server.client.train_start(NAME, {"max_epochs": 500, "device": "cpu"})
    wait_until(lambda: "current_time" in server.client.info()["train_stats"].get(NAME, {}), "the training's first step")
    server.client.train_stop()
    assert server.client.train_status()["status"] == "STOPPED"
    wait_until(lambda: not server.client.train_status(check_if_running=True), "the end of the training")
    wait_until(lambda: server.client.info()["train_stats"] == {NAME: {}}, "its numbers to go")
    _, reported = server.client.infer(NAME, "calm", {})
    assert reported["weights_version"] == 1


def test_one_command_brings_the_old_weights_back(server: Server, expected: Any) -> None:
    def tomoseg(*arguments: object) -> subprocess.CompletedProcess[str]:
        return run_inside("label-app", server.app, *arguments)

    listed = tomoseg("--versions")
    assert "version 1, in use, created" in listed.stdout
    assert "cases 3" in listed.stdout or "cases 2" in listed.stdout
    back = tomoseg("--rollback")
    assert back.stdout == f"{NAME}: uses version 0, the bundle's own weights now\n"
    path, reported = server.client.infer(NAME, "calm", {})
    assert reported["weights_version"] == 0
    np.testing.assert_array_equal(values(path), expected.labels)
    assert tomoseg("--rollback").returncode == 2
    assert tomoseg("--rollback", "--to", 1).returncode == 0
    assert tomoseg("--rollback", "--to", 0).returncode == 0


def test_a_batch_goes_on_after_a_bad_image(server: Server, studies: Path) -> None:
    shutil.copy(studies / "calm.nii.gz", studies / "late.nii.gz")
    wait_until(lambda: server.client.info()["datastore"]["total"] >= 6, "the image that came late")
    start(server, f"/batch/infer/{NAME}", {"device": "cpu"}, images="unlabeled")
    task = server.wait_for("batch/infer")
    assert task["status"] == "DONE", task
    details = "\n".join(task["details"])
    assert "cut: failed: " in details
    assert "late: done" in details
    assert "1 failed" in details
    wait_until(lambda: server.client.info()["datastore"]["label_tags"].get("original", 0) >= 2, "two label maps")
    status, _ = server.ask("HEAD", "/datastore/label", image="late", tag="original")
    assert status in (200, 422)  # MONAI Label asks its own clients for another parameter than it reads
    np.testing.assert_array_equal(
        values(server.client.download_label("late", "original")),
        Segmenter.from_bundle(NAME, device="cpu")(studies / "late.nii.gz").labels,
    )


def test_clicks_change_the_result_near_them(server: Server, expected: Any) -> None:
    model = f"{NAME}_clicks"
    info = server.client.info()["models"][model]
    assert info["type"] == "deepedit"
    path, _ = server.client.infer(model, "calm", {"result_extension": ".nrrd"})
    np.testing.assert_array_equal(values(path), expected.labels)

    inside = [int(index) for index in np.argwhere(expected.labels == 2)[100]]
    begin = time.monotonic()
    path, reported = server.client.infer(model, "calm", {"background": [inside], "anterior": []})
    print(f"a click took {time.monotonic() - begin:.2f} s from end to end, {reported['latencies']}")
    changed = values(path)
    assert changed[tuple(inside)] == 0
    different = np.argwhere(changed != expected.labels)
    assert 0 < len(different) < 2000
    assert np.linalg.norm(different - inside, axis=1).max() < 9

    # as clients of "deepgrow" models have it, and 3D Slicer with a label's name
    path, _ = server.client.infer(model, "calm", {"label": "anterior", "foreground": [inside], "background": []})
    assert values(path)[tuple(inside)] == 1
    for params, message in (
        ({"foreground": [inside]}, "label: expected one of anterior, posterior"),
        ({"anterior": [[1, 2]]}, "anterior: expected a list of voxels [i, j, k]"),
        ({"anterior": [[1, 2, 999]]}, "expected a voxel of an image of 40×56×40"),
    ):
        import requests

        answer = requests.post(
            f"{server.url}/infer/{model}", params={"image": "calm"}, data={"params": json.dumps(params)}, timeout=60
        )
        assert answer.status_code == 400
        assert message in answer.json()["detail"]
