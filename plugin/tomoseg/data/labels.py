"""What a label means: its name, its colour, and its code in a terminology that other systems know."""

import colorsys
import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from unicodedata import normalize

from tomoseg.core.errors import UsageError

LEFT, RIGHT = {"left", "lt", "lh", "l"}, {"right", "rt", "rh", "r"}
# the vertebra L5, or l5, is one
WORDS = re.compile(r"[A-Z]+[0-9]+|(?<![A-Za-z])[a-z][0-9]+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
JOINED = re.compile(r"([LR])(?=[A-Z][a-z])|(?<=[a-z])([LR])\b")  # LParotid, ParotidL
IGNORE = "ignore"  # nnU-Net's name of the label whose voxels count neither as foreground nor as background
NOT_IN_FILE_NAMES = re.compile(r"[^\w.-]+")
GOLDEN_RATIO = 0.618034  # steps of it round the circle of hues never come close to each other


@dataclass(frozen=True)
class Code:
    """A term of a coding scheme, e.g. Code("5366008", "SCT", "Hippocampus") of SNOMED CT."""

    value: str
    scheme: str
    meaning: str


# default kind of a segment: https://dicom.nema.org/medical/dicom/current/output/chtml/part16/sect_CID_7150.html
TISSUE = Code("85756007", "SCT", "Tissue")


@dataclass(frozen=True)
class Label:
    """One label of a bundle.

    Attributes:
        value: in a label map, at least 1.
        name: as the bundle calls it.
        colour: red, green and blue, 0 to 255.
        category, kind: DICOM's segmented property category and type.
        modifier: DICOM's modifier of the type, such as "Anterior".
        side: another, left or right (CID 244, https://dicom.nema.org/medical/dicom/current/output/chtml/part16/).
        roi_name: what radiotherapy calls it (AAPM TG-263), such as "Parotid_R".
        volume_ml: the smallest and the largest that is plausible.
    """

    value: int
    name: str
    colour: tuple[int, int, int]
    category: Code = TISSUE
    kind: Code = TISSUE
    modifier: Code | None = None
    side: Code | None = None
    roi_name: str | None = None
    volume_ml: tuple[float, float] | None = None

    @property
    def modifiers(self) -> tuple[Code, ...]:
        """The side, if there is one, and the modifier."""
        return tuple(code for code in (self.side, self.modifier) if code is not None)


def split_side(name: str) -> tuple[tuple[str, ...], set[str]]:
    """Return the words of a name in lower case without its side, and the sides that it names: "left", "right"."""
    spaced = JOINED.sub(lambda match: f" {match[0]} ", name)
    words = [word.lower() for word in WORDS.findall(spaced)]
    sides = {side for side, names in (("left", LEFT), ("right", RIGHT)) if names & set(words)}
    return tuple(word for word in words if word not in LEFT | RIGHT), sides


def same_name(name: str) -> str:
    """Return what two names have in common that mean one label: case, blanks, underscores and Unicode's form aside."""
    return " ".join(normalize("NFC", name.replace("_", " ").casefold()).split())


def require_distinct(names: Iterable[str]) -> None:
    """Raise UsageError where two of these names mean one label."""
    known: dict[str, str] = {}
    for name in names:
        if (same := same_name(name)) in known:
            both = f"{known[same]!r} and {name!r}"
            raise UsageError(f"labels: {both} are one name but for case and blanks. Rename one of them")
        known[same] = name


def select_labels(patterns: Iterable[str], table: Iterable[Label]) -> tuple[Label, ...]:
    """Return the labels of a table that are meant.

    Args:
        patterns: names, or patterns such as "parotid*", several in one text between commas; case, blanks and
            underscores make no difference. None for all labels.
        table: the labels to choose from.

    Raises:
        UsageError: a pattern means no label; the names are listed.

    Example:
        >>> from tomoseg.data.labels import select_labels, unnamed
        >>> [label.name for label in select_labels(["LABEL_?"], [unnamed(1), unnamed(12)])]
        ['label 1']
    """
    labels, chosen = tuple(table), set[str]()
    names = {same_name(label.name): label.name for label in labels}
    wanted = [part.strip() for pattern in patterns for part in pattern.split(",")]
    for pattern in wanted:
        found = fnmatch.filter(names, same_name(pattern))
        if not found:
            raise UsageError(f"labels: no label is called {pattern!r}. Choose from {', '.join(names.values())}")
        chosen.update(found)
    return tuple(label for label in labels if not wanted or same_name(label.name) in chosen)


def file_names(names: Mapping[int, str]) -> dict[int, str]:
    """Return a name for the file of each label, without suffix: that of the label, where a file can have it.

    Example:
        >>> from tomoseg.data.labels import file_names
        >>> file_names({1: "liver", 2: "left/right", 3: "Liver"})
        {1: 'liver', 2: 'left_right', 3: 'Liver_3'}
    """
    found: dict[int, str] = {}
    for value, name in names.items():
        plain = NOT_IN_FILE_NAMES.sub("_", name).strip(".") or "label"
        taken = {other.casefold() for other in found.values()}
        found[value] = f"{plain}_{value}" if plain.casefold() in taken else plain
    return found


def is_ignored(name: str | None) -> bool:
    """Return whether a label of this name is nnU-Net's ignore label."""
    return name is not None and name.lower() == IGNORE


def find_ignored(names: Mapping[int, str]) -> int | None:
    """Return the value of nnU-Net's ignore label, None where there is none."""
    return next((value for value, name in names.items() if is_ignored(name)), None)


def default_hue(value: int) -> float:
    """Return a hue, 0 to 1, that differs from that of other small values."""
    return value * GOLDEN_RATIO % 1


def default_colour(value: int) -> tuple[int, int, int]:
    """Return a colour, 0 to 255, that differs from that of other small values."""
    red, green, blue = colorsys.hsv_to_rgb(default_hue(value), 0.75, 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def unnamed(value: int) -> Label:
    """Return the label of a value without a name."""
    return Label(value, f"label {value}", default_colour(value))
