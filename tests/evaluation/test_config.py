"""Labels, tolerances and omissions, as people write them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tomoseg import TomosegError
from tomoseg.data.label_mapping import LabelMapping
from tomoseg.data.label_names import parse_labels
from tomoseg.evaluation.config import EvaluationConfig, make_protocol

NAMES = {1: "Anterior", 2: "posterior"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("1=liver", {1: "liver"}),
        ("liver=1, spleen = 3", {1: "liver", 3: "spleen"}),
        ("2=b,1=a,0=background", {1: "a", 2: "b"}),
    ],
)
def test_labels_on_the_command_line(text: str, names: dict[int, str]) -> None:
    assert parse_labels(text) == names


@pytest.mark.parametrize(
    "content",
    [{"1": "a", "2": "b"}, {"background": 0, "a": 1, "b": 2}, {"labels": {"0": "background", "1": "a", "2": "b"}}],
)
def test_labels_in_a_file(content: object, tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(content))
    assert parse_labels(str(path)) == {1: "a", 2: "b"}


@pytest.mark.parametrize("text", ["", "liver", "1=a,1=b", "1=a,2=a", "a=b", "1=", "=1", "none.json", "x" * 5000])
def test_what_is_no_labels(text: str) -> None:
    with pytest.raises(TomosegError, match="labels: expected 1=NAME,2=NAME or a JSON file, got "):
        parse_labels(text)


def test_many_labels_are_no_file_and_the_background_is_no_label() -> None:
    names = {value: f"an organ with the number {value}" for value in range(1, 100)}
    assert parse_labels(",".join(f"{value}={name}" for value, name in names.items())) == names
    with pytest.raises(TomosegError, match="tolerance: no label 'xxx"):
        make_protocol(NAMES, ["x" * 5000 + "=2mm"])
    with pytest.raises(TomosegError, match="labels: expected one other than 0, which is the background"):
        parse_labels("0=background")


@pytest.mark.parametrize("content", ["[1]", "{", '{"labels": [1]}', '{"a": "b"}'])
def test_a_damaged_file_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(content)
    with pytest.raises(TomosegError, match=r"labels\.json: "):
        parse_labels(str(path))


def test_tolerances_of_all_and_of_single_labels(tmp_path: Path) -> None:
    path = tmp_path / "tolerances.json"
    path.write_text(json.dumps({"posterior": 2.5}))
    config = make_protocol(NAMES, ["1.5 mm", "anterior=.5mm", str(path)])
    assert [config.tolerance(value) for value in (1, 2, 3)] == [0.5, 2.5, 1.5]
    assert EvaluationConfig().tolerance(1) == 1
    assert make_protocol({}, ["7=2mm"]).tolerance(7) == 2


@pytest.mark.parametrize(
    ("tolerances", "message"),
    [
        (["far"], "tolerance: expected a length in mm such as 1mm, or NAME=2mm, got 'far'"),
        (["1cm"], "tolerance: expected a length in mm"),
        (["-1mm"], "tolerance: expected a length in mm"),
        (["liver=1mm"], r"tolerance: no label 'liver'\. Choose from: Anterior \(1\), posterior \(2\)"),
        (["3=1mm"], "tolerance: no label '3'. Choose from"),
    ],
)
def test_wrong_tolerances_are_reported(tolerances: list[str], message: str) -> None:
    with pytest.raises(TomosegError, match=message):
        make_protocol(NAMES, tolerances)


def test_nnunets_ignore_label_is_known() -> None:
    named = make_protocol({**NAMES, 3: "ignore"})
    assert (named.ignore, named.names) == (3, NAMES)
    given = make_protocol({**NAMES, 9: "unclear"}, ignore=9, within_slices=["posterior"])
    assert (given.ignore, given.names, given.within_slices) == (9, NAMES, frozenset({2}))
    with pytest.raises(TomosegError, match="within slices: no label 'cord'"):
        make_protocol(NAMES, within_slices=["cord"])


@pytest.mark.parametrize(
    ("theirs", "ours", "values"),
    [
        ({2: "Front", 7: "Back part"}, {1: "front", 2: "back_part"}, {2: 1, 7: 2}),
        ({1: "b", 2: "a", 3: "ignore"}, {1: "a", 2: "b"}, {1: 2, 2: 1}),
        ({1: "Anterior", 2: "Posterior"}, {1: "anterior", 2: "posterior"}, {}),
        (
            {2: "Läppchen", 5: "Niere, re."},
            {1: "l\u00e4ppchen", 2: "niere,_re."},
            {2: 1, 5: 2},
        ),
        ({1: "tumour", 2: "organ"}, {1: "organ"}, {1: 3, 2: 1}),  # a tumour is not taken for the organ
        ({1: "liver", 2: "kidney"}, {1: "liver", 2: "spleen"}, {2: 3}),  # nor a kidney for the spleen
        ({1: "Leber"}, {2: "liver"}, {}),  # no name in common: by value
        ({}, {1: "a"}, {}),
    ],
)
def test_labels_are_matched_by_name_where_a_dataset_has_them(
    theirs: dict[int, str], ours: dict[int, str], values: dict[int, int]
) -> None:
    assert LabelMapping.by_name(theirs, ours).values == values
