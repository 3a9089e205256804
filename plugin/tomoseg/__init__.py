"""3D segmentation of CT and MRI with MONAI bundles.

```python
from tomoseg import Segmenter

segmenter = Segmenter.from_bundle("hippocampus_mr_segmentation")
result = segmenter("scan.nii.gz")
result.volumes_ml
result.save("seg.nii.gz")
```
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from tomoseg.core.version import __version__

__all__ = [
    "Bundle",
    "Grid",
    "OutputOptions",
    "Progress",
    "Report",
    "Segmentation",
    "Segmenter",
    "TomosegError",
    "Volume",
    "__version__",
    "find_bundle",
    "read_volume",
    "registered_names",
    "segment_batch",
]

if TYPE_CHECKING:
    from tomoseg.batch.output import OutputOptions
    from tomoseg.batch.progress import Progress
    from tomoseg.batch.run import segment_batch
    from tomoseg.bundle.metadata import Bundle
    from tomoseg.bundle.registry import find_bundle, registered_names
    from tomoseg.core.errors import TomosegError
    from tomoseg.data.geometry import Grid
    from tomoseg.data.read import read_volume
    from tomoseg.data.volume import Volume
    from tomoseg.inference.segmentation import Segmentation
    from tomoseg.inference.segmenter import Segmenter
    from tomoseg.report.records import Report

# `import tomoseg` must not wait for torch and monai (about 5 s): each name is imported when it is first used
_HOME = {
    "Bundle": "bundle.metadata",
    "Grid": "data.geometry",
    "OutputOptions": "batch.output",
    "Progress": "batch.progress",
    "Report": "report.records",
    "Segmentation": "inference.segmentation",
    "Segmenter": "inference.segmenter",
    "TomosegError": "core.errors",
    "Volume": "data.volume",
    "find_bundle": "bundle.registry",
    "read_volume": "data.read",
    "registered_names": "bundle.registry",
    "segment_batch": "batch.run",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'tomoseg' has no attribute {name!r}")
    return getattr(import_module(f"tomoseg.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
