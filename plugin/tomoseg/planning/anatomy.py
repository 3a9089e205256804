"""Organs by the names that datasets give them: their SNOMED CT codes, and what radiotherapy calls them.

Names for radiotherapy are those of Mayo et al., Report of AAPM Task Group 263 (2018), https://www.aapm.org/pubs/reports/
RPT_263.pdf; codes are those of DICOM PS3.16.
"""

from __future__ import annotations

from dataclasses import dataclass

from tomoseg.data.labels import Code, split_side

SNOMED = "SCT"
CATEGORY = Code("91723000", SNOMED, "Anatomical Structure")
LATERALITY = {"left": Code("7771000", SNOMED, "Left"), "right": Code("24028007", SNOMED, "Right")}
LETTERS = {"left": "L", "right": "R"}  # TG-263's
# of a name, that tell nothing which the rest does not
FILLER_WORDS = {"gland", "glnd", "bone", "of", "the", "organ", "structure", "whole"}

# TG-263 name; "paired" where it ends in _L or _R; code and meaning in SNOMED CT; other names
ORGANS = """
Brain | | 12738006 Brain |
Brainstem | | 119238007 Brain Stem | brain stem
SpinalCord | | 2748008 Spinal cord | cord, myelon, medulla spinalis
SpinalCanal | | 61853006 Spinal canal structure (body structure) |
Cerebellum | | 113305005 Cerebellum |
Hippocampus | paired | 5366008 Hippocampus |
Lobe_Temporal | paired | 78277001 Temporal lobe |
Pituitary | | 56329008 Pituitary | hypophysis
OpticChiasm | | 244453006 Optic chiasm | chiasm, chiasma, chiasma opticum
OpticNrv | paired | 18234004 optic nerve | opt nerve, nervus opticus
Eye | paired | 81745001 Eye | eyeball, globe
Lens | paired | 78076003 Lens | eye lens
Retina | paired | 5665001 Retina |
Parotid | paired | 45289007 Parotid gland | parotis
Glnd_Submand | paired | 54019009 Submandibular gland | submandibular, submandibularis, smg
Glnd_Thyroid | | 69748006 Thyroid | thyroid
Larynx | | 4596009 Larynx |
Glottis | | 1307006 glottis |
Pharynx | | 54066008 Pharynx |
Cavity_Oral | | 74262004 oral cavity | oral cavity, mouth
Bone_Mandible | | 91609006 Mandible | lower jaw
Joint_TM | paired | 53620006 Temporomandibular joint | tmj
BrachialPlex | paired | 36582005 Brachial plexus |
A_Carotid | paired | 69105007 Carotid Artery | carotid
Esophagus | | 32849002 Esophagus | oesophagus
Trachea | | 44567001 Trachea |
Lung | paired | 39607008 Lung |
Heart | | 80891009 Heart |
A_Aorta | | 15825003 Aorta |
V_Venacava_I | | 64131007 Inferior vena cava | ivc, postcava
Liver | | 10200004 Liver |
Gallbladder | | 28231008 Gallbladder | gall bladder
Stomach | | 69695003 Stomach |
Duodenum | | 38848004 Duodenum |
Bowel_Small | | 30315005 Small intestine | small bowel, small intestine
Colon | | 71854001 Colon |
Colon_Sigmoid | | 60184004 Sigmoid colon |
Pancreas | | 15776009 Pancreas |
Spleen | | 78961009 Spleen |
Kidney | paired | 64033007 Kidney |
Glnd_Adrenal | paired | 23451007 Adrenal gland | suprarenal
Bladder | | 89837001 Bladder | urinary bladder
Prostate | | 41216001 Prostate |
Rectum | | 34402009 Rectum |
Femur | paired | 71341001 Femur |
Femur_Head | paired | 2812003 Head of Femur | femoral head
Humerus | paired | 85050009 Humerus |
Clavicle | paired | 51299004 Clavicle | clavicula
"""


@dataclass(frozen=True)
class Anatomy:
    """What a label is in a body.

    Args:
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
    for line in ORGANS.strip().splitlines():
        tg263, paired, coded, others = (cell.strip() for cell in line.split("|"))
        value, _, meaning = coded.partition(" ")
        organ = _Organ(tg263, bool(paired), Code(value, SNOMED, meaning))
        for name in (tg263, tg263.replace("_", " ").lower(), meaning.lower(), *filter(None, others.split(","))):
            known[_key(split_side(name)[0])] = organ
    return known


KNOWN_ORGANS = _read_organs()
