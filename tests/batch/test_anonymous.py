"""With --anonymous, nothing that is written or printed names the patient of a scan."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from support.progress import Calls
from tomoseg import EvaluationOptions, OutputOptions, Segmenter, evaluate, segment_batch
from tomoseg.batch.cases import plan_cases
from tomoseg.core.errors import OutputError, UsageError
from tomoseg.core.pseudonyms import load_key, pseudonym

SECRET = ("Mueller", "Schmidt", "Huber", "19540312", "1.2.840.113619", "2026-01-02")
KEY = bytes(32)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_key_is_private_and_stays(home: Path) -> None:
    key = load_key()
    assert load_key() == key
    path = home / "tomoseg" / "pseudonyms.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert pseudonym(key, "a") == pseudonym(key, "a") != pseudonym(key, "b")
    assert pseudonym(key, "a") != pseudonym(KEY, "a")
    assert len(pseudonym(key, "\udcff")) == 12
    path.write_bytes(b"short")
    with pytest.raises(OutputError, match="expected a key of 32 bytes"):
        load_key()


def test_nothing_that_is_written_names_a_scan(real_scan: Path, dicom_scan: Path, tmp_path: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    (scans / "Mueller_Hans").mkdir(parents=True)
    shutil.copy(real_scan, scans / "Mueller_Hans" / "Mueller_19540312.nii.gz")
    (scans / "Mueller_Hans" / "Schmidt.nii").write_text("damaged")
    (scans / "Huber.mhd").write_text("ObjectType = Image\nNDims = 3\nElementDataFile = Huber.raw\n")
    shutil.copytree(dicom_scan, scans / "1.2.840.113619.2")
    calls: list[object] = []
    options = OutputOptions(preview=True, anonymous=True, key_table=str(tmp_path / "table.csv"))
    segmenter = Segmenter.from_bundle("hippocampus")
    first = segment_batch(segmenter, [scans], out, options=options, progress=Calls(calls.append, calls.append))
    again = segment_batch(segmenter, [scans], out, options=options)
    assert sorted(case.status for case in first.cases) == ["done", "done", "failed", "failed"]
    assert sorted(case.status for case in again.cases) == ["failed", "failed", "skipped", "skipped"]
    assert [case.input for case in first.cases] == [case.input for case in again.cases]
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) == 13  # three reports; two label maps, each with a picture, a manifest and two tables
    names = [path.relative_to(out).as_posix() for path in written]
    texts = [path.read_bytes().decode("utf-8", "replace") for path in written if path.suffix != ".gz"]
    told = "".join([repr(first), repr(again), repr(calls), *names, *texts])
    assert [secret for secret in SECRET if secret in told] == []
    table = (tmp_path / "table.csv").read_text()
    assert (tmp_path / "table.csv").stat().st_mode & 0o777 == 0o600
    assert all(case.input in table for case in first.cases)
    assert "Mueller_19540312" in table


def test_one_scan_has_one_number(tmp_path: Path) -> None:
    for name in ("a/x.nii", "b/x.nii"):
        (tmp_path / "scans" / name).parent.mkdir(parents=True)
        (tmp_path / "scans" / name).touch()
    first, second = plan_cases([tmp_path / "scans"], tmp_path / "out", key=KEY)
    assert first.number != second.number
    assert first.output == tmp_path / "out" / f"{first.number}_seg.nii.gz"
    (again,) = plan_cases([tmp_path / "scans" / "a"], tmp_path / "seg.nii.gz", key=KEY)
    assert again.output == tmp_path / "seg.nii.gz"
    assert again.shown == again.number != ""
    with pytest.raises(UsageError, match="names the patient"):
        plan_cases([tmp_path / "scans"], tmp_path / "out", "dicom-seg", key=KEY)
    with pytest.raises(UsageError, match="add --anonymous"):
        OutputOptions(key_table="table.csv")


def test_nothing_of_an_evaluation_names_a_case(tmp_path: Path) -> None:
    predictions, references = tmp_path / "Mueller", tmp_path / "Schmidt"
    labels = nib.Nifti1Image(np.eye(8, dtype=np.uint8)[None].repeat(8, 0), np.eye(4))
    for folder, names in ((predictions, ("Huber_seg", "Mueller_seg")), (references, ("Huber", "Mueller", "Schmidt"))):
        folder.mkdir()
        for name in names:
            nib.save(labels, folder / f"{name}.nii.gz")
    (predictions / "Mueller_seg.nii.gz").write_bytes(b"damaged")
    told: list[object] = []
    options = EvaluationOptions(anonymous=True, key_table=str(tmp_path / "table.csv"))
    out = tmp_path / "out"
    found = evaluate(predictions, references, options, output=out, on_case=lambda *given: told.append(given))
    assert sorted(case.status for case in found.cases) == ["done", "failed", "failed"]
    assert {case.name for case in found.done} == {pseudonym(load_key(), "Huber")}
    table = (tmp_path / "table.csv").read_text()
    assert (tmp_path / "table.csv").stat().st_mode & 0o777 == 0o600
    assert f"{found.done[0].name},{predictions / 'Huber_seg.nii.gz'},{references / 'Huber.nii.gz'}" in table
    texts = [path.read_text() for path in out.iterdir()]
    assert len(texts) == 4
    shown = "".join([repr(found), repr(told), *texts])
    assert [secret for secret in SECRET if secret in shown] == []
