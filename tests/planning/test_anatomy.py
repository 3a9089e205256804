"""Labels that a planner recognises mean the same to other systems; the others stay unchanged."""

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

from support.dicom_results import label_map, read_back, read_labels
from support.dicoms import make_series
from support.trainings import tiny_bundle, write_dataset
from tomoseg import find_bundle
from tomoseg.data.dicom.rtstruct import write_rtstruct
from tomoseg.data.dicom.seg_writer import write_dicom_seg
from tomoseg.data.labels import Code, default_colour
from tomoseg.planning.anatomy import CATEGORIES, KNOWN_ORGANS, LATERALITY, LETTERS, Anatomy, recognise
from tomoseg.planning.fingerprint import LabelPrint
from tomoseg.planning.label_table import label_table

SIDES = {
    "right": ("{}_right", "{}_R", "right {}", "{}, Right", "R {}", "Rt_{}", "{}-rt", "{}_r", "{}R", "R{}"),
    "left": ("{}_left", "{}_L", "left {}", "{}, Left", "L {}", "Lt_{}", "{}-lt", "{}_l", "{}L", "L{}"),
}
PAIRED = ("Parotid", "Kidney", "Lung", "Eye", "Cochlea", "Submandibular")
HEAD_NECK = ("brainstem", "spinal_cord", "parotid_right", "parotid_left", "mandible")
# not in pydicom's tables: ribs, S1, muscles, portal and splenic vein together
BEYOND_DICOM = {
    "48535007", "78247007", "25888004", "25523003", "15339008", "59558009", "24915002", "5953002", "22565002",
    "77644006", "58830002", "43993008", "65985001", "181674001", "78333006", "75297007", "68455001", "244849004",
    "110765007",
}  # fmt: skip
# the 117 classes of TotalSegmentator's task `total` and their names in TG-263, "" where it has none; {} is a side
TOTAL = {
    "spleen": "Spleen", "gallbladder": "Gallbladder", "liver": "Liver", "stomach": "Stomach", "pancreas": "Pancreas",
    "esophagus": "Esophagus", "trachea": "Trachea", "thyroid_gland": "Glnd_Thyroid", "small_bowel": "Bowel_Small",
    "duodenum": "Duodenum", "colon": "Colon", "urinary_bladder": "Bladder", "prostate": "Prostate", "sacrum": "Sacrum",
    "heart": "Heart", "aorta": "A_Aorta", "pulmonary_vein": "V_Pulmonary", "brachiocephalic_trunk": "A_Brachiocephls",
    "superior_vena_cava": "V_Venacava_S", "inferior_vena_cava": "V_Venacava_I", "portal_vein_and_splenic_vein": "",
    "spinal_cord": "SpinalCord", "brain": "Brain", "skull": "Skull", "sternum": "", "costal_cartilages": "",
    "lung_upper_lobe_left": "Lung_LUL", "lung_lower_lobe_left": "Lung_LLL", "lung_upper_lobe_right": "Lung_RUL",
    "lung_middle_lobe_right": "Lung_RML", "lung_lower_lobe_right": "Lung_RLL", "atrial_appendage_left": "",
    **{f"vertebrae_{level}": f"VB_{level}" for level in ("S1", *(f"C{n}" for n in range(1, 8)))},
    **{f"vertebrae_L{n}": f"VB_L{n}" for n in range(1, 6)},
    **{f"vertebrae_T{n}": f"VB_T{n:02}" for n in range(1, 13)},
}  # fmt: skip
TOTAL_PAIRS = {
    "kidney_{}": "Kidney", "adrenal_gland_{}": "Glnd_Adrenal", "kidney_cyst_{}": "",
    "subclavian_artery_{}": "A_Subclavian", "common_carotid_artery_{}": "A_Carotid",
    "brachiocephalic_vein_{}": "V_Brachioceph", "iliac_artery_{}": "A_Iliac",
    "iliac_vena_{}": "V_Iliac", "humerus_{}": "Humerus", "scapula_{}": "Scapula", "clavicula_{}": "Clavicle",
    "femur_{}": "Femur", "hip_{}": "", "gluteus_maximus_{}": "", "gluteus_medius_{}": "", "gluteus_minimus_{}": "",
    "autochthon_{}": "", "iliopsoas_{}": "", **{f"rib_{{}}_{n}": f"Rib{n:02}" for n in range(1, 13)},
}  # fmt: skip


def prints(*names: str) -> tuple[LabelPrint, ...]:
    return tuple(LabelPrint(value, name, 9, 9, 1.0) for value, name in enumerate(names, start=1))


def test_every_code_is_in_the_dictionary_of_pydicom() -> None:
    meanings: dict[str, set[str]] = {}
    snomed: Any = concepts["SCT"]
    for entries in snomed.values():
        for value, (meaning, _) in entries.items():
            meanings.setdefault(value, set()).add(meaning)
    codes = {organ.code for organ in KNOWN_ORGANS.values()}
    assert len(codes) > 110
    assert {code.value for code in codes} - set(meanings) == BEYOND_DICOM, "each has another source"
    for code in {*codes, *CATEGORIES.values(), *LATERALITY.values()}:
        known = {meaning.lower() for meaning in meanings.get(code.value, {code.meaning})}
        assert code.meaning.lower() in known, code
        assert has_check_digit(code.value), code


def has_check_digit(value: str) -> bool:
    """Return whether a code of SNOMED CT ends in its check digit (Verhoeff's, in the dihedral group of order 10)."""
    product_, digits = 0, [int(digit) for digit in reversed(value)]
    for place, digit in enumerate(digits):
        for _ in range(place % 8):
            digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
        turn, mirrored = product_ % 5, product_ >= 5
        product_ = (turn - digit if mirrored else turn + digit) % 5 + 5 * (mirrored != (digit >= 5))
    return product_ == 0


def test_no_two_structures_share_a_code_and_a_side() -> None:
    found = set(KNOWN_ORGANS.values())
    assert len({(organ.code.value, organ.side) for organ in found}) == len(found)
    assert all(len(organ.roi_name or "") <= 16 for organ in found), "TG-263 has 16 characters at most"


def test_all_classes_of_totalsegmentator_are_known() -> None:
    expected = {
        name: (roi_name or None, next((side for side in SIDES if side in name), None))
        for name, roi_name in TOTAL.items()
    }
    for (form, roi_name), side in product(TOTAL_PAIRS.items(), SIDES):
        expected[form.format(side)] = (f"{roi_name}_{LETTERS[side]}" if roi_name else None, side)
    assert len(expected) == 117
    found = {name: recognise(name) for name in expected}
    assert [name for name, one in found.items() if one is None] == []
    anatomies = {name: one for name, one in found.items() if one is not None}
    assert {name: one.roi_name for name, one in anatomies.items()} == {name: roi for name, (roi, _) in expected.items()}
    for name, one in anatomies.items():
        said = next((side for side in SIDES if side in one.code.meaning.lower()), None)
        assert (one.side or said) == expected[name][1], "by the code, or beside it"
        assert one.side is None or said is None, "never twice"
        assert recognise(name.lower()) == one
    assert len({(one.code, one.side) for one in anatomies.values()}) == 117
    assert {name for name, one in anatomies.items() if one.category != CATEGORIES[""]} == {
        "kidney_cyst_left",
        "kidney_cyst_right",
    }


def test_a_subclavian_artery_is_not_always_the_right_one() -> None:
    """29700009, which TotalSegmentator's table gives to both, is the right one's."""
    left = recognise("subclavian_artery_left")
    assert left == Anatomy(Code("36765005", "SCT", "Subclavian artery"), "left", "A_Subclavian_L")


@pytest.mark.parametrize(("side", "form"), [(side, form) for side, forms in SIDES.items() for form in forms])
def test_the_side_is_known_however_it_is_put(side: str, form: str) -> None:
    found = recognise(form.format("Parotid"))
    assert found is not None
    assert (found.code.value, found.side, found.roi_name) == ("45289007", side, f"Parotid_{LETTERS[side]}")


@given(data=st.data(), name=st.sampled_from(sorted({one.roi_name for one in KNOWN_ORGANS.values() if one.roi_name})))
def test_an_organ_is_known_by_its_name_in_radiotherapy(name: str, data: st.DataObject) -> None:
    found = recognise(data.draw(st.sampled_from([name, name.lower(), name.replace("_", " ")])))
    assert found is not None
    assert found.roi_name == name
    if found.side is not None and name[-2:] in ("_L", "_R"):
        unsaid = recognise(name[:-2])
        assert unsaid is not None
        assert (unsaid.code, unsaid.side, unsaid.roi_name) == (found.code, None, None)
    elif found.side is None and not name.startswith("Lung"):
        assert recognise(f"{name}_L") is None, "there is one only"


@pytest.mark.parametrize(
    "name",
    [
        "anterior",
        "Left",
        "kidney tumour",
        "kidney_upper_pole_left",
        "left middle lobe",
        "heart left",
        "left right kidney",
        "label_1",
    ],
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
    write_rtstruct(tmp_path / "rt.dcm", label_map(labels, series, list(table.values()), "bundle", "1", grid))
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
    write_dicom_seg(tmp_path / "seg.dcm", label_map(labels, series, list(table.values()), "bundle", "1"))
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
