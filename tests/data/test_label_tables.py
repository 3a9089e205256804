"""Names and colours of labels, in the files that 3D Slicer and ITK-SNAP read."""

from __future__ import annotations

import re
from pathlib import Path

from tomoseg.data.label_tables import write_label_tables
from tomoseg.data.labels import Label

TABLE = (Label(1, "left parotid", (255, 0, 10)), Label(300, 'the "second"  one é', (1, 2, 3)))


def test_both_programs_find_values_names_and_colours(tmp_path: Path) -> None:
    slicer, snap = write_label_tables(tmp_path / "ct_seg.nii.gz", TABLE)
    assert (slicer.name, snap.name) == ("ct_seg.ctbl", "ct_seg.label")
    first, *lines = slicer.read_text("utf-8").splitlines()
    assert first.startswith("# Color table file")  # by which 3D Slicer knows the file
    # 3D Slicer reads six words of each line, and shows an underscore as a blank
    words = [line.split() for line in lines if line[0] != "#"]
    assert [(int(word[0]), word[1].replace("_", " "), tuple(map(int, word[2:]))) for word in words] == [
        (0, "background", (0, 0, 0, 0)),
        (1, "left parotid", (255, 0, 10, 255)),
        (300, 'the "second" one é', (1, 2, 3, 255)),
    ]
    # ITK-SNAP reads seven numbers and what stands in quotation marks
    rows = [line for line in snap.read_text("utf-8").splitlines() if line[0] != "#"]
    found = [re.fullmatch(r'(\d+) (\d+) (\d+) (\d+) ([01]) ([01]) ([01]) "([^"]*)"', row) for row in rows]
    assert [one and one.groups() for one in found] == [
        ("0", "0", "0", "0", "0", "0", "0", "Clear Label"),
        ("1", "255", "0", "10", "1", "1", "1", "left parotid"),
        ("300", "1", "2", "3", "1", "1", "1", "the 'second'  one é"),
    ]
