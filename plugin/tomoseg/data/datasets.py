"""Folders of scans with their label maps, laid out as people train from them."""

import os
import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from itertools import count, takewhile
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from tomoseg.core.errors import UsageError, errors_as, shorten
from tomoseg.core.json_files import load_json
from tomoseg.data.channels import channel_file, channel_number, without_number
from tomoseg.data.formats import VOLUME_SUFFIXES, has_suffix, strip_suffix
from tomoseg.data.label_mapping import LabelMapping
from tomoseg.data.scan_files import visible_folders

DESCRIPTION = "dataset.json"
FOLDERS = (("imagesTr", "labelsTr"), ("images", "labels"))  # of the Decathlon and of nnU-Net; of others
TEST_FOLDER = "imagesTs"
PARTS = ("training", "validation")  # lists of pairs in dataset.json; MONAI reads the second, too
TEST = "test"
# of a label map's name beside its scan's; the last is 3D Slicer's
LABEL_ENDINGS = ("_seg", "_label", "_labels", "_segmentation", "_mask", "_gt", "-label")
VALUE = re.compile(r"[0-9]{1,9}")  # of a label
MODALITIES = {"MRI": "MR", "MR": "MR", "CT": "CT"}
UNNAMED_CHANNELS = ("image",)  # the only channel, if it has no name
LAYOUTS = (
    "expected dataset.json of the Medical Segmentation Decathlon or nnU-Net, "
    "or the folders images and labels (imagesTr and labelsTr)"
)


@dataclass(frozen=True)
class Pair:
    """A scan and its label map, both of them files that are there.

    Attributes:
        image, label: the files; of several channels with a file each, the first channel's. In a dataset of label maps
            only, `image` is the label map.
        part: "training" or "validation".
        annotated: names of the labels that were drawn in this case; the others are unknown in it, not absent. None: all
            were drawn.
        other_channels: the files of the channels after the first, where each has its own.
        values: of the labels that were drawn and occur; `require_trainable` finds them.
        sha256: of the voxels of `image`; as `values`.
    """

    image: Path
    label: Path
    part: str = "training"
    annotated: tuple[str, ...] | None = None
    other_channels: tuple[Path, ...] = ()
    values: frozenset[int] = frozenset()
    sha256: str = ""

    @property
    def name(self) -> str:
        """Name of the case: the file name of its label map without the suffix."""
        return strip_suffix(self.label.name)

    @property
    def has_scan(self) -> bool:
        """Whether the case has a scan beside its label map."""
        return self.image != self.label

    @property
    def source(self) -> Path | list[Path]:
        """What the scan is read from."""
        return [self.image, *self.other_channels] if self.other_channels else self.image


@dataclass(frozen=True)
class Dataset:
    """A labelled dataset.

    Attributes:
        root: its folder.
        pairs: at least one.
        label_names: by value, without background (0); empty if unknown.
        modality: "CT", "MR" or what the dataset calls it; None where it does not say, or has several channels.
        channels: their names.
        test: scans that need no label.
        images_without_label, labels_without_image: files without their partner.
        missing: files that dataset.json names, and whose partners are not there either.
        unlisted: files beside those that dataset.json lists, and not listed.
        renumbered: what label values become for the bundle that is trained.
    """

    root: Path
    pairs: tuple[Pair, ...]
    label_names: dict[int, str] = field(default_factory=dict)
    modality: str | None = None
    channels: tuple[str, ...] = UNNAMED_CHANNELS
    test: tuple[Path, ...] = ()
    images_without_label: tuple[Path, ...] = ()
    labels_without_image: tuple[Path, ...] = ()
    missing: tuple[Path, ...] = ()
    unlisted: tuple[Path, ...] = ()
    renumbered: LabelMapping = field(default_factory=LabelMapping)

    @property
    def has_scans(self) -> bool:
        """Whether there is more than label maps."""
        return any(pair.has_scan for pair in self.pairs)


def is_dataset(folder: Path) -> bool:
    """Return whether a folder looks like a labelled dataset: by its dataset.json, or by its folders of volumes."""
    if (folder / DESCRIPTION).is_file():
        return True
    if any(all(_volumes(folder / name) for name in names) for names in FOLDERS):
        return True
    return bool(_label_maps_only(folder)) and not _volumes(folder)


def find_datasets(folder: Path) -> list[Path]:
    """Return the labelled datasets below a folder, sorted; hidden folders are left out."""
    found: list[Path] = []
    for here, _ in visible_folders(folder):
        if not any(here.is_relative_to(other) for other in found) and is_dataset(here):
            found.append(here)
    return sorted(found)


def read_dataset(folder: str | os.PathLike[str]) -> Dataset:
    """Read which scan has which label map, and what the labels are called; no scan is opened.

    Known are the Medical Segmentation Decathlon (dataset.json lists the files), nnU-Net (imagesTr/CASE_0000.nii.gz and
    labelsTr/CASE.nii.gz; dataset.json has channel_names and labels), and plain folders `images` and `labels` with files
    of the same names, those of the labels with or without `_seg`, `_label` or the like at the end. Several channels are
    in one 4D NIfTI file, or in files CASE_0000, CASE_0001 and so on. A dataset may have label maps only: its
    dataset.json lists no image, or it has no folder of images.

    Raises:
        UsageError: the folder is no such dataset, or has no pair; or its dataset.json is damaged, lists a file twice,
            or names files outside of the folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UsageError(f"{root}: {LAYOUTS}, got {'a file' if root.exists() else 'no such folder'}")
    description = read_description(root / DESCRIPTION)
    with errors_as(UsageError, str(root / DESCRIPTION), _DescriptionError):
        channels = _read_channels(description)
        names = read_label_names(description.get("labels") or {})
        lists = _read_lists(description)
        known = set(names.values())
        found = _named_alike(root, description, channels) if lists is None else _listed(root, lists, known)
    if not found.pairs:
        lonely = [*found.images_without_label[:1], *found.labels_without_image[:1]]
        shown = f" ({' and '.join(path.name for path in lonely)})" if lonely else ""
        raise UsageError(
            f"{root}: expected scans with label maps of the same names, got {len(found.images_without_label)} scans "
            f"and {len(found.labels_without_image)} label maps without partner{shown}; "
            f"{len(found.missing)} files are missing"
        )
    modality = MODALITIES.get(channels[0].upper(), channels[0]) if len(channels) == 1 else None
    return replace(found, label_names=names, modality=modality, channels=channels or found.channels)


class _DescriptionError(UsageError):
    """Something in dataset.json that cannot be."""


def read_description(path: Path) -> dict[str, Any]:
    """Return the object in dataset.json, or in a JSON file like it; an empty one if there is no such file.

    Raises:
        UsageError: the file holds no JSON object.
    """
    with errors_as(UsageError, f"{path}: cannot be read as JSON", OSError, ValueError):
        content = load_json(path) if path.exists() else {}
    if not isinstance(content, dict):
        raise UsageError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _read_channels(description: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the channels; nothing where it does not say."""
    for key in ("channel_names", "modality"):
        channels = description.get(key)
        if isinstance(channels, dict):
            channels = list(channels.values())
        if not channels:
            continue
        names = [channels] if isinstance(channels, str) else channels
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise _DescriptionError(f'{key}: expected {{"0": "CT"}} or the like, got {_quote(names)}')
        return tuple(names)
    return ()


def described_labels(folder: Path) -> dict[int, str]:
    """Return the names of labels by value from the dataset.json in a folder, and ignore its other content.

    Raises:
        UsageError: it is missing or damaged.
    """
    return read_label_names(read_description(folder / DESCRIPTION).get("labels") or {})


def read_label_names(labels: object) -> dict[int, str]:
    """Return the names of labels by value, background left out, as dataset.json has them.

    Several names of one value, as of nnU-Net's regions, are joined.

    Args:
        labels: {"1": "name"} as of the Decathlon, or {"name": 1} as of nnU-Net.

    Raises:
        UsageError: it is neither.
    """
    expected = 'labels: expected {"1": "name"} or {"name": 1}'
    if not isinstance(labels, dict):
        raise _DescriptionError(f"{expected}, got {type(labels).__name__}")
    names: dict[int, list[str]] = {}
    for key, entry in labels.items():
        name, values = (entry, key) if isinstance(entry, str) else (key, entry)
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, bool) or not isinstance(value, int | str) or not VALUE.fullmatch(str(value)):
                raise _DescriptionError(f"{expected}, got {_quote({key: entry})}")
            names.setdefault(int(value), []).append(name)
    return {value: " + ".join(names[value]) for value in sorted(names) if value != 0}


def _read_lists(description: dict[str, Any]) -> dict[str, list[Any]] | None:
    """Return the lists of cases, None where there are none."""
    lists = {key: description.get(key) or [] for key in (*PARTS, TEST)}
    cases = description.get("dataset")
    if isinstance(cases, dict):  # nnU-Net 2's
        listed = lists["training"]
        lists["training"] = [
            {"image": case.get("images"), "label": case.get("label")} if isinstance(case, dict) else case
            for case in cases.values()
        ]
        # MONAI trains on the one, nnU-Net on the other
        if listed and isinstance(listed, list) and _labels(listed) != _labels(lists["training"]):
            raise _DescriptionError("training and dataset: two lists of cases that differ. Keep one of them.")
    for key, entries in lists.items():
        if not isinstance(entries, list):
            raise _DescriptionError(f"{key}: expected a list of cases, got {type(entries).__name__}")
    return lists if any(lists[part] for part in PARTS) else None


def _labels(cases: list[Any]) -> set[str]:
    """Return the label maps that a list of cases names."""
    return {str(PurePosixPath(str(case.get("label")))) for case in cases if isinstance(case, dict)}


def _listed(root: Path, lists: dict[str, list[Any]], names: set[str]) -> Dataset:
    """Return the files that dataset.json lists."""
    found: dict[str, Any] = defaultdict(list, pairs=[])  # by the fields of `Dataset`
    seen: set[Path] = set()
    has_scans = any(isinstance(case, dict) and case.get("image") is not None for part in PARTS for case in lists[part])
    for part, entries in lists.items():
        for number, entry in enumerate(entries):
            where = f"{part}[{number}]"
            fields = {"image": entry} if isinstance(entry, str | list) and part == TEST else entry
            if not isinstance(fields, dict):
                raise _DescriptionError(f'{where}: expected {{"image": …, "label": …}}, got {_quote(entry)}')
            label = None
            if part != TEST and fields.get("label") is not None:
                label = _inside(root, fields["label"], f"{where}: label")
            if alone := label is not None and not has_scans:
                image, other_channels = label, []
            else:
                image, *other_channels = _files(root, fields.get("image"), f"{where}: image")
            for path in filter(None, (image, *other_channels, None if alone else label)):
                if path in seen:
                    raise _DescriptionError(f"{where}: {path.relative_to(root)} is listed twice")
                seen.add(path)
            has_image = all(path.is_file() for path in (image, *other_channels))
            has_label = label is not None and label.is_file()
            if part == TEST:
                found["test" if has_image else "missing"].append(image)
            elif label is not None and has_image and has_label:
                annotated = _read_annotated(fields.get("annotated"), names, where)
                found["pairs"].append(Pair(image, label, part, annotated, tuple(other_channels)))
            elif has_image:
                found["images_without_label"].append(image)
            elif has_label:
                found["labels_without_image"].append(label)
            else:
                found["missing"].append(image)
    beside = {path for parent in {path.parent for path in seen} for path in _volumes(parent)}
    files: dict[str, Any] = {kind: tuple(members) for kind, members in found.items()}
    return Dataset(root, unlisted=tuple(sorted(beside - seen)), **files)


def _inside(root: Path, name: object, where: str) -> Path:
    """Return the path of a file that dataset.json names, which must lie in the folder."""
    if not isinstance(name, str) or not name:
        raise _DescriptionError(f"{where}: expected the name of a file, got {_quote(name)}")
    parts = PureWindowsPath(name)  # knows both kinds of slashes, and drives
    if parts.anchor or ".." in parts.parts or not parts.parts:
        raise _DescriptionError(f"{where}: expected a file in the dataset's own folder, got {name}")
    path = root / name
    with errors_as(_DescriptionError, where, OSError):  # of a name that is too long
        path.is_file()
    return path


def _files(root: Path, names: object, where: str) -> list[Path]:
    """Return the files of a scan's channels; nnU-Net 1 lists a case without their numbers."""
    if isinstance(names, list) and names:
        return [_inside(root, name, where) for name in names]
    image = _inside(root, names, where)
    numbered = list(takewhile(Path.is_file, (channel_file(image, number) for number in count())))
    return [image] if image.is_file() or not numbered else numbered


def _read_annotated(listed: object, names: set[str], where: str) -> tuple[str, ...] | None:
    if listed is None:
        return None
    if not isinstance(listed, list) or not all(isinstance(name, str) and name in names for name in listed):
        raise _DescriptionError(
            f"{where}: annotated: expected names of labels ({', '.join(sorted(names))}), got {_quote(listed)}"
        )
    return tuple(listed)


def _named_alike(root: Path, description: dict[str, Any], names: tuple[str, ...]) -> Dataset:
    """Return the scans and label maps whose names fit together.

    Args:
        root: folder of the dataset.
        description: content of its dataset.json.
        names: of the channels.
    """
    ending = description.get("file_ending", VOLUME_SUFFIXES[0])
    if not has_suffix(str(ending), VOLUME_SUFFIXES):
        raise _DescriptionError(f"file_ending: expected one of {', '.join(VOLUME_SUFFIXES)}, got {ending}")
    for image_folder, label_folder in FOLDERS:
        if (root / image_folder).is_dir() and (root / label_folder).is_dir():
            break
    else:
        pairs = tuple(Pair(path, path) for path in _label_maps_only(root))
        if not pairs:
            raise UsageError(f"{root}: {LAYOUTS}")
        return Dataset(root, pairs, channels=names or UNNAMED_CHANNELS, test=tuple(_volumes(root / TEST_FOLDER)))
    images, labels = _by_stem(root / image_folder), _by_stem(root / label_folder)
    lonely = []
    taken: dict[str, list[Path]] = {}
    for stem, image in images.items():
        without = strip_suffix(without_number(image).name)
        match = next((name for base in (stem, without) for name in label_stems(base) if name in labels), None)
        if match is None:
            lonely.append(image)
        else:
            taken.setdefault(match, []).append(image)
    most = max(map(len, taken.values()), default=1)
    for files in taken.values():
        numbers = [channel_number(path) for path in files]
        if most > 1 and (len(files) < most or numbers != list(range(most)) or len(names) not in (0, most)):
            wanted = f"{len(names) or most} channels, numbered from _0000 on"
            raise UsageError(f"{files[0]}: expected {wanted}, got {', '.join(path.name for path in files)}")
    return Dataset(
        root,
        tuple(Pair(files[0], labels[stem], other_channels=tuple(files[1:])) for stem, files in taken.items()),
        channels=names or (UNNAMED_CHANNELS if most == 1 else tuple(f"channel {number}" for number in range(most))),
        test=tuple(_volumes(root / TEST_FOLDER)),
        images_without_label=tuple(lonely),
        labels_without_image=tuple(path for stem, path in labels.items() if stem not in taken),
    )


def _label_maps_only(root: Path) -> list[Path]:
    """Return the label maps of a folder without scans, sorted; nothing where there are folders of both."""
    lonely = (root / labels for images, labels in FOLDERS if not (root / images).exists())
    return next((list(_by_stem(folder).values()) for folder in lonely if _volumes(folder)), [])


def label_stems(stem: str) -> list[str]:
    """Return what the label map of a scan of this name may be called, suffixes left out, in the order of preference."""
    return [stem, *(f"{stem}{ending}" for ending in LABEL_ENDINGS)]


def _quote(value: object) -> str:
    return shorten(repr(value), 80)


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _volumes(folder):
        other = found.setdefault(strip_suffix(path.name), path)
        if other != path:
            raise UsageError(f"{path}: {other.name} in the same folder has the same name. Remove one of them")
    return found


def _volumes(folder: Path) -> list[Path]:
    """Return the volumes in a folder, sorted; nothing where there is no such folder."""
    try:
        found = [path for path in folder.iterdir() if has_suffix(path.name, VOLUME_SUFFIXES) and path.is_file()]
    except OSError:
        return []
    return sorted(path for path in found if not path.name.startswith("."))
