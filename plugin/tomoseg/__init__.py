"""3D segmentation of CT and MRI with MONAI bundles.

```python
from tomoseg import Segmenter

segmenter = Segmenter.from_bundle("hippocampus_mr_segmentation")
result = segmenter("scan.nii.gz")
result.volumes_ml
result.save("seg.nii.gz")
```

Behind each command of `tomoseg` stands a function in here: `segment_batch`, `watch`, `inspect` (the command check),
`plan`, `train`, `evaluate`, `calibrate`, `export`, `find_bundle` (info), `registered_names` (bundles),
`examine_installation` (doctor), `LabelApp` (label-app) and `serve_label_app` (label-server). All that is not named in
`__all__` is private.
"""

from importlib import import_module
from pkgutil import get_data

# `import tomoseg` must not wait for torch and monai (about 5 s): each name is imported when it is first used, from the
# module that the stub for type checkers names, "from MODULE import NAME as NAME"
_STUB = [line.split() for line in (get_data(__name__, "__init__.pyi") or b"").decode().splitlines()]
_HOME = {words[-1]: words[1] for words in _STUB if words[:1] == ["from"]}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'tomoseg' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
