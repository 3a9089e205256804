"""Commands that open a result in the viewers of this computer."""

import shlex
from pathlib import Path
from shutil import which

from tomoseg.data.formats import NIFTI_SUFFIXES, VOLUME_SUFFIXES, has_suffix, strip_suffix
from tomoseg.data.label_tables import SLICER_SUFFIX, SNAP_SUFFIX


def list_viewers(scan: Path, labels: Path) -> list[str]:
    """Return a command for each installed viewer; none for files that these open in another way, such as DICOM.

    Args:
        scan: a file.
        labels: its label map in NIfTI, with the tables beside it.
    """
    if not (scan.is_file() and has_suffix(scan.name, VOLUME_SUFFIXES) and has_suffix(labels.name, NIFTI_SUFFIXES)):
        return []
    stem = labels.with_name(strip_suffix(labels.name))
    colours = f"slicer.util.loadColorTable({f'{stem}{SLICER_SUFFIX}'!r}).GetID()"
    code = f"slicer.util.loadVolume({str(scan)!r}); "
    code += f"slicer.util.loadSegmentation({str(labels)!r}, {{'colorNodeID': {colours}}})"
    commands = (
        ("Slicer", "--python-code", code),
        ("itksnap", "-g", str(scan), "-s", str(labels), "-l", f"{stem}{SNAP_SUFFIX}"),
    )
    return [shlex.join(command) for command in commands if which(command[0])]
