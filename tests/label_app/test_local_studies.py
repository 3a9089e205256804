"""The folder that is served: a link in it may lead to any file of the computer."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from support.label_server import require_monailabel
from tomoseg.label_app.history import History

require_monailabel()
from tomoseg.label_app.datastore.annotation import ExpectedLabels, Submissions  # noqa: E402
from tomoseg.label_app.datastore.local_studies import LocalStudies  # noqa: E402

ANY = Submissions(ExpectedLabels([{"anterior": 1}]), History(Path("unused")))


@pytest.mark.parametrize("earlier", [None, False, True])
def test_links_are_served_only_if_asked_for(earlier: bool | None, real_scan: Path, tmp_path: Path) -> None:
    """Also where an earlier start has kept names in MONAI Label's own list of the images."""
    folder = tmp_path / "studies"
    folder.mkdir()
    shutil.copy(real_scan, folder / "own.nii.gz")
    (folder / "linked.nii.gz").symlink_to(real_scan)
    if earlier is not None:
        LocalStudies(folder, ANY, follow_links=earlier)
    studies = LocalStudies(folder, ANY)
    assert studies.list_images() == ["own"]
    assert (studies.source("own"), studies.source("linked")) == (folder / "own.nii.gz", None)
    assert sorted(LocalStudies(folder, ANY, follow_links=True).list_images()) == ["linked", "own"]
