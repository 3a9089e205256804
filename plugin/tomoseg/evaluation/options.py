"""Options of an evaluation, for the command line and Python."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from tomoseg.core.errors import UsageError
from tomoseg.core.options import Option, require_choices
from tomoseg.core.threads import choose_threads


@dataclass(frozen=True)
class EvaluationOptions:
    """How to compare label maps with their references.

    Attributes:
        names: the labels that are scored, as names by value or a JSON file of them; by default the labels of the
            bundle, those of dataset.json, or all that occur.
        tolerances: tolerance of the normalised surface distance, in mm: 2mm, spleen=3mm or a JSON file; by default
            1 mm.
        ignore: value of reference voxels that are counted nowhere; by default what dataset.json calls "ignore".
        within_slices: name of a label to score between the first and last slice of its reference only, as for the
            spinal cord.
        planned: for each value of the bundle, the value of the same label in the dataset that the bundle was planned
            for; for references whose labels have no names.
        only_predicted: leave out references that have no prediction; without it, each of them is a failed case.
        images: folder of the scans, for pictures of the worst cases; a dataset's own are found.
        worst: show so many of the worst cases.
        anonymous: write numbers in place of paths and names of cases, into reports, pictures and messages.
        key_table: a CSV with the files behind each number, which only you may read.
        threads: compare so many cases at once; by default as many as OMP_NUM_THREADS or the cores allow, at most 4.

    Raises:
        UsageError: a value is out of range.

    Example:
        >>> import tomoseg
        >>> tomoseg.EvaluationOptions({1: "liver"}, tolerances=("2mm",)).worst
        6
    """

    names: Annotated[Mapping[int, str] | str | None, Option("1=NAME,2=NAME|FILE", ("--labels",))] = None
    tolerances: Annotated[tuple[str, ...], Option("LENGTH|NAME=LENGTH|FILE", ("--tolerance",))] = ()
    ignore: Annotated[int | None, Option("VALUE", ("--ignore-label",))] = None
    within_slices: Annotated[tuple[str, ...], Option("NAME")] = ()
    planned: Annotated[Mapping[int, int], Option(hidden=True)] = field(default_factory=dict)
    only_predicted: bool = False
    images: Annotated[str | None, Option("FOLDER")] = None
    worst: Annotated[int, Option("N")] = 6
    anonymous: bool = False
    key_table: Annotated[str | None, Option("CSV")] = None
    threads: Annotated[int | None, Option("N")] = None

    def __post_init__(self) -> None:
        require_choices(self)
        if self.key_table is not None and not self.anonymous:
            raise UsageError("key table: lists numbers; add --anonymous")
        choose_threads(self.threads)
        for name, value, least in (("ignore-label", self.ignore, 1), ("worst", self.worst, 0)):
            if value is not None and value < least:
                raise UsageError(f"{name}: expected {least} or more, got {value}")
