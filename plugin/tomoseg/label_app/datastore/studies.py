"""The studies that an app serves: a folder or an archive."""

from collections.abc import Sequence
from pathlib import Path

from tomoseg.label_app.datastore.annotation import ExpectedLabels, Submissions
from tomoseg.label_app.datastore.dicom_studies import DicomStudies, connect
from tomoseg.label_app.datastore.local_studies import LocalStudies
from tomoseg.label_app.folder import LabelApp, is_dicomweb
from tomoseg.label_app.model import ServedModel


def open_studies(
    studies: str, app: LabelApp, models: Sequence[ServedModel], accept_unknown: bool, follow_links: bool
) -> LocalStudies | DicomStudies:
    """Open the folder of studies or the DICOMweb archive.

    Args:
        studies: the folder or the URL.
        app: keeps the history of labels.
        models: bundles whose labels are drawn.
        accept_unknown: take labels of other names, and incomplete annotations.
        follow_links: serve files of a folder that are links, too.
    """
    expected = ExpectedLabels([model.labels.bundle_values for model in models], accept_unknown)
    submissions = Submissions(expected, app.history)
    if not is_dicomweb(studies):
        return LocalStudies(Path(studies), submissions, follow_links)
    modalities = dict.fromkeys(model.bundle.modality for model in models)
    labels = [label for model in models for label in model.labels.table]
    known = [one for one in modalities if one != "unknown"]
    return DicomStudies(connect(studies.rstrip("/")), known, labels, submissions)
