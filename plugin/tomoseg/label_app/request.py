"""What a client asks for: MONAI Label hands on JSON that may come from anywhere."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tomoseg.bundle.options import RunOptions
from tomoseg.core.errors import UsageError

# 3D Slicer and OHIF ask for .nrrd
EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".seg.nrrd", ".dcm")
TRUE, FALSE = {"true", "yes", "on", "1"}, {"false", "no", "off", "0", ""}
Json = Mapping[str, Any]


@dataclass(frozen=True)
class InferRequest:
    """How one scan is to be segmented, and what comes back.

    Attributes:
        options: how the bundle is run.
        largest_component: whether only the largest piece of each label is kept.
        extension: of the file that comes back, one of EXTENSIONS.
        compress: whether a .nrrd file is compressed.
    """

    options: RunOptions
    largest_component: bool = False
    extension: str = ".nii.gz"
    compress: bool = True


def parse_infer_request(request: Json, device: str) -> InferRequest:
    """Read the options of a client's panel.

    Args:
        request: the client's parameters; an absent one is the bundle's own.
        device: where the network runs.

    Raises:
        UsageError: a value is of the wrong kind or out of range.
    """
    extension = str(request.get("result_extension") or ".nii.gz").lower()
    if extension not in EXTENSIONS:
        raise UsageError(f"result_extension: expected one of {', '.join(EXTENSIONS)}, got {extension!r}")
    overlap, roi = number(request, "overlap"), _places(request)
    tta = None if chosen(request, "tta") is None else flag(request, "tta")
    largest, compress = flag(request, "largest_component"), flag(request, "result_compress", default=True)
    return InferRequest(RunOptions(device=device, overlap=overlap, tta=tta, roi=roi), largest, extension, compress)


def _places(request: Json) -> tuple[str, ...]:
    """Return places given by hand: a list of them, or a text with spaces between them."""
    value = request.get("roi") or []
    if not isinstance(value, str | list):
        raise UsageError(f"roi: expected a text or a list of texts, got {value!r}")
    return tuple(value.split() if isinstance(value, str) else map(str, value))


def flag(request: Json, name: str, default: bool = False) -> bool:
    """Return a yes or no.

    Raises:
        UsageError: it is neither.
    """
    value = chosen(request, name)
    text = str(default if value is None else value).strip().lower()
    if text not in TRUE | FALSE:
        raise UsageError(f"{name}: expected true or false, got {value!r}")
    return text in TRUE


def number(request: Json, name: str, default: float | None = None) -> float | None:
    """Return a number, or the default where the client left it out or empty.

    Raises:
        UsageError: it is none.
    """
    value = chosen(request, name)
    if value is None or value == "":
        return default
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name}: expected a number, got {value!r}") from error


def chosen(request: Json, name: str) -> Any:
    """Return a value; a panel's list of choices stands for the first of them."""
    value = request.get(name)
    if isinstance(value, list):
        return value[0] if value else None
    return value
