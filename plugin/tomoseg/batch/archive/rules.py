"""Rules that say which bundle segments which series of an archive."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tomoseg.core.errors import UsageError, errors_as
from tomoseg.core.files import read_text
from tomoseg.core.json_records import from_json
from tomoseg.data.output_types import combine

MAX_RULES_LENGTH = 1 << 20  # characters
MODALITIES = ("CT", "MR")  # what tomoseg reads; so no result of its own, nor of others, is ever segmented
MAX_IMAGES = 10_000


@dataclass(frozen=True)
class FoundSeries:
    """A series as an archive describes it.

    Attributes:
        study, uid: of the study and of the series.
        images: number of its instances.
        modality, body_part, description, station: as in the archive; empty where it does not say.
    """

    study: str
    uid: str
    images: int
    modality: str = ""
    body_part: str = ""
    description: str = ""
    station: str = ""


@dataclass(frozen=True)
class Rule:
    """Which series one bundle segments; the patterns are as in a shell, in letters of any case.

    Attributes:
        bundle: a registered name, its beginning, or a folder written as ./name.
        modality: "CT" or "MR".
        body_part, description, station: patterns of BodyPartExamined, SeriesDescription and StationName.
        images: the smallest and the largest number of images.
        output_types: of the results; those of DICOM.
    """

    bundle: str
    modality: str
    body_part: str = "*"
    description: str = "*"
    station: str = "*"
    images: tuple[int, int] = (2, MAX_IMAGES)
    output_types: tuple[str, ...] = ("dicom-sr",)

    def __post_init__(self) -> None:
        combine(self.output_types)
        if self.modality not in MODALITIES:
            raise UsageError(f"modality: expected {' or '.join(MODALITIES)}, got {self.modality!r}")

    def fits(self, series: FoundSeries) -> bool:
        """Return whether the bundle segments a series."""
        if series.modality != self.modality or not self.images[0] <= series.images <= self.images[1]:
            return False
        texts = ("body_part", "description", "station")
        return all(fnmatchcase(getattr(series, name).lower(), getattr(self, name).lower()) for name in texts)


def choose_rule(rules: Sequence[Rule], series: FoundSeries) -> Rule | None:
    """Return the first rule that fits a series, if there is one."""
    return next((rule for rule in rules if rule.fits(series)), None)


def read_rules(path: Path) -> list[Rule]:
    """Read a YAML file: a list of rules, each with the fields of `Rule`.

    Raises:
        UsageError: it cannot be read, or is no such list.
    """
    import yaml  # type: ignore[import-untyped]

    remedy = ". See the administrator's page of the documentation"
    foreign = (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError)
    with errors_as(UsageError, f"{path}: cannot be read as a list of rules", *foreign, remedy=remedy):
        text = read_text(path, "utf-8-sig")
        if len(text) > MAX_RULES_LENGTH:
            raise OSError(f"expected at most {MAX_RULES_LENGTH} characters")
        content = yaml.safe_load(text)
    if not isinstance(content, list) or not content:
        raise UsageError(f"{path}: expected a list of rules, got {type(content).__name__}{remedy}")
    rules = []
    for number, entry in enumerate(content, 1):
        with errors_as(UsageError, f"{path}: rule {number}", UsageError, ValueError, remedy=remedy):
            rules.append(from_json(Rule, entry))
    return rules
