"""What a bundle that was trained on crops says of where they come from, read from its metadata."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tomoseg.bundle.metadata import WRONG_TYPES, Bundle, read_label
from tomoseg.core.errors import BundleError, errors_as
from tomoseg.core.json_records import from_json
from tomoseg.data.geometry import Grid
from tomoseg.data.labels import Label, unnamed

Corner = tuple[float, float, float]  # mm along (x, y, z)


@dataclass(frozen=True)
class Region:
    """A box of the template that a bundle segments one structure in.

    Attributes:
        name: as reports call it.
        box_mm: first and last corner, RAS+ mm of the template.
        mirrored: whether the network wants it mirrored, left for right.
        labels: values in the merged label map by those of the bundle.
        volume_ml: lowest and highest plausible volume of all its labels together.
    """

    name: str
    box_mm: tuple[Corner, Corner]
    mirrored: bool
    labels: dict[int, int]
    volume_ml: tuple[float, float]

    def __post_init__(self) -> None:
        low, high = self.volume_ml
        if not all(a < b for a, b in zip(*self.box_mm, strict=True)) or not 0 <= low < high:
            raise ValueError(f"region {self.name!r}: box_mm {self.box_mm}, volume_ml {self.volume_ml}")


@dataclass(frozen=True)
class Localisation:
    """How a whole scan is brought to the crops that a bundle was trained on.

    Attributes:
        template: its name, e.g. "MNI152".
        crop_mm: a scan that is nowhere longer is such a crop already.
        spacing_mm: of the crops' voxels, along (x, y, z) of the template.
        margin_mm: from the structure to the crop's border, along (x, y, z).
        least_score: of a registration that is to be trusted.
        largest_spacing_mm: along any axis of a scan in which the structures are found in full.
        regions: one or more.
        asymmetry: the names of the left and of the right region; None where nothing is to be compared.
        label_table: what the labels of the merged label map mean.
    """

    template: str
    crop_mm: float
    spacing_mm: Corner
    margin_mm: Corner
    least_score: float
    largest_spacing_mm: float
    regions: tuple[Region, ...]
    asymmetry: tuple[str, str] | None = None
    label_table: tuple[Label, ...] = ()

    def is_crop(self, grid: Grid) -> bool:
        """Return whether a scan is a crop already, by its extent along its own axes."""
        return all(size * spacing <= self.crop_mm for size, spacing in zip(grid.shape, grid.spacing, strict=True))


def read_localisation(bundle: Bundle) -> Localisation | None:
    """Return what the "localisation" of a bundle's metadata declares; None if there is none.

    Raises:
        BundleError: it is not as `Localisation` wants it.
    """
    declared = bundle.metadata.get("localisation")
    if declared is None:
        return None
    expected = (
        f"{bundle.metadata_file}: localisation: expected template, crop_mm, spacing_mm, margin_mm, least_score, "
        "largest_spacing_mm, regions (name, box_mm, mirrored, labels, volume_ml) and labels (name, of, laterality)"
    )
    with errors_as(BundleError, expected, *WRONG_TYPES):
        return _read(declared, bundle.label_table)


def _read(declared: dict[str, Any], own: Mapping[int, Label]) -> Localisation:
    found: Localisation = from_json(Localisation, {key: entry for key, entry in declared.items() if key != "labels"})
    table = {int(value): _label(int(value), entry, own) for value, entry in declared["labels"].items()}
    used = [value for region in found.regions for value in region.labels.values()]
    if not used or len(set(used)) < len(used) or set(used) != set(table) or 0 in table:
        raise ValueError(f"regions use the labels {sorted(used)}, declared are {sorted(table)}")
    if found.asymmetry and not {*found.asymmetry} <= {region.name for region in found.regions}:
        raise ValueError(f"no regions {' and '.join(map(repr, found.asymmetry))}")
    return replace(found, label_table=tuple(table[value] for value in sorted(table)))


def _label(value: int, entry: Mapping[str, Any], own: Mapping[int, Label]) -> Label:
    """Return a label that is as one of the bundle's besides name, colour and side."""
    base = own.get(int(entry["of"]), unnamed(value))  # the metadata may say less than the network
    label = read_label(value, str(entry["name"]), dict(entry))
    return replace(base, value=value, name=label.name, colour=label.colour, side=label.side)
