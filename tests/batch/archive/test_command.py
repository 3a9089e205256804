"""The options of `tomoseg watch` for an archive."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.command_line import complaint, run_inside

URL = "http://127.0.0.1:9/dicom-web"
RULES = "- {bundle: hippocampus, modality: MR}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "expected a folder or the address of an archive"),
        ([URL, "-b", "hippocampus"], "expected a folder or the address of an archive, and -o"),
        ([URL, "-o", "state"], "expected a bundle with -b, or --rules. Choose one of"),
        ([URL, "-o", "state", "-b", "none"], "bundle 'none': no such name"),
        ([URL, "-o", "state", "-b", "hippocampus", "--rules", "rules.yaml"], "--rules: names bundles"),
        ([URL, "-o", "state", "--rules", "none.yaml"], "none.yaml: cannot be read"),
        ([URL, "-o", "state", "-b", "hippocampus", "--preview"], "takes no other option of scans and outputs"),
        (
            [URL, "-o", "state", "-b", "hippocampus", "--output-type", "nifti"],
            "output types: expected some of dicom-seg",
        ),
        ([URL, "-o", "state", "-b", "hippocampus", "--days", "-1"], "days: expected 0 to 36500"),
        ([URL, "-b", "hippocampus", "--ca-file", "none.pem", "--dry-run"], "none.pem: cannot be read"),
        ([URL, "-b", "hippocampus", "--dry-run"], "search failed: "),
        (["http://a:b@127.0.0.1:9/x", "-b", "hippocampus", "--dry-run"], "Put them into ~/.netrc"),
        (["inbox", "-o", "out", "-b", "hippocampus", "--dry-run"], "are for an archive"),
        (["inbox", "-o", "out", "-b", "hippocampus", "--rules", "rules.yaml"], "are for an archive"),
        (["--status", "none"], "none: holds no state of `tomoseg watch`"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)
    done = run_inside("watch", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in complaint(done)
    assert [path.name for path in tmp_path.iterdir()] == ["rules.yaml"]
