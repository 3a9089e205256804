"""Labelled datasets: one set of pairs for every layout, and one kind line for a folder that is no dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.tiers import examples
from tomoseg import TomosegError
from tomoseg.core.errors import UsageError
from tomoseg.data.datasets import Dataset, Pair, find_datasets, is_dataset, read_dataset
from tomoseg.data.formats import VOLUME_SUFFIXES

CASES = ("liver_1", "liver_2", "liver_0003")
NAMES = {1: "liver", 3: "tumour"}
DECATHLON_NAMES = {"labels": {"0": "background", "1": "liver", "3": "tumour"}, "modality": {"0": "CT"}}
NNUNET_NAMES = {"labels": {"background": 0, "liver": 1, "tumour": 3}, "channel_names": {"0": "CT"}}


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def describe(root: Path, content: Any) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def entries(*cases: str, suffix: str = ".nii.gz") -> list[dict[str, str]]:
    return [{"image": f"./imagesTr/{case}{suffix}", "label": f"./labelsTr/{case}{suffix}"} for case in cases]


def decathlon(root: Path, suffix: str) -> Path:
    touch(root, *(f"{folder}/{case}{suffix}" for folder in ("imagesTr", "labelsTr") for case in CASES))
    touch(root, f"imagesTs/test_1{suffix}")
    test = [f"./imagesTs/test_1{suffix}"]
    return describe(root, {**DECATHLON_NAMES, "training": entries(*CASES, suffix=suffix), "test": test})


def nnunet(root: Path, suffix: str) -> Path:
    touch(root, *(f"imagesTr/{case}_0000{suffix}" for case in CASES), *(f"labelsTr/{case}{suffix}" for case in CASES))
    touch(root, f"imagesTs/test_1_0000{suffix}")
    return describe(root, {**NNUNET_NAMES, "numTraining": len(CASES), "file_ending": suffix})


def nnunet_listed(root: Path, suffix: str) -> Path:
    nnunet(root, suffix)
    listed = {
        case: {"images": [f"imagesTr/{case}_0000{suffix}"], "label": f"labelsTr/{case}{suffix}"} for case in CASES
    }
    test = [{"image": f"imagesTs/test_1_0000{suffix}"}]
    return describe(root, {**NNUNET_NAMES, "dataset": listed, "test": test})


def nnunet_1(root: Path, suffix: str) -> Path:
    nnunet(root, suffix)  # lists the cases without the number of the channel
    test = [f"./imagesTs/test_1{suffix}"]
    return describe(root, {**DECATHLON_NAMES, "training": entries(*CASES, suffix=suffix), "test": test})


@pytest.mark.parametrize("layout", [decathlon, nnunet, nnunet_listed, nnunet_1])
@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
def test_a_dataset_is_the_same_in_each_layout(tmp_path: Path, layout: Any, suffix: str) -> None:
    found = read_dataset(layout(tmp_path / "data", suffix))
    assert {pair.name for pair in found.pairs} == set(CASES)
    for pair in found.pairs:
        assert pair.image.name.removesuffix(suffix).removesuffix("_0000") == pair.name
        assert pair.image.is_file()
        assert pair.label.is_file()
    assert found.label_names == NAMES
    assert found.modality == "CT"
    assert [path.name.removesuffix(suffix).removesuffix("_0000") for path in found.test] == ["test_1"]
    assert found.images_without_label == found.labels_without_image == found.missing == found.unlisted == ()


@pytest.mark.parametrize("ending", ["", "_seg", "_label", "_segmentation", "_mask", "_gt", "-label"])
@pytest.mark.parametrize("folders", [("images", "labels"), ("imagesTr", "labelsTr")])
def test_plain_folders_are_paired_by_name(tmp_path: Path, ending: str, folders: tuple[str, str]) -> None:
    images, labels = folders
    touch(tmp_path, *(f"{images}/{case}.nii.gz" for case in CASES), f"{images}/.hidden.nii.gz", f"{images}/notes.txt")
    touch(tmp_path, *(f"{labels}/{case}{ending}.nrrd" for case in CASES))
    found = read_dataset(tmp_path)
    assert [(pair.image.name, pair.label.name) for pair in found.pairs] == [
        (f"{case}.nii.gz", f"{case}{ending}.nrrd") for case in sorted(CASES)
    ]
    assert found.label_names == {}
    assert found.modality is None


@pytest.mark.parametrize("layout", ["listed", "labels", "labelsTr"])
def test_a_dataset_may_have_label_maps_only(tmp_path: Path, layout: str) -> None:
    folder = "labelsTr" if layout == "listed" else layout
    touch(tmp_path, *(f"{folder}/{case}.nii.gz" for case in CASES), "imagesTs/test_1.nii.gz")
    if layout == "listed":
        listed = [{"label": entry["label"]} for entry in entries(*CASES)]
        describe(tmp_path, {**DECATHLON_NAMES, "training": listed, "test": ["imagesTs/test_1.nii.gz"]})
    found = read_dataset(tmp_path)
    assert {pair.name for pair in found.pairs} == set(CASES)
    assert not found.has_scans
    assert [path.name for path in found.test] == ["test_1.nii.gz"]
    assert found.labels_without_image == found.missing == found.unlisted == ()
    assert find_datasets(tmp_path) == [tmp_path]


def test_label_maps_beside_loose_scans_are_no_dataset(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii", "labels/a.nii")
    assert not is_dataset(tmp_path)


def test_what_has_no_partner_is_listed_apart(tmp_path: Path) -> None:
    root = decathlon(tmp_path / "listed", ".nii.gz")
    touch(root, "imagesTr/extra.nii.gz")
    (root / "labelsTr/liver_1.nii.gz").unlink()
    (root / "imagesTr/liver_2.nii.gz").unlink()
    content = json.loads((root / "dataset.json").read_text())
    describe(root, {**content, "training": [*content["training"], *entries("gone")]})
    listed = read_dataset(root)
    assert [pair.name for pair in listed.pairs] == ["liver_0003"]
    assert listed.images_without_label == (root / "imagesTr/liver_1.nii.gz",)
    assert listed.labels_without_image == (root / "labelsTr/liver_2.nii.gz",)
    assert listed.missing == (root / "imagesTr/gone.nii.gz",)
    assert listed.unlisted == (root / "imagesTr/extra.nii.gz",)

    plain = tmp_path / "plain"
    touch(plain, "images/a.nii", "images/b.nii", "labels/b.nii", "labels/c.nii", "labels/b_seg.nii")
    found = read_dataset(plain)
    assert found.pairs == (Pair(plain / "images/b.nii", plain / "labels/b.nii"),)  # the whole name goes first
    assert found.images_without_label == (plain / "images/a.nii",)
    assert found.labels_without_image == (plain / "labels/b_seg.nii", plain / "labels/c.nii")


def test_parts_and_what_was_drawn_are_read(tmp_path: Path) -> None:
    root = decathlon(tmp_path, ".nii.gz")
    one, two, three = entries(*CASES)
    lists = {"training": [one, {**two, "annotated": ["liver"]}], "validation": [{**three, "annotated": []}]}
    found = read_dataset(describe(root, {**DECATHLON_NAMES, **lists}))
    assert [(pair.part, pair.annotated) for pair in found.pairs] == [
        ("training", None),
        ("training", ("liver",)),
        ("validation", ()),
    ]


def test_regions_of_nnunet_keep_their_names(tmp_path: Path) -> None:
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "active": 3}
    root = describe(nnunet(tmp_path, ".nii.gz"), {**NNUNET_NAMES, "labels": labels})
    assert read_dataset(root).label_names == {1: "whole", 2: "whole + core", 3: "whole + core + active"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "expected a JSON object, got list"),
        ({"labels": 3}, 'labels: expected {"1": "name"} or {"name": 1}, got int'),
        ({"labels": {"liver": "one"}}, "labels: expected"),
        ({"labels": {"liver": -1}}, "labels: expected"),
        ({"labels": {"liver": True}}, "labels: expected"),
        ({"labels": {"liver": 1.5}}, "labels: expected"),
        ({"modality": {"0": "T1", "1": 2}}, "modality: expected"),
        ({"channel_names": {"0": 3}}, "channel_names: expected"),
        ({"training": "all"}, "training: expected a list of cases, got str"),
        ({"training": ["a.nii.gz"]}, r"training\[0\]: expected"),
        ({"training": [{}]}, r"training\[0\]: image: expected the name of a file, got None"),
        (
            {"training": [*entries("a"), {"label": "b.nii"}]},
            r"training\[1\]: image: expected the name of a file, got None",
        ),
        ({"training": [{"label": ["b.nii"]}]}, r"training\[0\]: label: expected the name of a file, got \['b.nii'\]"),
        ({"training": [{"label": "b.nii"}, {"label": "./b.nii"}]}, r"training\[1\]: b.nii is listed twice"),
        (
            {"training": [{"image": ["a_0000.nii", "a_0000.nii"]}]},
            r"training\[0\]: a_0000.nii is listed twice",
        ),
        ({"training": [{"image": "/etc/a.nii", "label": "b.nii"}]}, "expected a file in the dataset's own folder"),
        ({"training": [{"image": "imagesTr/../../a.nii"}]}, "expected a file in the dataset's own folder"),
        ({"training": [{"image": "C:\\a.nii"}]}, "expected a file in the dataset's own folder"),
        ({"training": [{"image": "imagesTr\\..\\..\\a.nii"}]}, "expected a file in the dataset's own folder"),
        ({"training": [{"image": "a" * 300}]}, r"training\[0\]: image: .*File name too long"),
        ({"training": [{"image": "."}]}, "expected a file in the dataset's own folder"),
        ({"training": entries("a", "b", "a")}, r"training\[2\]: imagesTr/a.nii.gz is listed twice"),
        ({"training": entries("a"), "validation": entries("a")}, r"validation\[0\]: imagesTr/a.nii.gz is listed twice"),
        (
            {**DECATHLON_NAMES, "training": [{**entries("liver_1")[0], "annotated": ["spleen"]}]},
            r"training\[0\]: annotated: expected names of labels \(liver, tumour\), got \['spleen'\]",
        ),
        ({"file_ending": ".png"}, r"file_ending: expected one of .*, got \.png"),
    ],
)
def test_a_bad_description_is_reported_in_one_kind_line(tmp_path: Path, content: Any, message: str) -> None:
    root = describe(decathlon(tmp_path, ".nii.gz"), content)
    with pytest.raises(UsageError, match=message) as caught:
        read_dataset(root)
    assert str(caught.value).startswith(f"{root / 'dataset.json'}: ")
    assert "\n" not in str(caught.value)


def test_what_is_no_dataset_is_reported_in_one_kind_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    touch(broken, "dataset.json")
    apart = tmp_path / "apart"
    touch(apart, "images/a.nii", "labels/b.nii")
    twice = tmp_path / "twice"
    touch(twice, "images/a.nii", "images/a.nrrd", "labels/a.nii")
    gap = tmp_path / "gap"
    touch(gap, "imagesTr/a_0000.nii", "imagesTr/a_0002.nii", "labelsTr/a.nii")
    fewer = tmp_path / "fewer"
    pairs = [f"imagesTr/{name}_000{number}.nii" for name in "ab" for number in range(2)]
    touch(fewer, *pairs[:-1], "labelsTr/a.nii", "labelsTr/b.nii")
    more = tmp_path / "more"
    touch(more, *pairs, "labelsTr/a.nii", "labelsTr/b.nii")
    describe(more, {"channel_names": {"0": "T1", "1": "T2", "2": "FLAIR"}, "labels": {"tumour": 1}})
    for folder, message in {
        tmp_path / "nowhere": "expected dataset.json .*, got no such folder",
        broken / "dataset.json": "expected dataset.json .*, got a file",
        tmp_path: "expected dataset.json",
        broken: "cannot be read as JSON",
        apart: "of the same names, got 1 scans and 1 label maps without partner .a.nii and b.nii.; 0",
        twice: "a.nii in the same folder has the same name",
        gap: "a_0000.nii: expected 2 channels, numbered from _0000 on, got a_0000.nii, a_0002.nii",
        fewer: "b_0000.nii: expected 2 channels, numbered from _0000 on, got b_0000.nii$",
        more: "a_0000.nii: expected 3 channels, numbered from _0000 on, got a_0000.nii, a_0001.nii",
    }.items():
        with pytest.raises(UsageError, match=message) as caught:
            read_dataset(folder)
        assert str(caught.value).startswith(str(folder))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FILES = st.sampled_from(
    ["imagesTr/liver_1.nii.gz", "./labelsTr/liver_1.nii.gz", "labelsTr/liver_2.nii.gz", "../x.nii", "/x.nii", ".", "~"]
)
ENTRIES = st.fixed_dictionaries({}, optional={"image": FILES | JSON, "label": FILES | JSON, "annotated": JSON}) | JSON


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.fixed_dictionaries(
        {},
        optional={
            "training": st.lists(ENTRIES, max_size=3) | JSON,
            "validation": st.lists(ENTRIES, max_size=2) | JSON,
            "test": st.lists(FILES | ENTRIES, max_size=2) | JSON,
            "dataset": st.dictionaries(st.text(max_size=3), ENTRIES, max_size=2) | JSON,
            "labels": st.dictionaries(st.text(max_size=3), st.integers(-1, 4) | st.text(max_size=3)) | JSON,
            "modality": JSON,
            "channel_names": JSON,
            "file_ending": st.sampled_from([".nii", ".nii.gz"]) | JSON,
        },
    )
    | JSON
)
def test_any_description_ends_in_a_dataset_or_in_our_error(tmp_path: Path, content: Any) -> None:
    root = tmp_path / "data"
    if not root.exists():
        decathlon(root, ".nii.gz")
    describe(root, content)
    outcome: Dataset | TomosegError
    try:
        outcome = read_dataset(root)
    except TomosegError as error:
        outcome = error
    if isinstance(outcome, Dataset):
        assert outcome.pairs
        files = [pair.label for pair in outcome.pairs]
        files += [pair.image for pair in outcome.pairs if outcome.has_scans]
        assert all(path.is_file() for path in files)
        assert all(path.resolve().is_relative_to(root.resolve()) for path in [*files, *outcome.missing, *outcome.test])
        assert len(set(files)) == len(files)
        assert all(value > 0 for value in outcome.label_names)
    else:
        assert str(outcome).startswith(str(root))
        assert "\n" not in str(outcome)


def test_datasets_are_found_below_a_folder(tmp_path: Path) -> None:
    decathlon(tmp_path / "b/Task03", ".nii.gz")
    touch(tmp_path / "a", "images/x.nii", "labels/x.nii")
    touch(tmp_path / "web", "images/x.png", "labels/x.txt")
    touch(tmp_path / ".trash", "images/x.nii", "labels/x.nii")
    assert find_datasets(tmp_path) == [tmp_path / "a", tmp_path / "b/Task03"]
    assert is_dataset(tmp_path / "a")
    assert not is_dataset(tmp_path / "web")


def test_the_hippocampus_task_is_read_whole(hippocampus_data: Path) -> None:
    found = read_dataset(hippocampus_data)
    assert len(found.pairs) == 208
    assert found.label_names == {1: "Anterior", 2: "Posterior"}
    assert found.modality == "MR"
    assert found.unlisted == found.missing == ()


def test_channels_lie_in_one_file_or_in_one_each(tmp_path: Path) -> None:
    names = {"channel_names": {"0": "T2", "1": "ADC"}, "labels": {"liver": 1, "tumour": 3}}
    files = [f"imagesTr/{case}_000{number}.nii" for case in CASES for number in range(2)]
    for root in (tmp_path / "named", tmp_path / "listed", tmp_path / "nnunet_1", tmp_path / "nnunet_2"):
        touch(root, *files, *(f"labelsTr/{case}.nii" for case in CASES))
    describe(tmp_path / "named", names)
    both = [[f"imagesTr/{case}_000{number}.nii" for number in range(2)] for case in CASES]
    labels = [f"labelsTr/{case}.nii" for case in CASES]
    listed = [{"image": images, "label": label} for images, label in zip(both, labels, strict=True)]
    describe(tmp_path / "listed", {**names, "training": listed})
    describe(tmp_path / "nnunet_1", {**names, "training": entries(*CASES, suffix=".nii")})
    second = {case: {"images": images, "label": label} for case, images, label in zip(CASES, both, labels, strict=True)}
    describe(tmp_path / "nnunet_2", {**names, "dataset": second})
    for folder in ("named", "listed", "nnunet_1", "nnunet_2"):
        dataset = read_dataset(tmp_path / folder)
        assert (dataset.channels, dataset.modality, dataset.unlisted) == (("T2", "ADC"), None, ())
        found = {pair.name: [path.name for path in (pair.image, *pair.other_channels)] for pair in dataset.pairs}
        assert found == {case: [f"{case}_0000.nii", f"{case}_0001.nii"] for case in CASES}
    (tmp_path / "named" / "dataset.json").unlink()
    assert read_dataset(tmp_path / "named").channels == ("channel 0", "channel 1")
    whole = describe(decathlon(tmp_path / "4d", ".nii.gz"), {**names, "training": entries(*CASES)})
    assert read_dataset(whole).channels == ("T2", "ADC")
    assert all(pair.source == pair.image for pair in read_dataset(whole).pairs)
