"""MONAI Label's datastore over a folder of scans; what annotators save is checked first."""

from pathlib import Path
from typing import Any

from monailabel.config import settings
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.datastore import DefaultLabelTag

from tomoseg.core.errors import VolumeError
from tomoseg.data.formats import SINGLE_FILE_SUFFIXES
from tomoseg.data.read import read_volume
from tomoseg.label_app.datastore.annotation import Submissions

# a file and its detached voxels would be taken apart when it is copied
EXTENSIONS = [f"*{suffix}" for suffix in SINGLE_FILE_SUFFIXES]


class LocalStudies(LocalDatastore):  # type: ignore[misc]
    """Scans in a folder, one file each; labels go to its `labels/final` and `labels/original`.

    Args:
        folder: the scans.
        submissions: how annotations are taken.
        follow_links: serve files that are links, too, wherever they lead.
    """

    def __init__(self, folder: Path, submissions: Submissions, follow_links: bool = False) -> None:
        self._submissions = submissions
        self._follow_links = follow_links
        super().__init__(
            str(folder),
            extensions=EXTENSIONS,
            auto_reload=settings.MONAI_LABEL_DATASTORE_AUTO_RELOAD,
            read_only=settings.MONAI_LABEL_DATASTORE_READ_ONLY,
        )

    def _list_files(self, path: str, patterns: list[str]) -> dict[str, str]:
        found: dict[str, str] = super()._list_files(path, patterns)
        return {name: file for name, file in found.items() if self._is_served(path, file)}

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        super()._init_from_datastore_file(throw_exception)
        store = self._datastore  # of an earlier start, perhaps with other options
        for image_id, entry in list(store.objects.items()):
            if not self._is_served(store.image_path(), self._filename(image_id, entry.image.ext)):
                del store.objects[image_id]

    def _is_served(self, folder: str, name: str) -> bool:
        return self._follow_links or not Path(folder, name).is_symlink()

    def source(self, image_id: str) -> Path | None:
        """Return the scan of an image; None if there is no such image."""
        uri = self.get_image_uri(image_id)
        return Path(uri) if uri else None

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Save a label on its image's grid, with the names of its values.

        Raises:
            VolumeError, UsageError: it is no label of this image; nothing is saved.
        """
        source = self.source(image_id)
        if source is None:
            raise VolumeError(f"image {image_id!r}: no such image in the studies")
        if label_tag != DefaultLabelTag.FINAL:
            return str(super().save_label(image_id, label_filename, label_tag, label_info))
        image = read_volume(source)
        with self._submissions.take(self, image_id, image, label_filename, label_info) as (path, _, known):
            return str(super().save_label(image_id, str(path), label_tag, known))
