from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.bundles import BUNDLES
from tomoseg import Bundle, TomosegError
from tomoseg.data.labels import TISSUE, Code, Label, default_colour


def make(root: Path, metadata: object) -> Bundle:
    (root / "configs").mkdir(parents=True)
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    return Bundle("made", root)


def test_reports_modality_and_labels_from_the_metadata(tmp_path: Path) -> None:
    formats = {
        "inputs": {"image": {"modality": "CT"}},
        "outputs": {"pred": {"channel_def": {"0": "background", "1": "liver", "2": "spleen"}}},
    }
    bundle = make(tmp_path / "made", {"version": "1.2.3", "network_data_format": formats})
    assert (bundle.version, bundle.modality, bundle.labels) == ("1.2.3", "CT", {1: "liver", 2: "spleen"})


@pytest.mark.parametrize("metadata", [{}, {"network_data_format": []}, {"network_data_format": {"inputs": 3}}])
def test_says_less_where_the_metadata_does(tmp_path: Path, metadata: object) -> None:
    bundle = make(tmp_path / "made", metadata)
    assert (bundle.version, bundle.modality, bundle.labels) == ("unknown", "unknown", {})


def test_the_config_may_be_yaml(tmp_path: Path) -> None:
    bundle = make(tmp_path / "made", {})
    with pytest.raises(TomosegError, match=r"expected configs/inference\.json, got none"):
        _ = bundle.inference_config
    (tmp_path / "made/configs/inference.yaml").touch()
    assert bundle.inference_config == tmp_path / "made/configs/inference.yaml"


@pytest.mark.parametrize(
    ("content", "message"), [("{", "cannot be read as JSON"), ("[]", "expected a JSON object, got list")]
)
def test_damaged_metadata_is_named(tmp_path: Path, content: str, message: str) -> None:
    bundle = make(tmp_path / "made", {})
    (tmp_path / "made/configs/metadata.json").write_text(content)
    with pytest.raises(TomosegError, match=rf"metadata\.json: {message}"):
        _ = bundle.version


def test_label_values_must_be_numbers(tmp_path: Path) -> None:
    bundle = make(tmp_path / "made", {"network_data_format": {"outputs": {"pred": {"channel_def": {"one": "liver"}}}}})
    with pytest.raises(TomosegError, match=r"metadata\.json: channel_def: expected integer label values"):
        _ = bundle.labels


def test_a_folder_without_configs_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(TomosegError, match="not a MONAI bundle: expected a folder 'configs'"):
        Bundle("x", tmp_path)
    with pytest.raises(TomosegError, match="no such bundle folder"):
        Bundle("x", tmp_path / "missing")


def test_the_label_table_has_colours_and_codes(tmp_path: Path) -> None:
    def table(entries: object) -> dict[int, Label]:
        tensor = {"channel_def": {"0": "background", "1": "Liver", "2": "Spleen"}}
        metadata = {"network_data_format": {"outputs": {"pred": tensor}}, "label_table": entries}
        (tmp_path / "configs").mkdir(exist_ok=True)
        (tmp_path / "configs" / "metadata.json").write_text(json.dumps(metadata))
        return Bundle("organs", tmp_path).label_table

    liver = {"value": "10200004", "scheme": "SCT", "meaning": "Liver"}
    found = table({"1": {"color": [221, 130, 101], "type": liver}})
    assert found[1] == Label(1, "Liver", (221, 130, 101), TISSUE, Code("10200004", "SCT", "Liver"))
    assert found[2] == Label(2, "Spleen", default_colour(2))
    assert table({"0": {"color": [1, 2, 3]}})[0].colour == (1, 2, 3)  # a score of its own where labels may overlap
    wrongs: list[object] = [
        {"1": {"color": [1, 2]}},
        {"1": {"color": [1, 2, 300]}},
        {"2": {"type": "Liver"}},
        {"1": "red"},
        [],
    ]
    for wrong in wrongs:
        with pytest.raises(TomosegError, match=r"metadata\.json: label_table: expected for each label a color"):
            table(wrong)


def test_no_two_labels_look_alike_by_default() -> None:
    colours = [default_colour(value) for value in range(1, 120)]
    assert len(set(colours)) == len(colours)


@pytest.mark.parametrize("folder", BUNDLES, ids=lambda path: path.name)
def test_the_codes_of_our_bundles_are_those_of_the_standard(folder: Path) -> None:
    from pydicom.sr.codedict import codes

    known = {getattr(codes.SCT, name).value for name in codes.SCT.dir()}
    for label in list(Bundle(folder.name, folder).label_table.values())[1:]:
        assert label.kind != TISSUE, label.name
        for code in filter(None, (label.category, label.kind, label.modifier)):
            assert code.scheme == "SCT"
            assert code.value in known
