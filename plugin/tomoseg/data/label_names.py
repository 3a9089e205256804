"""Names of label values, as a user types them or as a file has them."""

from pathlib import Path

from tomoseg.core.errors import UsageError, shorten
from tomoseg.data.datasets import read_description, read_label_names


def parse_labels(text: str, option: str = "labels") -> dict[int, str]:
    """Return names by value from "1=anterior,2=posterior" or from a JSON file with such a table.

    The file holds {"1": "name"} or {"name": 1}, or an object with that under "labels", as dataset.json does.

    Args:
        text: the table, or the file's path.
        option: what errors call it.

    Raises:
        UsageError: it is neither.
    """
    if is_file(text):
        content = read_description(Path(text))
        try:
            return read_label_names(content.get("labels", content))
        except UsageError as error:
            raise UsageError(f"{text}: {error}") from error
    names: dict[int, str] = {}
    for part in text.split(","):
        one, _, other = (piece.strip() for piece in part.partition("="))
        value, name = (one, other) if one.isdecimal() else (other, one)
        if not name or not value.isdecimal() or int(value) in names or name in names.values():
            raise UsageError(f"{option}: expected 1=NAME,2=NAME or a JSON file, got {shorten(text, 80)!r}")
        names[int(value)] = name
    names.pop(0, None)
    if not names:
        raise UsageError(f"{option}: expected one other than 0, which is the background, got {shorten(text, 80)!r}")
    return dict(sorted(names.items()))


def is_file(text: str) -> bool:
    """Return whether a text is the path of a file."""
    try:
        return Path(text).is_file()
    except OSError:  # too long for a name
        return False
