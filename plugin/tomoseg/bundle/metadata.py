"""What a MONAI bundle says of itself, read from its JSON without importing what runs it."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from tomoseg.bundle.configs import SAFE_NAME, find_config
from tomoseg.bundle.planned import PlannedBundle
from tomoseg.core.errors import BundleError, errors_as, shorten
from tomoseg.core.json_files import load_json
from tomoseg.core.json_records import from_json
from tomoseg.data.labels import Label, default_colour

MAX_CHANNELS = 1000  # of one image
MAX_MEMBERS = 1000  # of one set
MAX_TEXT = 2000  # letters
# of an entry of a label table, by the field of `Label`
LABEL_FIELDS = {"color": "colour", "category": "category", "type": "kind", "modifier": "modifier", "laterality": "side"}
LABEL_FIELDS |= {name: name for name in ("roi_name", "volume_ml")}
WRONG_TYPES = (AttributeError, KeyError, TypeError, ValueError)  # what JSON of another form raises


@dataclass(frozen=True)
class Bundle:
    """A folder laid out as a MONAI bundle: `configs/metadata.json`, `configs/inference.json`, `models/`.

    Attributes:
        name: the name it is registered under, or the folder's.
        root: the folder.
        trusted: whether tomoseg or an installed package brought it, so that its code may run.
        config: name of the inference config's file, such as "inference_swinunetr.yaml"; empty for the usual one.

    Raises:
        BundleError: the folder is missing or is not a bundle.

    Example:
        >>> import tomoseg
        >>> bundle = tomoseg.find_bundle("hippocampus")
        >>> bundle.modality, bundle.labels
        ('MR', {1: 'anterior', 2: 'posterior'})
    """

    name: str
    root: Path
    trusted: bool = field(default=False, compare=False, kw_only=True)
    config: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if not self.root.is_dir():
            raise BundleError(f"{self.root}: no such bundle folder")
        if not (self.root / "configs").is_dir():
            raise BundleError(
                f"{self.root}: not a MONAI bundle: expected a folder 'configs' with metadata.json and inference.json"
            )

    @property
    def metadata_file(self) -> Path:
        """The file `configs/metadata.json`."""
        return self.root / "configs" / "metadata.json"

    def describe(self) -> dict[str, Any]:
        """Return what `tomoseg info` shows, as JSON has it.

        Raises:
            BundleError: the bundle's metadata cannot be used.
        """
        return {
            "name": self.name,
            "version": self.version,
            "modality": self.modality,
            "channels": self.input_names,
            "labels": {str(value): name for value, name in self.labels.items()},
            "description": self.description,
            "folder": str(self.root),
            "licence": str(self.metadata.get("copyright", "")),
            **({"imported_from": origin} if isinstance(origin := self.metadata.get("imported_from"), dict) else {}),
        }

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The contents of `configs/metadata.json`.

        Raises:
            BundleError: it is missing or is not a JSON object.
        """
        with errors_as(BundleError, f"{self.metadata_file}: cannot be read as JSON", OSError, ValueError):
            if not self.metadata_file.exists():
                raise BundleError(f"{self.metadata_file}: missing; every MONAI bundle has one")
            content = load_json(self.metadata_file)
        if not isinstance(content, dict):
            raise BundleError(f"{self.metadata_file}: expected a JSON object, got {type(content).__name__}")
        return content

    @property
    def place(self) -> Path:
        """What `find_bundle` finds it by: its folder, or the chosen config in it."""
        return self.root / "configs" / self.config if self.config else self.root

    @property
    def inference_config(self) -> Path:
        """The inference config's file.

        Raises:
            BundleError: there is none.
        """
        if self.config:
            return self.place
        if path := find_config(self.root, "inference"):
            return path
        if self.members:
            raise BundleError(f"{self.root}: is a set of bundles. Give one of those in its folder members")
        raise BundleError(
            f"{self.root}: expected configs/inference.json, got none. Give the config that segments: "
            f"-b {self.root}/configs/NAME.json"
        )

    @cached_property
    def members(self) -> tuple[tuple["Bundle", dict[int, int]], ...]:
        """The bundles of a set, in their order, each with the set's value for each of its labels; empty for a bundle.

        Raises:
            BundleError: the metadata names them in another form.
        """
        members = self.metadata.get("members", [])
        where, remedy = f"{self.metadata_file}: members: cannot be read", ". Import the set again"
        with errors_as(BundleError, where, *WRONG_TYPES, remedy=remedy):
            if len(members) > MAX_MEMBERS:
                raise ValueError(f"{len(members)} bundles, at most {MAX_MEMBERS} are allowed")
            if unsafe := [entry["folder"] for entry in members if not SAFE_NAME.fullmatch(entry["folder"])]:
                raise ValueError(f"{unsafe[0]!r} is no name of a folder")
            folders = [self.root / "members" / entry["folder"] for entry in members]
            values = [{int(value): int(own) for value, own in entry["labels"].items()} for entry in members]
        bundles = (Bundle(folder.name, folder, trusted=self.trusted) for folder in folders)
        return tuple(zip(bundles, values, strict=True))

    @property
    def inference_configs(self) -> tuple[Path, ...]:
        """The files of its inference config, with the usual one that it may change, or of those of a set's members.

        Raises:
            BundleError: one is missing.
        """
        if self.members:
            return tuple(one.inference_config for one, _ in self.members)
        usual = find_config(self.root, "inference") if self.config else None
        return (usual, self.inference_config) if usual else (self.inference_config,)

    @property
    def version(self) -> str:
        """Version of the bundle; "unknown" without one."""
        return shorten(str(self.metadata.get("version", "unknown")), MAX_TEXT)

    @property
    def description(self) -> str:
        """Description of the bundle; empty without one."""
        return shorten(str(self.metadata.get("description", "")), MAX_TEXT)

    @property
    def modality(self) -> str:
        """The imaging modality of the input, e.g. "MR" or "CT"; "unknown" where the metadata does not say."""
        return shorten(str(self._tensor("inputs", "image").get("modality", "unknown")), MAX_TEXT)

    @property
    def input_channels(self) -> int:
        """Number of channels of a scan; 1 where the metadata does not say.

        Raises:
            BundleError: it is no number of channels.
        """
        number = self._tensor("inputs", "image").get("num_channels", 1)
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MAX_CHANNELS:
            raise BundleError(f"{self.metadata_file}: num_channels: expected 1 to {MAX_CHANNELS}, got {number!r}")
        return self._without_clicks(number)

    @property
    def input_names(self) -> dict[str, Any]:
        """What the input's channels are called, by their number; empty where the metadata does not say."""
        names = self._tensor("inputs", "image").get("channel_def", {})
        return dict(names) if isinstance(names, dict) else {}

    @property
    def hounsfield(self) -> bool:
        """Whether the input is in Hounsfield units: the metadata says so, or that it is CT, and no other format."""
        assumed = "hounsfield" if self.modality.upper() == "CT" else ""
        return str(self._tensor("inputs", "image").get("format", assumed)).lower() == "hounsfield"

    @property
    def channels(self) -> dict[int, str]:
        """Names of the network's outputs by their number; empty where the metadata does not say."""
        channels = self._tensor("outputs", "pred").get("channel_def", {})
        if not isinstance(channels, dict):
            return {}
        with errors_as(BundleError, f"{self.metadata_file}: channel_def: expected integer label values", ValueError):
            # names go to terminals and into files
            return {int(value): shorten(str(name), MAX_TEXT) for value, name in channels.items()}

    @property
    def labels(self) -> dict[int, str]:
        """Names of the label values, background (0) left out; empty where the metadata does not say."""
        return {value: name for value, name in self.channels.items() if value != 0}

    @cached_property
    def dataset_values(self) -> dict[int, int]:
        """The value that each label had in the dataset that the bundle was planned for, by the bundle's own value.

        For a bundle that `tomoseg plan` did not write, both are the same.
        """
        planned = PlannedBundle.read(self.root)
        try:
            found = sorted(map(int, planned.dataset_labels)) if planned else []
        except (TypeError, ValueError):
            found = []
        return dict(enumerate(found, start=1)) or {value: value for value in self.labels}

    @property
    def label_table(self) -> dict[int, Label]:
        """What each of `channels` means, by its number; colours and codes come from the metadata's `label_table`.

        Raises:
            BundleError: the table is no table of colours and codes.
        """
        table = self.metadata.get("label_table", {})
        expected = (
            f"{self.metadata_file}: label_table: expected for each label a color [R, G, B], a volume_ml [LOW, HIGH] "
            "and codes (category, type, modifier, laterality) with value, scheme and meaning"
        )
        with errors_as(BundleError, expected, *WRONG_TYPES):
            return {value: read_label(value, name, table.get(str(value), {})) for value, name in self.channels.items()}

    def _without_clicks(self, channels: int) -> int:
        """Return how many of a network's channels are the scan's; those of DeepEdit take clicks, too."""
        path = find_config(self.root, "inference")
        if channels == 1 or path is None or path.suffix != ".json":
            return channels
        try:
            images = load_json(path).get("number_intensity_ch", channels)
        except (OSError, ValueError, AttributeError):  # a run of the config reports the error
            return channels
        return images if isinstance(images, int) and 1 <= images <= channels else channels

    def _tensor(self, side: str, name: str) -> dict[str, Any]:
        node: Any = self.metadata
        for key in ("network_data_format", side, name):
            node = node.get(key, {}) if isinstance(node, dict) else {}
        return node if isinstance(node, dict) else {}


def read_label(value: int, name: str, entry: dict[str, Any]) -> Label:
    """Return the label that an entry of a label table describes.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: it is no such entry.
    """
    fields = {ours: entry[theirs] for theirs, ours in LABEL_FIELDS.items() if entry.get(theirs) is not None}
    label: Label = from_json(Label, {"value": value, "name": name, "colour": default_colour(value), **fields})
    if max(label.colour) > 255:
        raise ValueError(f"color {entry['color']}")
    low, high = label.volume_ml or (0, 1)
    if not 0 <= low < high:
        raise ValueError(f"volume_ml {entry['volume_ml']}")
    return label
