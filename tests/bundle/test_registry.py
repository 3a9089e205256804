from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tomoseg import TomosegError, find_bundle, registered_names

NAME = "hippocampus_mr_segmentation"


def install(site: Path, bundle: Path, value: str = "BUNDLE", name: str = "liver_ct_segmentation") -> None:
    """Lay out a foreign package as pip would, with an entry point in our group."""
    (site / "their_package.py").write_text(
        f"from pathlib import Path\nBUNDLE = Path({str(bundle)!r})\ndef locate():\n    return str(BUNDLE)\n"
    )
    info = site / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[tomoseg.bundles]\n{name} = their_package:{value}\n")


def test_every_bundle_of_the_checkout_has_its_folder_name(checkout: Path) -> None:
    folders = {folder.name for folder in (checkout / "monai_bundle").iterdir() if (folder / "configs").is_dir()}
    assert folders <= set(registered_names())
    for name in folders:
        assert find_bundle(name).root == checkout / "monai_bundle" / name


def test_an_unambiguous_beginning_or_a_folder_is_enough(bundle_folder: Path) -> None:
    assert find_bundle("hippo").name == NAME
    assert find_bundle(bundle_folder).root == bundle_folder
    assert find_bundle(str(bundle_folder) + "/").name == NAME


@pytest.mark.parametrize("value", ["BUNDLE", "locate"])
def test_other_packages_register_theirs(
    tmp_path: Path, bundle_folder: Path, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, bundle_folder, value)
    monkeypatch.syspath_prepend(tmp_path)
    assert "liver_ct_segmentation" in registered_names()
    assert "their_package" not in sys.modules  # listing names imports nothing
    assert find_bundle("liver").root == bundle_folder
    sys.modules.pop("their_package")


def test_a_broken_package_is_named_and_does_not_hide_the_others(
    tmp_path: Path, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, bundle_folder, "MISSING")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TomosegError, match="entry point 'their_package:MISSING' of their-package failed"):
        find_bundle("liver")
    with pytest.raises(TomosegError, match=rf"no such name or folder.*{NAME} \(MR: anterior, posterior\).*unusable"):
        find_bundle("spleen")
    sys.modules.pop("their_package")


def test_an_ambiguous_beginning_lists_the_names(
    tmp_path: Path, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, bundle_folder, name="liver_ct = their_package:BUNDLE\nliver_mr")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(TomosegError, match="liver_ct, liver_mr"):
        find_bundle("liver")
    assert find_bundle("liver_mr").name == "liver_mr"
    sys.modules.pop("their_package")


def test_own_bundles_win_over_others_of_the_same_beginning(
    tmp_path: Path, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, bundle_folder, name="hippocampus_ct_segmentation")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_bundle("hippocampus").name == NAME
    assert find_bundle("hippocampus_ct").name == "hippocampus_ct_segmentation"
    sys.modules.pop("their_package")


def test_a_folder_of_the_working_directory_takes_no_registered_name(
    tmp_path: Path, bundle_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("hippocampus", NAME, "spleen"):
        (tmp_path / name / "configs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for name in ("hippocampus", NAME):
        assert find_bundle(name).root == bundle_folder
        assert f"registered {NAME}; for the folder write ./{name}" in capsys.readouterr().err
    with pytest.raises(TomosegError, match=r"'spleen': no such name or folder; for the folder write \./spleen"):
        find_bundle("spleen")
    for folder in ("./spleen", "spleen/", Path("spleen")):
        assert find_bundle(folder).name == "spleen"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("wanted", ["", "spleen", "./nowhere", "no/where"])
def test_what_is_not_there_is_reported(wanted: str) -> None:
    with pytest.raises(TomosegError, match="no such"):
        find_bundle(wanted)


def test_describing_loads_neither_torch_nor_monai() -> None:
    code = (
        "import sys, tomoseg, tomoseg.cli; tomoseg.find_bundle('hippo').labels; tomoseg.read_volume\n"
        "loaded = {'torch', 'monai', 'SimpleITK', 'matplotlib'} & set(sys.modules); assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
