"""The config files of a bundle, and the entries that they are made of."""

import json
import re
from pathlib import Path
from typing import Any

from tomoseg.core.files import atomic_file

Json = dict[str, Any]
INTERPRETED_STARTS = ("$", "@", "%")
WIDE_FORMS = {ord(sign): ord(sign) + 0xFEE0 for sign in INTERPRETED_STARTS}
SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # of a bundle, and of a folder that a config names
CONFIG_SUFFIXES = (".json", ".yaml", ".yml")


def find_config(root: Path, name: str) -> Path | None:
    """Return the file of a bundle's config, None where there is none.

    Args:
        root: the bundle's folder.
        name: of the config, such as "inference".
    """
    paths = (root / "configs" / f"{name}{suffix}" for suffix in CONFIG_SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def write_config(path: Path, config: Json) -> None:
    """Write a config as JSON, atomically.

    Raises:
        OutputError: it cannot be written.
    """
    with atomic_file(path) as temporary:
        temporary.write_text(as_text(config), encoding="utf-8")


def as_text(config: Json) -> str:
    """Return the text of a config's file."""
    return json.dumps(config, indent=4) + "\n"


def as_plain(value: Any) -> Any:
    """Return JSON whose texts mean nothing to MONAI: a sign that it interprets gets its wide form where a text begins.

    MONAI runs what follows `$`, and reads other entries and files at `@` and `%`.
    """
    if isinstance(value, dict):
        return {as_plain(key): as_plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(entry) for entry in value]
    if isinstance(value, str) and value.lstrip().startswith(INTERPRETED_STARTS):
        return value.lstrip().translate(WIDE_FORMS)
    return value


def component(target: str, /, **arguments: Any) -> Json:
    """Return the entry of a config from which MONAI builds an object.

    Args:
        target: the class or function, as MONAI's `_target_` has it.
        **arguments: arguments of the call.
    """
    return {"_target_": target, **arguments}


def checkpoint_loader(path: str, network: str) -> Json:
    """Return the handler that loads weights.

    Args:
        path: expression for the file.
        network: reference to the network.
    """
    return component(
        "CheckpointLoader", load_path=path, load_dict={"model": network}, map_location="@device", strict=True
    )
