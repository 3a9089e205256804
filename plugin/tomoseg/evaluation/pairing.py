"""Which prediction belongs to which reference, by their names."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar
from unicodedata import normalize

from tomoseg.core.errors import UsageError, one_line, some
from tomoseg.core.files import real_path
from tomoseg.core.notes import take_note
from tomoseg.data.channels import FIRST_CHANNEL
from tomoseg.data.datasets import DESCRIPTION, FOLDERS, LABEL_ENDINGS, Dataset, described_labels, read_dataset
from tomoseg.data.dicom.seg_reader import is_segmentation
from tomoseg.data.formats import SCAN_SUFFIXES, SPLIT_ENDING, has_suffix, pair_of, strip_suffix
from tomoseg.data.scan_files import visible_files

# of names that `tomoseg segment` gives: `_labelmap.dcm` beside those of datasets
LABEL_MAP_ENDINGS = (*LABEL_ENDINGS, "_labelmap")
ENTROPY_ENDING = "_entropy"  # `tomoseg segment --uncertainty` writes it beside a label map
MAX_NAMES_IN_ERROR = 3
Found = TypeVar("Found")


@dataclass(frozen=True)
class CasePair:
    """A prediction with its reference.

    Attributes:
        name: what the case is called.
        prediction, reference: the files of the label maps.
        image: the scan, if a dataset names it.
        annotated: values of the labels that the reference annotates; None for all.
    """

    name: str
    prediction: Path
    reference: Path
    image: Path | None = None
    annotated: frozenset[int] | None = None


@dataclass(frozen=True)
class Matches:
    """Pairs and leftovers of predictions and references.

    Attributes:
        pairs: by name.
        lonely_predictions, lonely_references: files without their partner, by name.
        label_names: by value, as dataset.json calls them; empty where there is none.
    """

    pairs: tuple[CasePair, ...]
    lonely_predictions: tuple[Path, ...] = ()
    lonely_references: tuple[Path, ...] = ()
    label_names: dict[int, str] = field(default_factory=dict)


def match_cases(prediction: Path, reference: Path) -> Matches:
    """Pair predictions with references by their names, `_seg`, `_label` and the like at the end left out.

    Folders are searched to their depth. Files of the same name in folders of the same name go together; else files
    whose name occurs but once on either side. Two files given by path are a pair under any names.

    Args:
        prediction: a file, or a folder of them.
        reference: a file, a folder of them, or a labelled dataset; what a dataset.json beside or above them says of
            labels, scans and annotations is heeded.

    Raises:
        UsageError: one side is missing or empty, nothing fits together, or two files claim one case.
    """
    for side in (prediction, reference):
        if not side.exists():
            raise UsageError(f"{side}: no such file or folder; expected label maps")
    dataset = _find_dataset(reference)
    names = dataset.label_names
    listed = {real_path(pair.label): pair for pair in dataset.pairs}

    def match(ours: Path, theirs: Path) -> CasePair:
        pair = listed.get(real_path(theirs))
        annotated = None
        if pair is not None and pair.annotated is not None:
            annotated = frozenset(value for value, name in names.items() if name in pair.annotated)
        return CasePair(case_name(theirs), ours, theirs, pair.image if pair and pair.has_scan else None, annotated)

    if prediction.is_file() and reference.is_file():
        return Matches((match(prediction, reference),), label_names=names)
    ours, theirs = _collect(prediction), _collect(reference)
    if dataset.pairs and reference == dataset.root:
        theirs = _by_key((*(pair.label for pair in dataset.pairs), *dataset.labels_without_image), reference)
    if not prediction.is_file() and not ours:
        raise UsageError(f"{prediction}: contains no label map. Expected NIfTI, NRRD, MetaImage or DICOM-SEG files")
    if not reference.is_file() and not theirs:
        raise UsageError(f"{reference}: contains no label map. Expected NIfTI, NRRD or MetaImage files")
    partners = _join(ours, theirs)
    if not partners:
        raise UsageError(
            f"{prediction}: expected label maps called as those of {reference} ({_some(theirs)}), got {_some(ours)}"
        )
    pairs = _tell_apart([match(ours[partner], theirs[key]) for key, partner in partners.items()], reference)
    return Matches(
        tuple(sorted(pairs, key=lambda pair: pair.name)),
        # with one file, other files do not matter
        () if reference.is_file() else tuple(ours[key] for key in sorted(ours.keys() - set(partners.values()))),
        () if prediction.is_file() else tuple(theirs[key] for key in sorted(theirs.keys() - partners.keys())),
        names,
    )


def case_name(path: Path) -> str:
    """Return what a case is called by the name of one of its label maps."""
    stem = normalize("NFC", strip_suffix(path.name))  # file systems spell one name in two ways
    for ending in LABEL_MAP_ENDINGS:
        if stem.endswith(ending) and stem != ending:
            return stem.removesuffix(ending)
    return stem


Key = tuple[Path, str]  # the folder below that which was given, and the name of the case


def _collect(side: Path) -> dict[Key, Path]:
    """Return the label maps below a folder, or a file alone."""
    if side.is_file():
        return {(Path(), case_name(side)): side}
    files = [path for path in visible_files(side) if has_suffix(path.name, SCAN_SUFFIXES) or is_segmentation(path)]
    files = [path for path in files if path == pair_of(path)[0]]
    stems = {(path.parent, strip_suffix(path.name)) for path in files}
    split = {folder / f"{stem}{SPLIT_ENDING}" for folder, stem in stems}  # masks of single labels
    files = [path for path in files if path.parent not in split]
    entropies = {(folder, f"{stem}{ENTROPY_ENDING}") for folder, stem in stems}
    return _by_key((path for path in files if (path.parent, strip_suffix(path.name)) not in entropies), side)


def _by_key(files: Iterable[Path], base: Path) -> dict[Key, Path]:
    """Return label maps by their place and name; a scan beside its label map gives way."""
    found: dict[Key, Path] = {}
    for path in files:
        key = (path.parent.relative_to(base), case_name(path))
        other = found.setdefault(key, path)
        if other == path:
            continue
        plain = [one for one in (other, path) if strip_suffix(one.name) == key[1]]
        if len(plain) != 1:
            raise UsageError(f"{path}: {other.name} in the same folder is called as the same case. Remove one of them")
        found[key] = path if plain[0] == other else other
    return found


def _join(ours: dict[Key, Path], theirs: dict[Key, Path]) -> dict[Key, Key]:
    """Return the key of the prediction by that of the reference; what fits most closely is joined first.

    A name joins two files only if each is the only one of that name on its side: where each patient has a folder with a
        file of one name, files that are left over belong to different patients.
    """
    partners: dict[Key, Key] = {}
    closeness: tuple[Callable[[Key], object], ...] = (
        lambda key: key,
        lambda key: key[1],
        lambda key: key[1].removesuffix(FIRST_CHANNEL),  # a scan of nnU-Net's naming, segmented
    )
    for name in closeness:
        left, right, taken = _unique(theirs, name), _unique(ours, name), set(partners.values())
        for shared in left.keys() & right.keys():
            if left[shared] not in partners and right[shared] not in taken:
                partners[left[shared]] = right[shared]
    return partners


def _unique(keys: Iterable[Key], name: Callable[[Key], object]) -> dict[object, Key]:
    """Return the keys by a name, without those that share theirs with another."""
    found: dict[object, list[Key]] = {}
    for key in keys:
        found.setdefault(name(key), []).append(key)
    return {shared: same[0] for shared, same in found.items() if len(same) == 1}


def _tell_apart(pairs: list[CasePair], reference: Path) -> list[CasePair]:
    """Put the folder before names that occur more than once."""
    names = [pair.name for pair in pairs]
    if len(set(names)) == len(names):
        return pairs
    places = [(pair.reference.parent.relative_to(reference) / pair.name).as_posix() for pair in pairs]
    return [replace(pair, name=place) for place, pair in zip(places, pairs, strict=True)]


def _find_dataset(reference: Path) -> Dataset:
    """Return the dataset that the references are, or belong to; one without pairs if there is none."""
    if any(all((reference / name).is_dir() for name in names) for names in FOLDERS):
        return read_dataset(reference)
    above = [*reference.absolute().parents][:2] if reference.is_file() else [reference, reference.absolute().parent]
    for folder in above:
        if not (folder / DESCRIPTION).is_file():
            continue
        try:
            return read_dataset(folder)
        except UsageError as error:  # the labels are good without scans
            take_note(f"{one_line(error)}; scans and annotations were not taken from it")
            return Dataset(folder, (), described_labels(folder))
    return Dataset(reference, ())


def _some(files: dict[Key, Path]) -> str:
    return some(sorted(path.name for path in files.values()), MAX_NAMES_IN_ERROR)
