"""Labels that a planner recognises mean the same to other systems; those that it does not stay as they are."""

from __future__ import annotations

import colorsys
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.sr._concepts_dict import concepts

from support.dicom_results import read_back, read_labels
from support.dicoms import make_series
from support.trainings import tiny_bundle, write_dataset
from tomoseg import find_bundle
from tomoseg.data.dicom.rtstruct import write_rtstruct
from tomoseg.data.dicom.seg_writer import write_dicom_seg
from tomoseg.data.labels import default_colour
from tomoseg.planning.anatomy import CATEGORY, KNOWN_ORGANS, LATERALITY, LETTERS, recognise
from tomoseg.planning.fingerprint import LabelPrint
from tomoseg.planning.label_table import label_table

SIDES = {
    "right": ("{}_right", "{}_R", "right {}", "{}, Right", "R {}", "Rt_{}", "{}-rt", "{}_r", "{}R", "R{}"),
    "left": ("{}_left", "{}_L", "left {}", "{}, Left", "L {}", "Lt_{}", "{}-lt", "{}_l", "{}L", "L{}"),
}
PAIRED = ("Parotid", "Kidney", "Lung", "Eye", "Cochlea", "Submandibular")
HEAD_NECK = ("brainstem", "spinal_cord", "parotid_right", "parotid_left", "mandible")


def prints(*names: str) -> tuple[LabelPrint, ...]:
    return tuple(LabelPrint(value, name, 9, 9, 1.0) for value, name in enumerate(names, start=1))


def test_every_code_is_in_the_dictionary_of_pydicom() -> None:
    meanings: dict[str, set[str]] = {}
    snomed: Any = concepts["SCT"]
    for entries in snomed.values():
        for value, (meaning, _) in entries.items():
            meanings.setdefault(value, set()).add(meaning)
    assert len(KNOWN_ORGANS) > 80
    for code in {organ.code for organ in KNOWN_ORGANS.values()} | {CATEGORY, *LATERALITY.values()}:
        known = {meaning.lower() for meaning in meanings[code.value]}
        assert code.meaning.lower() in known, code


def test_no_two_organs_share_a_code_or_a_name() -> None:
    organs = set(KNOWN_ORGANS.values())
    assert len({organ.code.value for organ in organs}) == len({organ.tg263 for organ in organs}) == len(organs)
    assert all(len(f"{organ.tg263}_R") <= 16 for organ in organs), "TG-263 has 16 characters at most"


@pytest.mark.parametrize(("side", "form"), [(side, form) for side, forms in SIDES.items() for form in forms])
def test_the_side_is_known_however_it_is_put(side: str, form: str) -> None:
    found = recognise(form.format("Parotid"))
    assert found is not None
    assert (found.code.value, found.side, found.roi_name) == ("45289007", side, f"Parotid_{LETTERS[side]}")


@given(organ=st.sampled_from(sorted(set(KNOWN_ORGANS.values()), key=lambda organ: organ.tg263)), data=st.data())
def test_an_organ_is_known_by_its_name_in_radiotherapy(organ: object, data: st.DataObject) -> None:
    name, paired = organ.tg263, organ.paired  # type: ignore[attr-defined]
    side = data.draw(st.sampled_from([None, "left", "right"]))
    asked = name if side is None else f"{name}_{LETTERS[side]}"
    found = recognise(data.draw(st.sampled_from([asked, asked.lower(), asked.replace("_", " ")])))
    if side is not None and not paired:
        assert found is None
    else:
        assert found is not None
        assert found.code == organ.code  # type: ignore[attr-defined]
        assert found.roi_name == (asked if side or not paired else None)


@pytest.mark.parametrize(
    "name", ["anterior", "Left", "kidney tumour", "lung_upper_lobe_left", "heart left", "left right kidney", "label_1"]
)
def test_a_part_or_something_else_is_not_taken_for_an_organ(name: str) -> None:
    assert recognise(name) is None


def test_what_is_not_recognised_stays_as_it_was() -> None:
    assert label_table(prints("Anterior", "Posterior")) == {}
    table = label_table(prints("liver", "tumour"))
    assert set(table) == {"1"}
    assert "color" not in table["1"], "the default is distinct already"


def test_mirror_pairs_have_kindred_colours_and_all_are_distinct() -> None:
    names = [f"{organ}_{side}" for organ, side in product(PAIRED, ("right", "left"))]
    table = label_table(prints(*names, "nose", "mouth"))
    colours = {name: np.array(table[str(value)]["color"]) for value, name in enumerate([*names, "nose", "mouth"], 1)}
    for one, other in combinations(colours.values(), 2):
        assert np.abs(one - other).max() > 30
    hues = {name: colorsys.rgb_to_hsv(*colour / 255)[0] for name, colour in colours.items()}
    for organ in PAIRED:
        assert hues[f"{organ}_right"] == pytest.approx(hues[f"{organ}_left"], abs=0.02)
        assert colours[f"{organ}_right"].sum() > colours[f"{organ}_left"].sum()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("anatomy")
    names = {"Parotid_R": 1, "Parotid_L": 2}
    return tiny_bundle(write_dataset(folder / "data", names=names, modality="CT"), folder / "bundle")


def test_a_planned_bundle_carries_them_into_both_dicom_forms(bundle: Path, tmp_path: Path) -> None:
    table = find_bundle(bundle).label_table
    table.pop(0)
    assert [label.name for label in table.values()] == ["Parotid_R", "Parotid_L"]
    series, grid = make_series(tmp_path / "scan", (13, 11, 5))
    labels = np.random.default_rng(0).choice(np.array([0, 1, 2], np.uint8), (13, 11, 5))
    write_rtstruct(tmp_path / "rt.dcm", labels, grid, series, list(table.values()), "bundle", "1")
    structures = dcmread(tmp_path / "rt.dcm")
    np.testing.assert_array_equal(read_back(structures, series), labels)
    assert [roi.ROIName for roi in structures.StructureSetROISequence] == ["Parotid_R", "Parotid_L"]
    for seen, side in zip(structures.RTROIObservationsSequence, ("24028007", "7771000"), strict=True):
        (code,) = seen.RTROIIdentificationCodeSequence
        assert (code.CodeValue, code.CodingSchemeDesignator) == ("45289007", "SCT")
        assert code.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == side
        assert seen.RTROIInterpretedType == "ORGAN"
    colours = [tuple(roi.ROIDisplayColor) for roi in structures.ROIContourSequence]
    assert colours == [label.colour for label in table.values()] != [default_colour(1), default_colour(2)]
    write_dicom_seg(tmp_path / "seg.dcm", labels, series, list(table.values()), "bundle", "1")
    segmentation = dcmread(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(read_labels(segmentation, series), labels)
    for segment, (name, side) in zip(
        segmentation.SegmentSequence, [("Parotid_R", "24028007"), ("Parotid_L", "7771000")], strict=True
    ):
        (kind,) = segment.SegmentedPropertyTypeCodeSequence
        assert (segment.SegmentLabel, kind.CodeValue) == (name, "45289007")
        assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == side


def test_the_head_and_neck_data_need_nothing_by_hand() -> None:
    found = [recognise(name) for name in HEAD_NECK]
    assert [one and one.roi_name for one in found] == [
        "Brainstem", "SpinalCord", "Parotid_R", "Parotid_L", "Bone_Mandible",
    ]  # fmt: skip
