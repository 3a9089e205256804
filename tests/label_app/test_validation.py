"""New weights are used only where they are not worse on labels that no version was trained on."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from support.bundles import dice
from support.label_server import require_monailabel
from tomoseg import Segmenter, find_bundle
from tomoseg.label_app.folder import LabelApp
from tomoseg.label_app.model import ServedModel

require_monailabel()
from tomoseg.label_app.datastore.studies import open_studies  # noqa: E402
from tomoseg.label_app.trainers import validation  # noqa: E402
from tomoseg.label_app.trainers.train_task import BundleTraining  # noqa: E402
from tomoseg.label_app.trainers.training_cases import TrainingCase  # noqa: E402
from tomoseg.label_app.trainers.validation import is_held_out, measure_dice  # noqa: E402

INFO = {"label_info": [{"name": "anterior", "idx": 1}, {"name": "posterior", "idx": 2}]}


def known(**patients: str) -> Any:
    """Patients by the images that they are known of."""
    return SimpleNamespace(get_image_info=lambda image: {"PatientID": patients[image]} if image in patients else {})


def test_a_fifth_is_held_out_and_always_the_same() -> None:
    chosen = [image for image in map(str, range(1000)) if is_held_out(known(), image)]
    assert 160 < len(chosen) < 240
    assert chosen == [image for image in map(str, range(1000)) if is_held_out(known(), image)]


def test_images_of_a_patient_go_together() -> None:
    for patient in map(str, range(20)):
        both = {is_held_out(known(a=patient, b=patient), image) for image in "ab"}
        assert both == {is_held_out(known(), patient)}
    assert is_held_out(known(a="UNK"), "a") == is_held_out(known(a=""), "a") == is_held_out(known(), "a")


@pytest.mark.slow
def test_the_measure_is_the_mean_dice(real_scan: Path, tmp_path: Path) -> None:
    model = ServedModel(find_bundle("hippocampus"), LabelApp(tmp_path / "app"))
    found = Segmenter.from_bundle("hippocampus", device="cpu", backend="torch")(real_scan)
    drawn = np.roll(found.labels, 3, axis=1)
    path = tmp_path / "drawn.nii.gz"
    replace(found, labels=drawn).save(path)
    cases = [TrainingCase(real_scan, path, "one")]
    expected = np.mean([dice(found.labels, drawn, value) for value in (1, 2)])
    assert measure_dice(model, model.weights.current, cases, "cpu") == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_weights_are_used_where_they_are_not_worse(
    real_scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [str(number) for number in range(100)]
    held_out = [image for image in images if is_held_out(known(), image)][:5]
    trained = [image for image in images if not is_held_out(known(), image)][:1]
    (studies := tmp_path / "studies").mkdir()
    app = LabelApp(tmp_path / "app")
    app.write(["hippocampus"])
    model = ServedModel(find_bundle("hippocampus"), app)
    drawn = tmp_path / "drawn.nii.gz"
    Segmenter.from_bundle("hippocampus", device="cpu")(real_scan).save(drawn)
    for image in (*held_out, *trained):
        shutil.copy(real_scan, studies / f"{image}.nii.gz")
    datastore = open_studies(str(studies), app, [model], accept_unknown=False, follow_links=False)

    def label(*chosen: str) -> None:
        for image in chosen:
            datastore.save_label(image, str(drawn), "final", INFO)

    def train(rate: float, always: bool = False) -> dict[str, Any]:
        request = {"max_epochs": 1, "learning_rate_scale": rate, "device": "cpu"}
        done = BundleTraining(model, always)(request, datastore)
        assert json.loads((model.weights.folder / "train_stats.json").read_text()).get("best_metric") == (
            None if "validation" in done else done["dice" if done["used"] else "dice_before"]
        )
        return done

    label(held_out[0], *trained)
    done = train(1e-6)
    assert (done["version"], done["used"]) == (1, True)
    assert "not validated, for only 1 of 5" in done["validation"]
    assert "on 1 cases; 1 are held out" in capsys.readouterr().out

    label(*held_out[1:])
    done = train(1e-6)
    assert (done["version"], done["used"], done["held_out"]) == (2, True, 5)
    assert done["dice"] >= done["dice_before"] > 0.99
    done = train(10)
    assert (done["version"], done["used"]) == (3, False)
    assert done["dice"] < done["dice_before"]
    assert model.weights.current.number == 2
    assert "version 3 of the weights is not used: held_out 5, dice 0." in capsys.readouterr().out
    assert model.weights.version(3).facts["dice"] == done["dice"]
    assert train(10, always=True)["used"]
    assert model.weights.current.number == 4

    def fail(*_: Any) -> float:
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(validation, "measure_dice", fail)
    done = train(1e-6)
    assert (done["version"], done["used"]) == (5, False)
    assert done["validation"] == "not validated, for the comparison failed: CUDA out of memory"
    assert model.weights.version(5).checkpoint is not None
