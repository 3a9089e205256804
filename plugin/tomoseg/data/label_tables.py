"""Tables of names and colours beside a NIfTI label map, which cannot hold them, for 3D Slicer and ITK-SNAP.

Formats: https://slicer.readthedocs.io/en/latest/developer_guide/modules/colors.html, and ITK-SNAP's label descriptions.
"""

from collections.abc import Sequence
from pathlib import Path

from tomoseg.core.files import atomic_file
from tomoseg.data.formats import strip_suffix
from tomoseg.data.labels import Label

SLICER_SUFFIX, SNAP_SUFFIX = ".ctbl", ".label"


def write_label_tables(label_map: Path, table: Sequence[Label]) -> list[Path]:
    """Write the tables beside a label map, and return them.

    Args:
        label_map: names the files: `NAME.ctbl` and `NAME.label` beside `NAME.nii.gz`.
        table: its labels.

    Raises:
        OutputError: they cannot be written.
    """
    slicer = ["# Color table file", f"# {len(table) + 1} values", "0 background 0 0 0 0"]
    snap = ["# ITK-SnAP Label Description File", "# IDX R G B A VIS MSH LABEL", '0 0 0 0 0 0 0 "Clear Label"']
    for label in table:
        colour = " ".join(map(str, label.colour))
        slicer.append(f"{label.value} {'_'.join(label.name.split())} {colour} 255")
        name = label.name.replace('"', "'")
        snap.append(f'{label.value} {colour} 1 1 1 "{name}"')
    paths = []
    for suffix, lines in ((SLICER_SUFFIX, slicer), (SNAP_SUFFIX, snap)):
        paths.append(label_map.with_name(strip_suffix(label_map.name) + suffix))
        with atomic_file(paths[-1]) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths
