"""Which prediction goes with which reference, however people call and store them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tomoseg import TomosegError
from tomoseg.core.notes import collect_notes
from tomoseg.evaluation.pairing import match_cases


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def found(predictions: Path, references: Path) -> dict[str, tuple[str, str]]:
    return {
        pair.name: (
            pair.prediction.relative_to(predictions).as_posix(),
            pair.reference.relative_to(references).as_posix(),
        )
        for pair in match_cases(predictions, references).pairs
    }


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        ("a.nii.gz", "a.nii.gz"),
        ("a_seg.nii.gz", "a.nii"),
        ("a.seg.nrrd", "a_label.nii.gz"),
        ("sub/a_seg.nii.gz", "a.mha"),
        ("sub/a_seg.nii.gz", "other/a-label.nrrd"),
        ("a_0000_seg.nii.gz", "a.nii.gz"),
        ("a_2019_seg.nii.gz", "a_2019.nii.gz"),
    ],
)
def test_names_that_fit(prediction: str, reference: str, tmp_path: Path) -> None:
    ours, theirs = touch(tmp_path / "p", prediction), touch(tmp_path / "r", reference)
    assert list(found(ours, theirs).values()) == [(prediction, reference)]


def test_folders_tell_cases_of_one_name_apart(tmp_path: Path) -> None:
    ours = touch(tmp_path / "p", "one/seg/x_seg.nii", "one/x_seg.nii", "two/x_seg.nii", "y_seg.nii")
    theirs = touch(tmp_path / "r", "one/x.nii", "two/x.nii", "y.nii")
    assert found(ours, theirs) == {
        "one/x": ("one/x_seg.nii", "one/x.nii"),
        "two/x": ("two/x_seg.nii", "two/x.nii"),
        "y": ("y_seg.nii", "y.nii"),
    }
    assert [path.name for path in match_cases(ours, theirs).lonely_predictions] == ["x_seg.nii"]


def test_a_name_that_could_be_either_is_not_guessed(tmp_path: Path) -> None:
    ours = touch(tmp_path / "p", "a/x_seg.nii", "b/x_seg.nii", "y.nii")
    theirs = touch(tmp_path / "r", "x.nii", "y.nii")
    matches = match_cases(ours, theirs)
    assert [pair.name for pair in matches.pairs] == ["y"]
    assert (len(matches.lonely_predictions), len(matches.lonely_references)) == (2, 1)


def test_left_over_files_of_different_patients_are_no_pair(tmp_path: Path) -> None:
    """Each patient has a folder, and all files are called alike."""
    ours = touch(tmp_path / "p", "one/seg.nii", "three/seg.nii")
    theirs = touch(tmp_path / "r", "one/seg.nii", "two/seg.nii")
    matches = match_cases(ours, theirs)
    assert [pair.prediction.parent.name for pair in matches.pairs] == ["one"]
    assert (len(matches.lonely_predictions), len(matches.lonely_references)) == (1, 1)


def test_what_tomoseg_writes_beside_labels_is_no_prediction(tmp_path: Path) -> None:
    ours = touch(
        tmp_path / "p", "x_seg.nii.gz", "x_seg_entropy.nii.gz", "x_seg.png", ".x_seg.nii.gz.done.json", "report.json",
        "x_rtstruct.dcm", "x.nii.gz",
    )  # fmt: skip
    theirs = touch(tmp_path / "r", "x.nii.gz")
    matches = match_cases(ours, theirs)
    assert [pair.prediction.name for pair in matches.pairs] == ["x_seg.nii.gz"]
    assert matches.lonely_predictions == ()


def test_two_predictions_of_one_case_are_reported(tmp_path: Path) -> None:
    ours, theirs = touch(tmp_path / "p", "x_seg.nii", "x_label.nii"), touch(tmp_path / "r", "x.nii")
    with pytest.raises(TomosegError, match=r"x_seg\.nii: x_label\.nii in the same folder is called as the same case"):
        match_cases(ours, theirs)


def test_missing_partners_are_reported(tmp_path: Path) -> None:
    ours, theirs = touch(tmp_path / "p", "a.nii", "b.nii"), touch(tmp_path / "r", "b.nii", "c.nii")
    matches = match_cases(ours, theirs)
    assert [path.name for path in (*matches.lonely_predictions, *matches.lonely_references)] == ["a.nii", "c.nii"]


def test_files_are_what_they_are_said_to_be(tmp_path: Path) -> None:
    ours, theirs = touch(tmp_path / "p", "a.nii", "b.nii"), touch(tmp_path / "r", "b.nii", "c.nii")
    assert [pair.name for pair in match_cases(ours / "a.nii", theirs / "c.nii").pairs] == ["c"]
    of_one = match_cases(ours / "b.nii", theirs)
    assert ([pair.name for pair in of_one.pairs], of_one.lonely_references) == (["b"], ())
    by_one = match_cases(ours, theirs / "b.nii")
    assert ([pair.name for pair in by_one.pairs], by_one.lonely_predictions) == (["b"], ())


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([], ["a.nii"], "p: no such file or folder; expected label maps"),
        (["a.txt"], ["a.nii"], "p: contains no label map. Expected NIfTI, NRRD, MetaImage or DICOM-SEG"),
        (["a.nii"], ["a.txt"], "r: contains no label map"),
        (
            ["a.nii", "b.nii"],
            ["c.nii"],
            r"p: expected label maps called as those of .*r \(c\.nii\), got a\.nii, b\.nii",
        ),
    ],
)
def test_nothing_to_compare_is_reported(
    predictions: list[str], references: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TomosegError, match=message):
        match_cases(touch(tmp_path / "p", *predictions), touch(tmp_path / "r", *references))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """One whole case, one partly annotated, in the Decathlon's layout."""
    root = touch(tmp_path / "data", "imagesTr/a.nii", "imagesTr/b.nii", "labelsTr/a.nii", "labelsTr/b.nii")
    content = {
        "labels": {"0": "background", "1": "stem", "5": "cord"},
        "training": [
            {"image": "./imagesTr/a.nii", "label": "./labelsTr/a.nii"},
            {"image": "./imagesTr/b.nii", "label": "./labelsTr/b.nii", "annotated": ["cord"]},
        ],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("place", ["", "labelsTr", "labelsTr/b.nii"])
def test_a_dataset_reports_names_scans_and_annotations(place: str, dataset: Path, tmp_path: Path) -> None:
    """Given directly, as its folder of labels, or as a file in that folder."""
    ours = touch(tmp_path / "p", "a_seg.nii", "b_seg.nii")
    matches = match_cases(ours / "b_seg.nii" if place.endswith(".nii") else ours, dataset / place)
    assert matches.label_names == {1: "stem", 5: "cord"}
    pair = matches.pairs[-1]
    assert (pair.name, pair.image, pair.annotated) == ("b", dataset / "imagesTr" / "b.nii", frozenset({5}))
    if len(matches.pairs) > 1:
        assert matches.pairs[0].annotated is None


def test_a_dataset_that_cannot_be_read_does_not_stop_its_labels_from_being_used(dataset: Path, tmp_path: Path) -> None:
    content = {"channel_names": {"0": 3}, "labels": {"tumour": 1}}
    (dataset / "dataset.json").write_text(json.dumps(content))
    ours = touch(tmp_path / "p", "a_seg.nii")
    with collect_notes() as notes:
        matches = match_cases(ours, dataset / "labelsTr")
    assert [pair.name for pair in matches.pairs] == ["a"]
    assert notes[0].endswith("; scans and annotations were not taken from it")
    assert matches.label_names == {1: "tumour"}
    with pytest.raises(TomosegError, match="channel_names"):
        match_cases(ours, dataset)
