"""The config files of a bundle, and the entries that they are made of."""

import json
from pathlib import Path
from typing import Any

from tomoseg.core.files import atomic_file

Json = dict[str, Any]
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
