"""MONAI Label's datastore over a DICOMweb archive; images are read and labels are written by tomoseg."""

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX, DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore
from monailabel.datastore.utils.dicom import dicom_web_download_series, dicom_web_upload_dcm
from monailabel.interfaces.datastore import DefaultLabelTag
from pydicom.dataset import Dataset

from tomoseg.core.errors import OutputError, TomosegError, VolumeError, errors_as, one_line
from tomoseg.core.files import staging_folder
from tomoseg.data.labels import Label, unnamed
from tomoseg.data.nifti import write_label_map, write_map
from tomoseg.data.read import read_volume
from tomoseg.data.segments import LabelMap
from tomoseg.data.volume import Volume
from tomoseg.label_app.datastore.annotation import Annotation, Submissions
from tomoseg.label_app.datastore.archived_labels import ArchivedLabels, describe_labels, newest, read_labels

LOGGER = logging.getLogger(__name__)
LISTING_FRESH_S = 5.0  # lifetime of the list of the archive's series


class DicomStudies(DICOMWebDatastore):  # type: ignore[misc]
    """Series in a DICOMweb archive; final labels go back to it as DICOM Segmentations.

    MONAI Label's own keeps a list of the series for two hours, so that a new one is not seen and a labelled one comes
    again; accepts the rest of an interrupted download as complete; and names labels only as a client does.

    Args:
        client: of the archive.
        modalities: of the series that are to be labelled, e.g. ["MR"].
        labels: what labels are called, with colours and codes.
        submissions: how annotations are taken.
    """

    def __init__(
        self, client: Any, modalities: Sequence[str], labels: Sequence[Label], submissions: Submissions
    ) -> None:
        self._submissions = submissions
        self._filters = _filters(modalities)
        self._labels = {label.name: label for label in labels}
        self._listed: tuple[float, list[str]] = (0.0, [])
        self._segmentations: dict[str, ArchivedLabels] = {}
        super().__init__(
            client=client,
            search_filter=self._filters[0],
            cache_path=settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip() or None,
            fetch_by_frame=settings.MONAI_LABEL_DICOMWEB_FETCH_BY_FRAME,
            convert_to_nifti=True,
        )

    def list_images(self) -> list[str]:
        """Return the SeriesInstanceUIDs of the series to be labelled."""
        if time.monotonic() - self._listed[0] > LISTING_FRESH_S:
            found = [
                str(Dataset.from_json(series).SeriesInstanceUID)
                for one in self._filters
                for series in self._client.search_for_series(search_filters=one)
            ]
            self._listed = time.monotonic(), list(dict.fromkeys(found))
        return self._listed[1]

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Return the series that a DICOM Segmentation in the archive refers to which has labels of the bundles."""
        labelled = self._labelled()
        return [uid for uid in self.list_images() if uid in labelled]

    def _labelled(self) -> dict[str, ArchivedLabels]:
        """Return the newest labels of each image; a segmentation in an archive never changes, so each is read once."""
        for one in self._client.search_for_series(search_filters={"Modality": "SEG"}):
            series = Dataset.from_json(one)
            uid = str(series.SeriesInstanceUID)
            if uid not in self._segmentations:
                metadata = self._client.retrieve_series_metadata(str(series.StudyInstanceUID), uid)
                known = list(self._labels.values())
                self._segmentations[uid] = describe_labels(Dataset.from_json(metadata[0]), known)
        return newest(self._segmentations.values())

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Return the image and the newest label of each labelled series, fetched where they are not here yet."""
        pairs = []
        for uid, found in self._labelled().items():
            try:
                if uid in self.list_images() and (label := self._fetch_label(uid, found)):
                    pairs.append({"image": self.get_image_uri(uid), "label": label})
            except TomosegError as error:
                LOGGER.warning("series %s: its labels are left out: %s", uid, one_line(error))
        return pairs

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Return the path of a label as NIfTI on the grid of its image; empty if there is none."""
        found = self._labelled().get(label_id) if label_tag == DefaultLabelTag.FINAL else None
        return (
            self._fetch_label(label_id, found)
            if found
            else str(LocalDatastore.get_label_uri(self, label_id, label_tag))
        )

    def _fetch_label(self, image_id: str, found: ArchivedLabels) -> str:
        """Return the path of an image's labels, with the values and names of the bundles' labels."""
        path = str(LocalDatastore.get_label_uri(self, image_id, DefaultLabelTag.FINAL))
        known = self.get_label_info(image_id, DefaultLabelTag.FINAL)
        source = self.source(image_id)
        if source is None or (known.get("SeriesInstanceUID") == found.series_uid and Path(path).is_file()):
            return path if source else ""
        image = read_volume(source)
        with tempfile.TemporaryDirectory() as folder:
            fetched, label = Path(folder) / "segmentation", Path(folder) / f"{image_id}.nii.gz"
            # requests, pydicom and the archive each have their own errors
            with errors_as(VolumeError, f"series {found.series_uid}: cannot be fetched from the archive", Exception):
                dicom_web_download_series(found.study_uid, found.series_uid, str(fetched), self._client, False)
            values = read_labels(next(fetched.iterdir()), image, found.names)
            write_label_map(label, values, image.grid, image.header)
            named = [{"name": list(self._labels)[value - 1], "idx": value} for value in found.names]
            about = {"label_info": named, "SeriesInstanceUID": found.series_uid}
            LocalDatastore.save_label(self, image_id, str(label), DefaultLabelTag.FINAL, about)
        return str(LocalDatastore.get_label_uri(self, image_id, DefaultLabelTag.FINAL))

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Return the series that no DICOM Segmentation in the archive refers to."""
        labelled = set(self.get_labeled_images())
        return [uid for uid in self.list_images() if uid not in labelled]

    def source(self, image_id: str) -> Path | None:
        """Return the folder with a series, fetched from the archive if it is not here yet; None if there is none.

        Raises:
            VolumeError: it cannot be fetched.
        """
        folder = Path(self._datastore.image_path()).resolve() / image_id
        if folder.is_dir() and any(folder.iterdir()):
            return folder
        if image_id not in self.list_images():
            return None
        with staging_folder(folder.parent) as staging:  # a download that breaks off leaves nothing
            # requests, pydicom and the archive each have their own errors
            with errors_as(VolumeError, f"series {image_id}: cannot be fetched from the archive", Exception):
                dicom_web_download_series(None, image_id, str(staging / "series"), self._client, self._fetch_by_frame)
            (staging / "series").replace(folder)
        return folder

    def get_image_uri(self, image_id: str) -> str:
        """Return the path of a series as NIfTI, with the voxels in the order of its slices, as OHIF has them too."""
        path = Path(self._datastore.image_path()).resolve() / f"{image_id}.nii.gz"
        if not path.is_file():
            source = self.source(image_id)
            if source is None:
                return ""
            volume = read_volume(source)
            with tempfile.TemporaryDirectory() as folder:
                converted = Path(folder) / path.name
                write_map(converted, volume.array, volume.grid, None)
                self.add_image(image_id, str(converted), self._dicom_info(image_id))
        return str(path)

    def save_label(
        self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any], label_id: str = ""
    ) -> str:
        """Save a label; a final one is sent to the archive as a DICOM Segmentation.

        Raises:
            VolumeError, UsageError: it is no label of this image; nothing is saved.
        """
        source = self.source(image_id)
        if source is None:
            raise VolumeError(f"image {image_id!r}: no such series in the archive")
        self.get_image_uri(image_id)
        if label_tag != DefaultLabelTag.FINAL:
            return str(LocalDatastore.save_label(self, image_id, label_filename, label_tag, label_info))
        image = read_volume(source)
        with self._submissions.take(self, image_id, image, label_filename, label_info) as (path, annotation, known):
            with tempfile.TemporaryDirectory() as folder:
                known["SeriesInstanceUID"] = self._upload(image_id, annotation, image, known, Path(folder))
            return str(LocalDatastore.save_label(self, image_id, str(path), label_tag, known))

    def _upload(
        self, image_id: str, annotation: Annotation, image: Volume, known: Mapping[str, Any], folder: Path
    ) -> str:
        """Send labels to the archive; return their SeriesInstanceUID."""
        from tomoseg.data.dicom.seg_writer import write_dicom_seg

        values = annotation.names or {label.value: label.name for label in self._labels.values()}
        present = set(range(1, int(annotation.labels.max(initial=0)) + 1))
        table = [_label(self._labels, value, values.get(value)) for value in sorted(present | values.keys())]
        algorithm, _, version = str(known.get("weights") or "").partition(" version ")
        found = LabelMap(
            annotation.labels, image.grid, tuple(table), algorithm, f"weights {version}" if version else "",
            series=image.series, person=str(known.get("user") or ""),
            earlier=len(self._submissions.history.of(image_id)),
        )  # fmt: skip
        write_dicom_seg(path := folder / "label.dcm", found)
        # requests and the archive each have their own errors
        with errors_as(OutputError, "the archive does not take the segmentation", Exception):
            return str(dicom_web_upload_dcm(str(path), self._client))


def connect(url: str) -> Any:
    """Return a client of a DICOMweb archive, as MONAI Label's settings say."""
    from dicomweb_client.session_utils import create_session_from_user_pass

    user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    return DICOMwebClientX(
        url=url,
        session=create_session_from_user_pass(user, password) if user and password else None,
        qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
    )


def _filters(modalities: Sequence[str]) -> list[dict[str, str]]:
    """Return what the archive is searched for: what the user has set, else the modalities of the bundles."""
    asked = settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER
    if asked != {"Modality": "CT"}:  # MONAI Label's own default
        return [{str(key): str(value) for key, value in asked.items()}]
    return [{"Modality": modality} for modality in modalities] or [{}]


def _label(known: dict[str, Label], value: int, name: str | None) -> Label:
    """Return the label of a value, with the colour and the codes that the bundles give to its name."""
    label = known.get(name or "", unnamed(value))
    return replace(label, value=value, name=name or label.name)
