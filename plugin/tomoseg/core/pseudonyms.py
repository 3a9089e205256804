"""Numbers in place of the names of scans: one number for one name, which nobody finds out without the user's key."""

import hmac
import os
import secrets
from pathlib import Path

import platformdirs

from tomoseg.core.errors import OutputError, one_line
from tomoseg.core.files import open_regular

KEY_BYTES = 32
DIGITS = 12


def load_key() -> bytes:
    """Return the user's key, which is made the first time; only the user may read it.

    Raises:
        OutputError: it cannot be read or written.
    """
    path = Path(platformdirs.user_config_dir("tomoseg", appauthor=False)) / "pseudonyms.key"
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
        with open_regular(path) as file:
            key = file.read(KEY_BYTES)
    except OSError as error:
        raise OutputError(f"{path}: cannot be read or written: {one_line(error)}") from error
    if len(key) < KEY_BYTES:
        raise OutputError(f"{path}: expected a key of {KEY_BYTES} bytes, got {len(key)}. Remove it.")
    return key


def pseudonym(key: bytes, name: str) -> str:
    """Return the number of a name: digits that are always as many."""
    digest = hmac.digest(key, name.encode("utf-8", "surrogateescape"), "sha256")
    return f"{int.from_bytes(digest, 'big') % 10**DIGITS:0{DIGITS}}"
