"""The expected Dice: fitted on cases held out and on corrupted copies, and used by what segments."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from support.command_line import run_inside
from support.trainings import check_data, phantom, tiny_bundle, write_dataset
from tomoseg import Grid, Segmenter, TomosegError, Volume, calibrate, find_bundle
from tomoseg.bundle.confidence import CONFIDENCE, describe_sums, lower_bound, read_confidence
from tomoseg.bundle.trust import record
from tomoseg.core.files import sha256
from tomoseg.training.confidence_fit import CLEAN, Result, fit_confidence, fit_label
from tomoseg.training.corruption import CORRUPTIONS, SEVERITIES, corrupt, list_copies
from tomoseg.training.options import TrainingOptions
from tomoseg.training.training import install, train


def simulated(patients: int, seed: int, absent: int = 0) -> list[Result]:
    """Return results whose sums show their Dice with some noise; the last patients lack the label."""
    rng, results = np.random.default_rng(seed), []
    for case in range(patients):
        for copy in (CLEAN, "noise 1", "blur 2", "cropped 3"):
            present, dice = case < patients - absent, rng.beta(6, 2) if copy == CLEAN else rng.uniform()
            volume = 3 * np.exp(rng.normal(0, 0.1)) * (1 if present else 0.05)
            inside = volume * (0.3 + 0.65 * np.clip(dice + rng.normal(0, 0.04), 0, 1)) * (1 if present else 0.3)
            everywhere = inside + (volume - inside) * 0.8
            sums = np.array([volume, inside, everywhere, 0.9 * everywhere, 6 * volume ** (2 / 3)])
            useless = np.array([volume, 0.5 * volume, 0.6 * volume, 0.5 * volume, sums[4]])
            both = np.stack([sums, useless])  # of two temperatures
            results.append(Result(f"p{case:03}", copy, "liver", present, dice if present else 0.0, both))
    return results


def test_the_expected_dice_and_its_bound_hold_for_new_patients() -> None:
    confidence = fit_confidence(simulated(60, 1), ["0" * 64], (1.0, 3.0))
    label, new = confidence.labels["liver"], simulated(200, 2)
    assert confidence.temperature == 1.0
    assert (label.cases, label.results) == (60, 240)
    assert label.pearson > 0.9
    expected = [label.expect(one.sums[0]) for one in new]
    assert np.corrcoef([one.dice for one in expected if one], [one.dice for one in new])[0, 1] > 0.9
    covered = np.mean(
        [one.low is not None and true.dice >= one.low for one, true in zip(expected, new, strict=True) if one]
    )
    assert 0.85 <= covered < 1
    assert np.mean([one.low / one.dice for one in expected if one and one.low is not None]) > 0.5  # a bound of use
    # no feature that speaks against the label makes it better
    rows = describe_sums(np.stack([one.sums[0] for one in new]), label.volume_ml)
    for feature in range(rows.shape[1]):
        worse = rows.copy()
        worse[:, feature] += 0.5
        index = [-(one @ np.array(label.weights)) for one in (rows, worse)]
        curve = np.transpose(label.curve)
        assert (np.interp(index[1], *curve) <= np.interp(index[0], *curve) + 1e-9).all()


def test_presence_is_a_probability_where_some_patients_lack_the_label() -> None:
    with_absent, without = (fit_label(simulated(40, 1, absent), 0) for absent in (15, 0))
    assert with_absent is not None
    assert without is not None
    assert without.label.presence == ()
    given = [(with_absent.label.expect(one.sums[0]), one.present) for one in simulated(40, 3, 15)]
    assert np.mean([known.presence for known, present in given if known and present]) > 0.9
    assert np.mean([known.presence for known, present in given if known and not present]) < 0.1


def test_too_few_patients_calibrate_nothing() -> None:
    assert fit_confidence(simulated(2, 1), [], (1.0, 3.0)).labels == {}
    assert lower_bound(0.9, 2.0) == pytest.approx(0.8)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corrupted_copy_is_the_same_each_time_and_keeps_its_labels_in_place(kind: str) -> None:
    image, labels = phantom(1)
    volume = Volume(array=image, grid=Grid(image.shape, np.eye(4)), source="case")
    changed = set()
    for severity in range(SEVERITIES):
        found, drawn = corrupt(volume, labels, kind, severity)
        again, _ = corrupt(volume, labels, kind, severity)
        np.testing.assert_array_equal(found.array, again.array)
        assert found.array.shape == found.grid.shape == drawn.shape
        assert np.isfinite(found.array).all()
        assert found.array.dtype == np.float32
        changed.add(found.array.tobytes())
        if CORRUPTIONS[kind].place is not None:  # the bright voxels still have the labels
            assert found.array[drawn == 2].mean() > 1.5
            assert abs(found.array[drawn == 0].mean()) < 0.1
        else:
            np.testing.assert_array_equal(drawn, labels)
    assert len(changed) == SEVERITIES
    assert image.tobytes() not in changed
    assert len({*list_copies(99, "a")}) == len(CORRUPTIONS) * SEVERITIES


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Return a dataset, a trained bundle, and the weights of one of its folds."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("calibrated")
    data = write_dataset(folder / "data", 6)
    bundle = tiny_bundle(data, folder / "bundle", steps=20)
    record(bundle)
    made = train(
        find_bundle(bundle),
        check_data(data),
        TrainingOptions(epochs=4, device="cpu", fold="none"),
        folder / "out",
        True,
    )
    install(made.weights, find_bundle(bundle), overwrite=False)
    return data, bundle, made.weights


def test_a_bundle_is_calibrated_and_says_so(trained: tuple[Path, Path, Path], tmp_path: Path) -> None:
    data, bundle, weights = trained
    scan = data / "imagesTr" / "case_00.nii.gz"
    raw = Segmenter.from_bundle(bundle, device="cpu")(scan)
    assert raw.expected_dice
    assert all(one.low is None for one in raw.expected_dice.values())
    table, shown = tmp_path / "results.csv", list[str]()
    found = calibrate(bundle, data, copies=3, table=table, on_case=shown.append)
    assert shown == [f"case_{case:02}" for case in range(6)]
    assert (bundle / CONFIDENCE).is_file()
    assert read_confidence(bundle, [sha256(bundle / "models" / "model.pt")]) == found
    result = Segmenter.from_bundle(bundle, device="cpu")(scan)
    assert {value for value, count in result.voxel_counts.items() if count} <= result.expected_dice.keys()
    for one in result.expected_dice.values():
        assert one.low is not None
        assert 0 <= one.low <= one.dice <= 1
    before = table.read_bytes()
    assert calibrate(bundle, data, copies=3, table=table) == found  # of what the table says
    assert table.read_bytes() == before
    done = run_inside("segment", scan, "-o", tmp_path / "seg.nii.gz", "--report", tmp_path / "r.json", "-b", bundle)
    assert "Dice" in done.stdout
    assert "at least" in done.stdout
    rows = json.loads((tmp_path / "r.json").read_text())["cases"][0]["labels"]
    assert {row["label"]: row["expected_dice"] for row in rows if row["voxels"]} == {
        value: one.dice for value, one in result.expected_dice.items() if result.voxel_counts[value]
    }
    # other weights than those that it was calibrated for
    other = tmp_path / "other.pt"
    state = torch.load(weights, weights_only=True)
    torch.save({name: tensor * 1.01 for name, tensor in state.items()}, other)
    assert all(
        one.low is None for one in Segmenter.from_bundle(bundle, checkpoints=(str(other),))(scan).expected_dice.values()
    )


def test_folds_are_segmented_by_the_weights_that_have_not_seen_them(
    trained: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    data, bundle, weights = trained
    names = [f"case_{case:02}" for case in range(6)]
    folds = [{"train": names[3:], "val": names[:3]}, {"train": names[:3], "val": names[3:]}]
    (data / "splits.json").write_text(json.dumps(folds))
    try:
        arguments = (
            "calibrate",
            bundle,
            data,
            "--copies",
            "4",
            "--table",
            tmp_path / "t.csv",
            "--fold-weights",
            weights,
        )
        done = run_inside(*arguments, "--fold-weights", tmp_path / "missing.pt")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "missing.pt" in done.stderr
        cases = {line.split(",")[0] for line in (tmp_path / "t.csv").read_text().splitlines()[1:]}
        assert cases == set(names[:3])  # what the first fold found is kept
        done = run_inside(*arguments)
        assert done.returncode == 0, done.stderr
        assert "3 patients" in done.stdout
        with pytest.raises(TomosegError, match="has 2 folds, got 3 files"):
            calibrate(bundle, data, fold_weights=[weights] * 3)
    finally:
        (data / "splits.json").unlink()


def test_scans_too_few_and_a_damaged_file_are_reported(trained: tuple[Path, Path, Path], tmp_path: Path) -> None:
    _, bundle, _ = trained
    few = write_dataset(tmp_path / "few", 2)
    done = run_inside("calibrate", bundle, few, "--copies", "1")
    assert done.returncode == 1
    assert (
        done.stderr
        == f"tomoseg: error: {few}: expected at least 3 cases with a label and 12 results, got fewer. Add cases\n"
    )
    (bundle / CONFIDENCE).write_text('{"checkpoints": []}')
    record(bundle)
    scan = tmp_path / "scan.nii.gz"
    nib.save(nib.Nifti1Image(phantom(0)[0], np.eye(4)), scan)
    done = run_inside("segment", scan, "-o", tmp_path / "seg.nii.gz", "-b", bundle)
    assert done.returncode == 2
    assert "confidence.json: cannot be read" in done.stderr
    (bundle / CONFIDENCE).unlink()
    record(bundle)
