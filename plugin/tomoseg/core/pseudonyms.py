"""Numbers in place of the names of scans: one number for one name, secret without the user's key."""

import hmac
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

import platformdirs

from tomoseg.core.errors import OutputError, errors_as
from tomoseg.core.files import open_regular, real_path

KEY_BYTES = 32
DIGITS = 12
UID = re.compile(r"\d+(?:\.\d+){4,}")  # of DICOM
SUFFIX = re.compile(r"(?:_seg)?(?:\.seg)?\.\w+(?:\.gz)?$")


def load_key() -> bytes:
    """Return the user's key, which is made the first time; only the user may read it.

    Raises:
        OutputError: it cannot be read or written.
    """
    path = Path(platformdirs.user_config_dir("tomoseg", appauthor=False)) / "pseudonyms.key"
    with errors_as(OutputError, f"{path}: cannot be read or written", OSError):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
        with open_regular(path) as file:
            key = file.read(KEY_BYTES)
    if len(key) < KEY_BYTES:
        raise OutputError(f"{path}: expected a key of {KEY_BYTES} bytes, got {len(key)}. Remove it.")
    return key


def pseudonym(key: bytes, name: str) -> str:
    """Return the number of a name: digits that are always as many."""
    digest = hmac.digest(key, name.encode("utf-8", "surrogateescape"), "sha256")
    return f"{int.from_bytes(digest, 'big') % 10**DIGITS:0{DIGITS}}"


def hide_names(text: str, number: str, files: Iterable[Path], names: Iterable[str] = ()) -> str:
    """Return a text with a number in place of files, by path and by name, of other names, and of UIDs.

    Args:
        text: e.g. a message.
        number: what stands for them.
        files: what lies in their folders is hidden, too.
        names: other names.
    """
    files = list(files)
    paths = {str(path) for file in files for path in (file, file.absolute(), real_path(file), file.parent)} - {"."}
    for path in sorted(paths, key=len, reverse=True):  # with what follows it: a file of a series
        text = re.sub(rf"(?<![\w/]){re.escape(path)}(?:/[^\s:;,]*)?", number, text)
    known = {name for file in files for name in (file.name, SUFFIX.sub("", file.name))} | set(names)
    for name in sorted(known - {""}, key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", number, text)
    return UID.sub(number, text)
