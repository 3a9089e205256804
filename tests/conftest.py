"""Fixtures that several test modules use."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import settings

from support.browser import Browser, running_browser
from support.bundles import BUNDLE_NAME, BUNDLES, CASES, CHECKOUT, DATA, SHARED, Place
from support.dicoms import write_series
from support.one_layer import NETWORK, save_layer
from support.pages import draw_picture
from support.scheduling import pytest_xdist_make_scheduler  # noqa: F401
from support.tiers import examples, hypothesis_profile, rest_exhaustive
from support.trust import all_trusted, own_data_folder
from tomoseg import Grid

# no deadline: a busy machine disproves no property; the same examples each time, and new ones with `scripts/test --all`
settings.register_profile("quick", deadline=None, derandomize=True, max_examples=examples(100))
settings.register_profile("same", deadline=None, derandomize=True)
settings.register_profile("new", deadline=None)
settings.load_profile(hypothesis_profile())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put modules with slow tests first, so that at the end no worker waits for another."""
    long = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("exhaustive")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session", autouse=True)
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trust every bundle, recorded in a data folder of the tests' own."""
    with own_data_folder(tmp_path_factory.mktemp("user_data")), all_trusted():
        yield


@pytest.fixture(scope="session")
def checkout() -> Path:
    """The root of the checkout."""
    return CHECKOUT


@pytest.fixture(scope="session")
def project_files() -> list[Path]:
    """The files that git has or would add, relative to the checkout."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    return [Path(name) for name in listed.stdout.splitlines() if (CHECKOUT / name).is_file()]


@pytest.fixture(scope="session")
def bundle_folder() -> Path:
    return CHECKOUT / "monai_bundle" / BUNDLE_NAME


@pytest.fixture(scope="session")
def hippocampus_data() -> Path:
    """The labelled hippocampus crops of the Medical Segmentation Decathlon; not on a user's machine."""
    return _shared("Task04_Hippocampus")


@pytest.fixture(scope="session")
def head_neck_data() -> Path:
    """CTs of head and neck with the organs that were contoured in each; not on a user's machine."""
    return _shared("HeadNeck_CT")


@pytest.fixture(scope="session")
def ct_abdomen() -> Path:
    """A CT that holds no organ of head and neck; not on a user's machine."""
    return _shared("ct_abdomen") / "ct.nii.gz"


@pytest.fixture(scope="session")
def head_folder() -> Path:
    """One whole T1 head as a DICOM series; not on a user's machine."""
    return _shared("mr_head_dicom")


@pytest.fixture(scope="session")
def schema_file() -> Path:
    """MONAI's metadata schema."""
    return _shared("schema") / "meta_schema_20240725.json"


@pytest.fixture(scope="session")
def real_scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A box of 40×56×40 mm around the left hippocampus of MNI152, which any machine has from the package index."""
    from nilearn.datasets import load_mni152_template

    head = load_mni152_template(resolution=1)
    first = np.round(np.linalg.inv(head.affine) @ (-46.0, -51.0, -31.0, 1.0)).astype(int)
    box = head.slicer[tuple(slice(start, start + size) for start, size in zip(first[:3], (40, 56, 40), strict=True))]
    path = tmp_path_factory.mktemp("real") / "mni_left.nii.gz"
    nib.save(box, path)
    return path


@pytest.fixture(scope="session")
def dicom_scan(real_scan: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a folder with a DICOM series; beside it `mni.nii.gz` with the same values."""
    image = nib.load(real_scan)
    folder = tmp_path_factory.mktemp("real") / "mni_dicom"
    array = np.round(np.asanyarray(image.dataobj) * 1000).astype(np.int16)
    write_series(folder, array, Grid(image.shape, image.affine), modality="MR")
    nib.save(nib.Nifti1Image(array, image.affine), folder.with_name("mni.nii.gz"))
    return folder


@pytest.fixture
def bundle_copy(bundle_folder: Path, tmp_path: Path) -> Path:
    """A copy of the bundle that a test may damage; its folder's name has characters that MONAI's configs interpret."""
    target = tmp_path / "a #copy @of % the bundle"
    shutil.copytree(bundle_folder, target, ignore=shutil.ignore_patterns("train", "eval"))
    return target


@pytest.fixture
def small_bundle(bundle_copy: Path) -> Path:
    """Such a copy whose network is one convolution of random weights, for tests that need no trained one."""
    for path in (bundle_copy / "configs").glob("*.json"):
        config = json.loads(path.read_text())
        if "network_def" in config:
            path.write_text(json.dumps({**config, "network_def": NETWORK}))
    save_layer(bundle_copy / "models" / "model.pt")
    return bundle_copy


@pytest.fixture(scope="module", params=BUNDLES, ids=lambda path: path.name)
def bundle(request: pytest.FixtureRequest) -> Path:
    path: Path = request.param
    return path


@pytest.fixture(scope="module", params=rest_exhaustive(["checkout", "bundle"]))
def place(request: pytest.FixtureRequest, bundle: Path) -> Place:
    return Place(bundle, CHECKOUT if request.param == "checkout" else bundle)


@pytest.fixture(scope="module")
def data(request: pytest.FixtureRequest, bundle: Path) -> Path:
    folder: Path = request.getfixturevalue(DATA[bundle.name])
    return folder


@pytest.fixture(scope="module")
def cases(data: Path) -> tuple[str, ...]:
    listed = json.loads((data / "dataset.json").read_text())["training"][:CASES]
    return tuple(Path(case["image"]).name.removesuffix(".nii.gz") for case in listed)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A real browser, for the pages that a run writes."""
    with running_browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preview, in a file whose name has characters that pages interpret."""
    return draw_picture(tmp_path_factory.mktemp("pictures") / "one #1 seg.png")


def _shared(name: str) -> Path:
    path = SHARED / name
    if not path.is_dir():
        pytest.skip(f"{name} is not at {path}; it is no part of the project")
    return path
