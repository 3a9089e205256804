"""Where the structures of a bundle are in a whole scan, and the crops round them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.options import WHOLE
from tomoseg.core.errors import UsageError
from tomoseg.data.geometry import Grid
from tomoseg.data.volume import Volume
from tomoseg.inference.localisation.crop import Crop, cut_out, head_frame
from tomoseg.inference.localisation.declaration import Localisation, Region, read_localisation
from tomoseg.inference.localisation.raster import Matrix
from tomoseg.inference.localisation.registration import Registration, register
from tomoseg.inference.localisation.template import Template, load_template

Corners = tuple[NDArray[np.float64], NDArray[np.float64]]  # first and last corner, RAS+ mm
FindHead = Callable[[Template, NDArray[np.float32], Grid], Registration]  # as `register` does
BOX_MARGIN_MM = 12.0  # round a box, for a structure that lies beside where the template has it


@dataclass(frozen=True, eq=False)
class RegionCrop:
    """One structure's part of a scan.

    Attributes:
        region: what the bundle declares of it.
        surroundings: the box with a margin.
        box: first and one past the last voxel (I, J, K) of the box in `surroundings`.
    """

    region: Region
    surroundings: Crop
    box: tuple[NDArray[np.int64], NDArray[np.int64]]

    @property
    def crop(self) -> Crop:
        """The box alone."""
        return self.surroundings.cut(*self.box)

    @property
    def centre_mm(self) -> tuple[float, float, float]:
        """The centre of the box, RAS+ mm of the scan."""
        crop = self.crop
        middle = crop.volume.grid.affine @ (*((np.array(crop.volume.grid.shape) - 1) / 2), 1)
        x, y, z, _ = np.linalg.solve(crop.frame, middle).tolist()
        return x, y, z

    def around(self, first: NDArray[np.int64], stop: NDArray[np.int64], margin_mm: Sequence[float]) -> RegionCrop:
        """Return the box that lies round a structure, which was found at `[first, stop)` of the crop."""
        spacing = np.array(self.surroundings.volume.grid.spacing)
        margin = np.round(np.array(margin_mm) / spacing).astype(int)
        shape = np.array(self.surroundings.volume.array.shape)
        low, high = self.box[0] + first - margin, self.box[0] + stop + margin
        return replace(self, box=(np.maximum(low, 0), np.minimum(high, shape)))


@dataclass(frozen=True, eq=False)
class LocatedRegions:
    """The structures of a bundle in a scan.

    Attributes:
        places: of each of them.
        localisation: what the bundle declares of them.
        similarity, seen: as `Registration` has them; None for places that were given by hand.
        icv_ml: intracranial volume, None as for the similarity.
    """

    places: tuple[RegionCrop, ...]
    localisation: Localisation
    similarity: float | None = None
    seen: float | None = None
    icv_ml: float | None = None


class Locator:
    """Brings whole scans to the crops that a bundle was trained on.

    Args:
        bundle: what declares how.
        rois: places given by hand, as for `parse_rois`; without any they are looked for.
        find_head: finds the template in a scan.

    Raises:
        BundleError: the declaration is no such thing.
        UsageError: the places are no such things, or there is no such template; or the bundle takes several channels.
        MissingPackageError: the template is not installed.
    """

    def __init__(self, bundle: Bundle, rois: Sequence[str] = (), find_head: FindHead = register) -> None:
        self._find_head = find_head
        self.localisation: Localisation | None = read_localisation(bundle)
        if (rois or self.localisation) and bundle.input_channels > 1:
            raise UsageError(f"bundle {bundle.name}: crops are taken of scans of one channel, and it takes several")
        self._boxes = parse_rois(rois, self.localisation, bundle.name) if rois else {}

    def locate(self, scan: Volume) -> LocatedRegions | None:
        """Return where the structures are; None for a scan that is a crop already.

        Raises:
            UsageError, MissingPackageError: the template does not exist, or is not installed.
        """
        declared = self.localisation
        if declared is None or self._boxes is None:
            return None
        if not np.isfinite(scan.array).all():  # the bundle's own preprocessing is to replace them, but comes later
            scan = replace(scan, array=np.nan_to_num(scan.array, posinf=0.0, neginf=0.0))
        if self._boxes:
            given = ((region, self._boxes[region.name]) for region in declared.regions if region.name in self._boxes)
            # the head is taken to be as straight as the scan's mm say
            return LocatedRegions(
                tuple(_place(scan, declared, region, np.eye(4), box) for region, box in given), declared
            )
        if declared.is_crop(scan.grid):
            return None
        template = load_template(declared.template)
        found = self._find_head(template, scan.array, scan.grid)
        boxes = ((region, (np.array(region.box_mm[0]), np.array(region.box_mm[1]))) for region in declared.regions)
        places = tuple(_place(scan, declared, region, found.matrix, box) for region, box in boxes)
        scaling = abs(float(np.linalg.det(found.matrix[:3, :3])))
        return LocatedRegions(places, declared, found.similarity, found.seen, template.brain_ml * scaling)


def _place(scan: Volume, declared: Localisation, region: Region, matrix: Matrix, box: Corners) -> RegionCrop:
    """Return the box of a region.

    Args:
        scan: the whole.
        declared: the declaration of the bundle.
        region: one region of it.
        matrix: 4×4, mm of the box to those of the scan.
        box: its first and last corner in mm.
    """
    first, last = box
    stretch = np.abs(np.diag((head_frame(matrix, mirrored=False) @ matrix)[:3, :3]))
    frame = head_frame(matrix, region.mirrored)
    spacing = np.array(declared.spacing_mm)
    middle = (frame @ (*(matrix @ (*((first + last) / 2), 1))[:3], 1))[:3]
    room = np.round(BOX_MARGIN_MM / spacing)
    voxels = np.round(stretch * (last - first) / spacing)
    half = (voxels / 2 + room) * spacing
    crop = cut_out(scan, frame, middle - half, middle + half, spacing)
    low = room.astype(int)
    return RegionCrop(region, crop, (low, low + voxels.astype(int)))


def parse_rois(texts: Sequence[str], localisation: Localisation | None, bundle: str) -> dict[str, Corners] | None:
    """Return the box of each region that was given by hand, by its name; None for the whole scan.

    Args:
        texts: "whole", or for each region "NAME=X,Y,Z" with the centre of its box, or "NAME=X,Y,Z,X,Y,Z" with two
            corners; RAS+ mm of the scan. The beginning of a name is enough.
        localisation: what the bundle declares.
        bundle: its name.

    Raises:
        UsageError: they are nothing of the kind, or the bundle declares no regions.
    """
    if list(texts) == [WHOLE]:
        return None
    if localisation is None:
        raise UsageError(f"roi: bundle {bundle} declares no regions that could be placed; crop the scan first")
    names = [region.name for region in localisation.regions]
    sizes = {region.name: np.subtract(region.box_mm[1], region.box_mm[0]) for region in localisation.regions}
    boxes: dict[str, Corners] = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        found = [known for known in names if name and known.startswith(name)]
        values = [float(number) for number in numbers.split(",") if re.fullmatch(r"\s*[-+]?\d+(\.\d+)?\s*", number)]
        if len(found) != 1 or len(values) != numbers.count(",") + 1 or len(values) not in (3, 6) or found[0] in boxes:
            raise UsageError(
                f"roi: expected {WHOLE}, or once for each of {', '.join(names)} its centre or two corners in mm, e.g. "
                f"{names[0].split()[0]}=-26,-22,-10, got {text!r}"
            )
        first, last = np.array(values[:3]), np.array(values[-3:])
        if len(values) == 3:
            first, last = first - sizes[found[0]] / 2, last + sizes[found[0]] / 2
        boxes[found[0]] = (np.minimum(first, last), np.maximum(first, last))
        if (boxes[found[0]][1] - boxes[found[0]][0] < localisation.spacing_mm).any():
            raise UsageError(f"roi: expected two corners of a box, got {text!r}")
    return boxes
