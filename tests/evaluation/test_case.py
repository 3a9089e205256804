"""One case, label by label: omissions and refusals, which do not stop other cases."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.tiers import examples
from tomoseg import Grid
from tomoseg.data.overlap import Overlap
from tomoseg.evaluation.case import CaseScores, compare_labels, score_case, scores_of
from tomoseg.evaluation.config import EvaluationConfig
from tomoseg.evaluation.pairing import CasePair
from tomoseg.evaluation.surface import score_surfaces

GRID = Grid((12, 10, 8), np.diag([0.9, 1.0, 2.5, 1.0]))


def label_maps(seed: int, values: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Two maps of boxes that are nearly the same."""
    random = np.random.default_rng(seed)
    maps = np.zeros((2, *GRID.shape), np.uint8)
    for value in range(1, values):
        first = random.integers(0, 6, 3)
        stop = first + random.integers(1, 7, 3)
        for labels in maps:
            start = first + random.integers(-1, 2, 3)
            labels[tuple(slice(max(a, 0), b) for a, b in zip(start, stop, strict=True))] = value
    return maps[0], maps[1]


@given(st.integers(0, 2**32 - 1), st.booleans())
@settings(deadline=None, max_examples=examples(50))
def test_labels_are_scored_as_if_each_were_alone(seed: int, fortran: bool) -> None:
    """In the whole volume, not in a box of it."""
    prediction, reference = (np.asarray(one, order="F" if fortran else "C") for one in label_maps(seed))
    found = compare_labels(prediction, reference, GRID, EvaluationConfig(dict.fromkeys(range(1, 5), "x")))
    assert [one.label for one in found.scores] == [1, 2, 3, 4]
    for one in found.scores:
        ours, theirs = prediction == one.label, reference == one.label
        counts = [ours & theirs, ours & ~theirs, theirs & ~ours, ~ours & ~theirs]
        assert one.overlap == Overlap(*(int(mask.sum()) for mask in counts))
        wanted = score_surfaces(ours, theirs, GRID.affine, 1.0)
        np.testing.assert_allclose(
            [one.surface.hd95_mm, one.surface.assd_mm, one.surface.nsd],
            [wanted.hd95_mm, wanted.assd_mm, wanted.nsd],
            atol=1e-9,
        )
        assert one.volume_error_ml == pytest.approx((ours.sum() - theirs.sum()) * 0.00225)


def test_without_names_what_occurs_is_scored() -> None:
    prediction, reference = np.zeros((2, *GRID.shape), np.uint16)
    prediction[0, 0, 0], reference[1, 1, 1] = 300, 2
    found = compare_labels(prediction, reference, GRID, EvaluationConfig())
    assert [one.label for one in found.scores] == [2, 300]
    assert found.unnamed == ()
    assert compare_labels(prediction, reference, GRID, EvaluationConfig({2: "two"})).unnamed == (300,)


def test_ignored_voxels_are_counted_nowhere() -> None:
    """The scores are those of two maps without them, in a volume that is smaller by them."""
    prediction, reference = label_maps(5)
    ignored = np.zeros(GRID.shape, np.bool_)
    ignored[3:6, 2:7] = True
    marked = np.where(ignored, 9, reference).astype(np.uint8)
    names = {1: "a", 2: "b", 3: "c"}
    found = compare_labels(prediction, marked, GRID, EvaluationConfig(names, ignore=9))
    without = [np.where(ignored, 0, labels) for labels in (prediction, reference)]
    wanted = compare_labels(without[0], without[1], GRID, EvaluationConfig(names))
    assert found.voxels == wanted.voxels - ignored.sum()
    for ours, theirs in zip(found.scores, wanted.scores, strict=True):
        assert str(ours.surface) == str(theirs.surface)  # NaN is not equal to itself
        assert replace(theirs.overlap, neither=theirs.overlap.neither - int(ignored.sum())) == ours.overlap
    assert prediction[ignored].any()  # and not for nothing


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SRA", "ILP"])
def test_a_label_may_be_scored_between_its_first_and_last_slice(codes: str) -> None:
    """From the feet to the head, along any axis of the array."""
    prediction, reference = np.zeros((2, 6, 6, 20), np.uint8)
    reference[2:4, 2:4, 5:12] = 1
    prediction[2:4, 2:4, 3:15] = 1
    prediction[0, 0, 0], reference[0, 0, 0] = 2, 2
    image = [nib.Nifti1Image(labels, np.diag([1.0, 1, 3, 1])) for labels in (prediction, reference)]
    turn = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
    )
    image = [one.as_reoriented(turn) for one in image]
    maps = [np.asarray(one.dataobj) for one in image]
    grid = Grid(maps[0].shape, image[0].affine)
    whole, other = compare_labels(maps[0], maps[1], grid, EvaluationConfig()).scores
    part, same = compare_labels(maps[0], maps[1], grid, EvaluationConfig(within_slices=frozenset({1}))).scores
    assert (whole.overlap.predicted, part.overlap.predicted) == (48, 28)
    assert part.overlap == Overlap(28, 0, 0, 7 * 36 - 28)
    assert (part.surface.hd95_mm, part.surface.nsd) == (0, 1)
    assert whole.surface.hd95_mm > 3
    assert same == other


def case(tmp_path: Path, prediction: Any, reference: Any, /, **affines: Any) -> CasePair:
    paths = {}
    for name, array in (("prediction", prediction), ("reference", reference)):
        paths[name] = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(np.asarray(array), affines.get(name, np.eye(4))), paths[name])
    return CasePair("x", paths["prediction"], paths["reference"])


SOME = np.pad(np.ones((2, 2, 2), np.uint8), 2)


@pytest.mark.parametrize(
    ("arrays", "affines", "message"),
    [
        ((SOME[1:], SOME), {}, "expected the 6×6×6 voxels of its reference, got 5×6×6. Resample it"),
        (
            (SOME, SOME),
            {"prediction": np.diag([-1.0, 1, 1, 1])},
            r"got one \(LAS and RAS\) whose voxels lie up to 10 mm",
        ),
        ((SOME, SOME), {"prediction": np.diag([1.1, 1, 1, 1])}, r"got one whose voxels lie up to 0.5 mm off"),
        ((SOME * 0.5, SOME), {}, "expected a label map, got values that are no integers"),
        ((SOME.astype(np.int16) * -1, SOME), {}, "expected labels from 0 to 65535, got values from -1 to 0"),
        ((SOME.astype(np.int32) * 70000, SOME), {}, "expected labels from 0 to 65535, got values from 0 to 70000"),
        ((SOME * np.nan, SOME), {}, "expected finite values"),
        ((np.stack([SOME * 3, SOME], axis=3), SOME), {}, "a layer of 0 and 1 for each label, got values up to 3"),
        ((np.zeros((4, 4, 4, 2, 3), np.uint8), SOME), {}, "expected one 3D volume, got 5D"),
    ],
)
def test_what_cannot_be_compared_fails_with_its_name(
    arrays: tuple[np.ndarray, np.ndarray], affines: dict[str, np.ndarray], message: str, tmp_path: Path
) -> None:
    match = case(tmp_path, *arrays, **affines)
    found = score_case(match, EvaluationConfig())
    assert found.status == "failed"
    assert found.reason.startswith(f"{match.prediction}: ")
    assert re.search(message, found.reason), found.reason


def test_a_header_that_was_rounded_is_the_same_grid(tmp_path: Path) -> None:
    match = case(tmp_path, SOME, SOME, prediction=np.diag([1.000001, 1, 1, 1]))
    assert score_case(match, EvaluationConfig()).labels[0].overlap.dice == 1


def test_a_file_that_is_damaged_or_gone_fails_alone(tmp_path: Path) -> None:
    match = case(tmp_path, SOME, SOME)
    match.prediction.write_bytes(match.prediction.read_bytes()[:60])
    assert score_case(match, EvaluationConfig()).reason.startswith(f"{match.prediction}: ")
    match.reference.unlink()
    assert "no such file" in score_case(match, EvaluationConfig()).reason


def test_values_without_a_name_are_remarked(tmp_path: Path) -> None:
    found = score_case(case(tmp_path, SOME * 7, SOME), EvaluationConfig({1: "a"}))
    assert found.status == "done"
    assert "holds the values 7, which no label has; they are not scored" in found.notes
    assert found.labels[0].overlap.recall == 0


def test_labels_that_were_not_drawn_are_left_out(tmp_path: Path) -> None:
    match = case(tmp_path, SOME, SOME * 0)
    partly = CasePair(match.name, match.prediction, match.reference, annotated=frozenset({2}))
    config = EvaluationConfig({1: "a", 2: "b"})
    assert [one.label for one in score_case(match, config).labels] == [1, 2]
    found = score_case(partly, config)
    assert [one.label for one in found.labels] == [2]
    assert scores_of(found, [1]) == [None]


def test_a_label_that_a_case_lacks_scores_nothing_and_is_rightly_absent() -> None:
    one = CaseScores("x", None, None, "done", absent=Overlap(0, 0, 0, 100))
    (absent,) = scores_of(one, [3])
    assert absent is not None
    assert math.isnan(absent.overlap.dice)
    assert math.isnan(absent.surface.assd_mm)
    assert (absent.overlap.accuracy, absent.volume_error_ml) == (1, 0)
    assert scores_of(CaseScores("x", None, None, "failed", "why"), [3]) == [None]
