"""Organs by the names that datasets give them: their SNOMED CT codes, and what radiotherapy calls them.

Names for radiotherapy are those of Mayo et al., Report of AAPM Task Group 263 (2018), https://www.aapm.org/pubs/reports/
RPT_263.pdf; codes are those of DICOM PS3.16.
"""

import csv
from dataclasses import dataclass
from importlib.resources import files

from tomoseg.data.labels import Code, split_side

SNOMED = "SCT"
CATEGORY = Code("91723000", SNOMED, "Anatomical Structure")
LATERALITY = {"left": Code("7771000", SNOMED, "Left"), "right": Code("24028007", SNOMED, "Right")}
LETTERS = {"left": "L", "right": "R"}  # TG-263's
# of a name, that tell nothing which the rest does not
FILLER_WORDS = {"gland", "glnd", "bone", "of", "the", "organ", "structure", "whole"}

# name in TG-263; whether it ends in _L or _R; code and meaning in SNOMED CT; other names
ORGANS = "organs.csv"


@dataclass(frozen=True)
class Anatomy:
    """What a label is in a body.

    Attributes:
        code: in SNOMED CT.
        side: "left", "right", or None where the name says neither.
        roi_name: what radiotherapy calls it; None for one of a pair whose side is not said.
    """

    code: Code
    side: str | None
    roi_name: str | None


def recognise(name: str) -> Anatomy | None:
    """Return what a name stands for, however words and sides are put: "Parotid_R", "right parotid gland", "RtParotid".

    Only whole names are recognised: a part of an organ, or a tumour in it, is none.
    """
    words, sides = split_side(name)
    organ = KNOWN_ORGANS.get(_key(words))
    if organ is None or len(sides) > 1 or (sides and not organ.paired):
        return None
    side = next(iter(sides), None)
    roi_name = organ.tg263 if not organ.paired else f"{organ.tg263}_{LETTERS[side]}" if side else None
    return Anatomy(organ.code, side, roi_name)


@dataclass(frozen=True)
class _Organ:
    tg263: str
    paired: bool
    code: Code


def _key(words: tuple[str, ...]) -> str:
    """Return the telling words of a name, in no order."""
    return " ".join(sorted(set(words) - FILLER_WORDS))


def _read_organs() -> dict[str, _Organ]:
    known: dict[str, _Organ] = {}
    rows = files(__package__).joinpath(ORGANS).read_text(encoding="utf-8").splitlines()[1:]
    for tg263, paired, value, meaning, others in csv.reader(rows):
        organ = _Organ(tg263, paired == "yes", Code(value, SNOMED, meaning))
        for name in (tg263, tg263.replace("_", " ").lower(), meaning.lower(), *filter(None, others.split(";"))):
            known[_key(split_side(name)[0])] = organ
    return known


KNOWN_ORGANS = _read_organs()
