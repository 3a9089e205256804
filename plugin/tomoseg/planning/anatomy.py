"""Organs by the names that datasets give them: their SNOMED CT codes, and what radiotherapy calls them.

Names for radiotherapy are those of Mayo et al., Report of AAPM Task Group 263 (2018), https://www.aapm.org/pubs/reports/
RPT_263.pdf; codes are those of DICOM PS3.16. Codes that DICOM's tables lack (ribs, muscles, S1, portal and splenic vein
together) are those of TotalSegmentator's table of SNOMED CT codes, https://github.com/wasserth/TotalSegmentator, and of
HL7's map of TG-263 to SNOMED CT, https://github.com/HL7/fhir-mCODE-ig. What TG-263 does not list, such as the sternum,
has no name for radiotherapy.
"""

from dataclasses import dataclass

from tomoseg.core.tables import read_rows
from tomoseg.data.labels import Code, split_side

SNOMED = "SCT"
CATEGORIES = {
    "": Code("91723000", SNOMED, "Anatomical Structure"),
    "abnormal": Code("49755003", SNOMED, "Morphologically Abnormal Structure"),
}
LATERALITY = {"left": Code("7771000", SNOMED, "Left"), "right": Code("24028007", SNOMED, "Right")}
LETTERS = {"left": "L", "right": "R"}  # TG-263's
SIDES: dict[str, tuple[str | None, ...]] = {
    "none": (None,),
    "both": (None, "left", "right"),
    "left": ("left",),
    "right": ("right",),
}
# of a name, without meaning of their own
FILLER_WORDS = {"gland", "glnd", "bone", "of", "the", "organ", "structure", "whole"}

# name in TG-263; "both" where _L or _R follows it, else the only side that there is, or "none"; code and meaning in
# SNOMED CT; other names; category
ORGANS = "organs.csv"


@dataclass(frozen=True)
class Anatomy:
    """What a label is in a body.

    Attributes:
        code: in SNOMED CT.
        side: "left", "right", or None where the name says neither, or the code says it ("Left auricular appendage").
        roi_name: what radiotherapy calls it; None for one of a pair whose side is not said, and where TG-263 has none.
        category: DICOM's category of the code.
    """

    code: Code
    side: str | None
    roi_name: str | None
    category: Code = CATEGORIES[""]


def recognise(name: str) -> Anatomy | None:
    """Return what a name stands for, however words and sides are put: "Parotid_R", "right parotid gland", "RtParotid".

    Only whole names are recognised: a part of an organ, or a tumour in it, is none, but for those in the table.
    """
    words, sides = split_side(name)
    return KNOWN_ORGANS.get((_key(words), *sides))


def _key(words: tuple[str, ...]) -> str:
    """Return the words of a name that carry meaning, sorted."""
    return " ".join(sorted(set(words) - FILLER_WORDS))


def _read_organs() -> dict[tuple[str, ...], Anatomy]:
    """Return the known structures by words and side; of two with one name, such as A_Carotid, the first."""
    known: dict[tuple[str, ...], Anatomy] = {}
    for row in read_rows(__package__, ORGANS):
        tg263, sides, value, meaning, others, category = row.values()
        code = Code(value, SNOMED, meaning)
        names = filter(None, (tg263, tg263.replace("_", " ").lower(), meaning.lower(), *others.split(";")))
        keys = [_key(split_side(name)[0]) for name in names]
        for side in SIDES[sides]:
            suffix = f"_{LETTERS[side]}" if side and sides == "both" else ""
            is_unsaid = not tg263 or (sides == "both" and side is None)
            roi_name = None if is_unsaid else f"{tg263}{suffix}"
            anatomy = Anatomy(code, None if split_side(meaning)[1] else side, roi_name, CATEGORIES[category])
            for key in keys:
                known.setdefault((key, side) if side else (key,), anatomy)
            if sides in LETTERS and tg263:  # Lung_LUL names its side in a word of its own
                known.setdefault((keys[0],), anatomy)
    return known


KNOWN_ORGANS = _read_organs()
