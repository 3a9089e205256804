"""The result for one scan."""

import os
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from tomoseg.bundle.confidence import ExpectedDice
from tomoseg.core.files import open_regular
from tomoseg.core.notes import print_line
from tomoseg.core.run_stats import RunStats
from tomoseg.core.templates import make_environment
from tomoseg.data.label_mapping import LabelMapping
from tomoseg.data.labels import Label, file_names, select_labels
from tomoseg.data.nifti import write_label_map, write_map
from tomoseg.data.output_types import choose_output_type
from tomoseg.data.segments import LabelMap
from tomoseg.data.volume import Volume, by
from tomoseg.inference.localisation.locator import RegionCrop
from tomoseg.report.preview import save_preview
from tomoseg.report.records import Location, OutOfDomain
from tomoseg.report.text import count_noun

MAX_SHOWN = 4  # labels in one line


@dataclass(frozen=True, eq=False)
class Segmentation(LabelMap):
    """Labels in the scan's own grid.

    Attributes:
        labels: (I, J, K) uint8, or uint16 where the bundle has more than 255 labels; (label, I, J, K) with 0 and 1
            where labels may overlap.
        grid: equal to the scan's.
        label_table: one entry a label, without the background; labels that may overlap are numbered from 1.
        algorithm: name of the bundle that made the labels.
        version: of the bundle.
        header: the scan's NIfTI header, if it had one.
        series: the DICOM series that the scan was read from, if any.
        person: who drew or corrected the labels; None, because the bundle alone did.
        origin: UIDs of DICOM results follow from it, as in `LabelMap`.
        earlier: number of results of the series before this one.
        replaces: DICOM results that this one takes the place of.
        warnings: reasons why the labels may be wrong.
        location: structures found in a whole scan, for a bundle that was trained on crops; None for a scan that was
            segmented without a search.
        out_of_domain: how unlike the training cases it is; None for a bundle that does not say what these are like.
        places: segmented crops of a whole scan.
        entropy: (I, J, K) float32, 0 where the network is certain and 1 where all labels are equally likely; None
            unless requested.
        expected_dice: the Dice that each label likely has, by its value; none where MONAI ran the bundle.
        stats: seconds, windows, memory, backend, precision and notes of the run.
        hounsfield: the scan is in Hounsfield units.
        read_scan: reads the scan again; None for the results of a batch.

    Example:
        >>> import tomoseg
        >>> result = tomoseg.Segmenter.from_bundle("hippocampus", device="cpu")("scans/scan.nii.gz")
        >>> result.labels.shape == result.grid.shape, sorted(result.volumes_ml)
        (True, ['anterior', 'posterior'])
    """

    warnings: tuple[str, ...] = ()
    location: Location | None = None
    out_of_domain: OutOfDomain | None = None
    places: tuple[RegionCrop, ...] = ()
    entropy: NDArray[np.float32] | None = None
    expected_dice: Mapping[int, ExpectedDice] = field(default_factory=dict)
    stats: RunStats = field(default_factory=RunStats)
    hounsfield: bool = False
    read_scan: Callable[[], Volume] | None = None

    def __repr__(self) -> str:
        found = sorted(((ml, name) for name, ml in self.volumes_ml.items() if ml), reverse=True)
        shown = [f"{name} {ml:.2f} mL" for ml, name in found[:MAX_SHOWN]] or ["no label"]
        more = [count_noun(len(found) - MAX_SHOWN, "more label")] if len(found) > MAX_SHOWN else []
        more += [count_noun(len(self.warnings), "warning")] if self.warnings else []
        return f"Segmentation({by(self.grid.shape)}: {', '.join(shown + more)})"

    def _repr_html_(self) -> str:
        """Return the picture for a notebook, or the text where the scan cannot be read again."""
        picture = ""
        with TemporaryDirectory() as folder, suppress(Exception):  # of readers and matplotlib; the text is enough
            self.save_preview(path := Path(folder) / "preview.png")
            with open_regular(path) as file:
                picture = b64encode(file.read()).decode()
        template = make_environment(Path(__file__).parent).get_template("segmentation.html")
        return template.render(picture=picture, text=repr(self))

    @property
    def names(self) -> dict[int, str]:
        """Names of the labels by their value."""
        return {label.value: label.name for label in self.label_table}

    @property
    def overlapping(self) -> bool:
        """Whether a voxel may have several labels."""
        return self.labels.ndim == 4

    @property
    def voxel_counts(self) -> dict[int, int]:
        """Number of voxels of each label value, 0 for a label that does not occur."""
        if self.overlapping:
            return {value: int(np.count_nonzero(self.labels[value - 1])) for value in self.names}
        size = max(self.names, default=0) + 1
        # plane by plane, for bincount makes int64 of all it gets
        counts = sum(np.bincount(plane.ravel(), minlength=size)[:size] for plane in self.labels)
        return {value: int(np.atleast_1d(counts)[value]) for value in self.names}

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Volume of each label in millilitres, 0 for a label that does not occur."""
        return {self.names[value]: count * self.grid.voxel_volume_ml for value, count in self.voxel_counts.items()}

    @property
    def _described_labels(self) -> list[Label]:
        """The label table, with the expected Dice in the names."""
        found = self.expected_dice
        return [
            replace(label, name=f"{label.name}: Dice {found[label.value]}") if label.value in found else label
            for label in self.label_table
        ]

    @property
    def calibrated_dice(self) -> dict[int, float]:
        """The Dice that each label likely has, by its value, where cases with references have shown it."""
        return {value: one.dice for value, one in self.expected_dice.items() if one.low is not None}

    def as_one_map(self) -> Self:
        """Return labels that may overlap as one label map (I, J, K); where several lie, the last wins."""
        if not self.overlapping:
            return self
        labels = np.zeros(self.grid.shape, np.min_scalar_type(len(self.labels)))
        for value, mask in enumerate(self.labels, 1):
            labels[mask > 0] = value
        return replace(self, labels=labels)

    def keep(self, names: Sequence[str]) -> Self:
        """Return the result with some of its labels, which keep their values; the rest becomes background.

        Structures of a whole scan that hold another label, too, are left out of `location`.

        Args:
            names: of the labels, or patterns, as `RunOptions.labels` takes them.

        Raises:
            UsageError: there is no such label.
        """
        table = select_labels(names, self.label_table)
        values = {label.value: label.value for label in table}
        labels = LabelMapping(values, keep_others=False).apply(self.labels)
        whole = {place.region.name for place in self.places if values.keys() >= {*place.region.labels.values()}}
        location = self.location and self.location.keep(whole)
        return replace(self, labels=labels, label_table=table, location=location)

    def save(self, path: str | os.PathLike[str], output_type: str | None = None) -> None:
        """Write the labels; the file is there whole or not at all.

        Args:
            path: missing folders are made.
            output_type: "nifti" (.nii.gz, .nii; labels that may overlap become its fourth axis), "nrrd" (.nrrd, best
                .seg.nrrd; 3D Slicer's segmentation), or for a scan read from DICOM "dicom-seg", "dicom-labelmap"
                (DICOM's newer form, which fewer systems read), "dicom-sr" (a report of the volumes, and beside it
                STEM_seg.dcm) or "rtstruct" (.dcm). By default what the path ends in, with "dicom-seg" for .dcm.

        Raises:
            UsageError: the path does not fit the output type.
            OutputError: the scan was not read from DICOM and the type refers to it, or the file cannot be written.
            MissingPackageError: a package for DICOM is not installed.
        """
        target = Path(path)
        choose_output_type(output_type, target).write(target, self)

    def save_each(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write a NIfTI file of 0 and 1 for each label, named as it, e.g. "liver.nii.gz"; return the files.

        Raises:
            OutputError: as for `save`.
        """
        paths = {value: Path(folder) / f"{name}.nii.gz" for value, name in file_names(self.names).items()}
        for value, path in paths.items():
            mask = self.labels[value - 1] > 0 if self.overlapping else self.labels == value
            write_label_map(path, mask.astype(np.uint8), self.grid, self.header)
        return list(paths.values())

    def save_preview(
        self,
        path: str | os.PathLike[str],
        image: NDArray[np.float32] | None = None,
        *,
        title: str = "",
        neurological: bool = False,
    ) -> None:
        """Write a picture (PNG) of slices that show each label, with the patient's right at the left.

        Args:
            path: ends in .png.
            image: (I, J, K) intensities; by default the scan is read again.
            title: stands above.
            neurological: draw the patient's right at the right.

        Raises:
            ValueError: no image is given, and the scan cannot be read again.
            OutputError: the picture cannot be written.
        """
        if image is None:
            if self.read_scan is None:
                raise ValueError("expected an image to draw the labels over")
            image = self.read_scan().array
        save_preview(
            Path(path), np.nan_to_num(image), {"": self.as_one_map().labels}, self.grid, self._described_labels,
            title=title, hounsfield=self.hounsfield, neurological=neurological,
        )  # fmt: skip

    def view(self, neurological: bool = False) -> Any:
        """Show scan and labels, with names and colours, in a notebook (NiiVue, of the package `ipyniivue`).

        Args:
            neurological: the patient's left is at the left; by default at the right, as radiologists are used to.

        Returns:
            The widget; None, after a line of advice, where the package is not installed.

        Raises:
            ValueError: the scan cannot be read again.
        """
        if find_spec("ipyniivue") is None:
            print_line("view: needs the package ipyniivue. Install it with: pip install ipyniivue")
            return None
        if self.read_scan is None:
            raise ValueError("expected a result of a call of a segmenter, which can read the scan again")
        folder = TemporaryDirectory(prefix="tomoseg-")
        scan, labels = Path(folder.name) / "scan.nii.gz", Path(folder.name) / "labels.nii.gz"
        write_map(scan, self.read_scan().array, self.grid, self.header)
        self.as_one_map().save(labels)
        table = {0: Label(0, "background", (0, 0, 0)), **{label.value: label for label in self.label_table}}
        shown = [table.get(value, table[0]) for value in range(max(table) + 1)]
        colours: dict[str, list[Any]] = {
            key: [label.colour[place] for label in shown] for place, key in enumerate(("R", "G", "B"))
        }
        widget = import_module("ipyniivue").NiiVue(is_radiological_convention=not neurological)
        widget.load_volumes([{"path": scan}, {"path": labels, "opacity": 0.5}])
        widget.volumes[1].set_colormap_label(
            {**colours, "A": [255 * (label.value > 0) for label in shown], "labels": [label.name for label in shown]}
        )
        widget.files = folder  # which go with the widget
        return widget

    def save_entropy(self, path: str | os.PathLike[str]) -> None:
        """Write the entropy as NIfTI, float32; the file is there whole or not at all.

        Raises:
            ValueError: the entropy was not asked for.
            OutputError: as for `save`.
        """
        if self.entropy is None:
            raise ValueError("there is no entropy; ask for it with uncertainty=True")
        write_map(Path(path), self.entropy, self.grid, self.header)
