"""Bundles of MONAI's model zoo, fetched by MONAI's own downloader."""

from importlib.util import find_spec
from pathlib import Path

from monai.bundle import ConfigParser, download, download_large_files

from tomoseg.core.errors import BundleError, errors_as
from tomoseg.core.files import real_path, require_regular
from tomoseg.core.quiet import suppress_warnings

LARGE_FILES = (".yml", ".yaml", ".json")


def fetch_from_zoo(name: str, version: str | None, folder: Path) -> Path:
    """Download a bundle of MONAI's model zoo with its large files, whose hashes are checked.

    Args:
        name: of the bundle.
        version: None for the latest.
        folder: where its folder is made.

    Returns:
        The bundle's folder.

    Raises:
        BundleError: it cannot be downloaded, or a file is not what its hash says.
    """
    where = f"zoo:{name}{f'@{version}' if version else ''}"
    # MONAI's default needs another package
    more = {} if find_spec("huggingface_hub") else {"source": "github"}
    # MONAI's downloader: errors of urllib, of its hashes and of ZIPs
    with errors_as(BundleError, f"{where}: cannot be fetched", Exception, SystemExit, root=True):
        with suppress_warnings():
            download(name=name, version=version, bundle_dir=str(folder), progress=False, **more)
        root = folder / name
        listed = [path for suffix in LARGE_FILES for path in root.glob(f"large_files*{suffix}")]
        config = ConfigParser.load_config_files([str(require_regular(path)) for path in listed])
        for entry in config.get("large_files", []):
            if not str(entry.get("url", "")).startswith(("https://", "http://")):
                raise BundleError(f"{where}: {listed[0].name}: expected URLs of the web, got {entry.get('url')!r}")
            if not real_path(root / str(entry.get("path", ""))).is_relative_to(real_path(root)):
                raise BundleError(f"{where}: {listed[0].name}: a path leads out of the bundle: {entry['path']!r}")
        if listed:
            download_large_files(str(root))
    if not root.is_dir():
        raise BundleError(f"{where}: expected a folder {name} in the download, got none")
    return root
