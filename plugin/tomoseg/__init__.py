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

__version__ = "0.1.0"

__all__ = [
    "Bundle",
    "Grid",
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
    from tomoseg.batch import segment_batch
    from tomoseg.bundle import Bundle
    from tomoseg.errors import TomosegError
    from tomoseg.geometry import Grid
    from tomoseg.registry import find_bundle, registered_names
    from tomoseg.report import Report
    from tomoseg.segmentation import Segmentation
    from tomoseg.segmenter import Segmenter
    from tomoseg.volumes import Volume, read_volume

# `import tomoseg` must not wait for torch and monai (about 5 s): each name is imported when it is first used
_HOME = {
    "Bundle": "bundle",
    "Grid": "geometry",
    "Report": "report",
    "Segmentation": "segmentation",
    "Segmenter": "segmenter",
    "TomosegError": "errors",
    "Volume": "volumes",
    "find_bundle": "registry",
    "read_volume": "volumes",
    "registered_names": "registry",
    "segment_batch": "batch",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'tomoseg' has no attribute {name!r}")
    return getattr(import_module(f"tomoseg.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
