from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tomoseg import TomosegError
from tomoseg.batch.archive.rules import FoundSeries, Rule, choose_rule, read_rules

RULES = """
- bundle: head_neck
  modality: CT
  body_part: "HEAD*"
  description: "*neck*"
  station: CT-?
  images: [30, 600]
  output_types: [dicom-sr, rtstruct]
- {bundle: hippocampus, modality: MR, description: "*t1*"}
"""
NECK = FoundSeries("1.2", "1.2.3", 120, "CT", "HEADNECK", "Neck 2 mm", "ct-1")


@pytest.mark.parametrize(
    ("series", "bundle"),
    [
        (NECK, "head_neck"),
        (replace(NECK, images=29), None),
        (replace(NECK, images=601), None),
        (replace(NECK, body_part=""), None),
        (replace(NECK, station="CT-12"), None),
        (replace(NECK, modality="MR"), None),
        (replace(NECK, modality="MR", description="sag T1 3D"), "hippocampus"),
        (replace(NECK, modality="SEG"), None),
        (replace(NECK, description="neck\n<script>"), "head_neck"),
    ],
)
def test_the_first_rule_that_fits_counts(series: FoundSeries, bundle: str | None, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(RULES)
    rule = choose_rule(read_rules(tmp_path / "rules.yaml"), series)
    assert (rule and rule.bundle) == bundle
    assert choose_rule([Rule("a", "CT"), Rule("b", "CT")], NECK) == Rule("a", "CT")


def test_the_rules_of_the_documentation_are_some(checkout: Path, tmp_path: Path) -> None:
    page = (checkout / "plugin" / "docs" / "tasks" / "archive.md").read_text("utf-8")
    (tmp_path / "rules.yaml").write_text(page.partition("```yaml\n")[2].partition("```")[0])
    assert [rule.bundle for rule in read_rules(tmp_path / "rules.yaml")] == ["head_neck", "hippocampus"]


BOMB = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 8)}]\n" for n in range(20)
)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "expected a list of rules"),
        ("bundle: a", "expected a list of rules, got dict"),
        ("- [", "cannot be read as a list of rules"),
        ("- {modality: CT}", "rule 1: .*bundle"),
        ("- {bundle: a, modality: SR}", "rule 1: modality: expected CT or MR, got 'SR'"),
        ("- {bundle: a, modality: CT, colour: red}", "rule 1"),
        ("- {bundle: a, modality: CT, images: 3}", "rule 1"),
        ("- {bundle: a, modality: CT, output_types: [nifti]}", "rule 1: output types: expected some of dicom-seg"),
        ("- {bundle: a, modality: CT, output_types: []}", "rule 1: output types"),
        ("- {bundle: a, modality: CT, output_types: dicom-sr}", "rule 1"),
        ("- !!python/object/apply:os.system ['touch x']", "cannot be read as a list of rules"),
        (BOMB, "expected a list of rules, got dict"),
        ("[" * 100_000, "cannot be read as a list of rules"),
        ("- a\n" * 500_000, "cannot be read as a list of rules: expected at most"),
    ],
)
def test_a_wrong_file_is_one_line(text: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text(text)
    with pytest.raises(TomosegError, match=rf"rules\.yaml: {complaint}") as caught:
        read_rules(tmp_path / "rules.yaml")
    assert len(str(caught.value)) < 600
    with pytest.raises(TomosegError, match=r"none\.yaml: cannot be read"):
        read_rules(tmp_path / "none.yaml")
