"""3D segmentation of CT and MRI with MONAI bundles.

```python
from tomoseg import Segmenter

segmenter = Segmenter.from_bundle("hippocampus_mr_segmentation")
result = segmenter("scan.nii.gz")
result.volumes_ml
result.save("seg.nii.gz")
```

Behind each command of `tomoseg` stands a function in here: `segment_batch`, `watch`, `inspect` (the command check),
`plan`, `train`, `evaluate`, `export`, `find_bundle` (info), `registered_names` (bundles), `examine_installation`
(doctor), `LabelApp` (label-app) and `serve_label_app` (label-server). All that is not named in `__all__` is private.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from tomoseg.core.version import __version__ as __version__

if TYPE_CHECKING:
    from tomoseg.batch.options import ExecutorOptions as ExecutorOptions
    from tomoseg.batch.options import OutputOptions as OutputOptions
    from tomoseg.batch.progress import Progress as Progress
    from tomoseg.batch.run import BatchInterruptedError as BatchInterruptedError
    from tomoseg.batch.segment import ReportsError as ReportsError
    from tomoseg.batch.segment import segment_batch as segment_batch
    from tomoseg.batch.watch import watch as watch
    from tomoseg.bundle.metadata import Bundle as Bundle
    from tomoseg.bundle.options import RunOptions as RunOptions
    from tomoseg.bundle.registry import find_bundle as find_bundle
    from tomoseg.bundle.registry import registered_names as registered_names
    from tomoseg.cli.doctor import examine_installation as examine_installation
    from tomoseg.convert.export.export import export as export
    from tomoseg.core.errors import TomosegError as TomosegError
    from tomoseg.core.reading import ReadOptions as ReadOptions
    from tomoseg.core.reading import read_with as read_with
    from tomoseg.data.geometry import Grid as Grid
    from tomoseg.data.inspection.inspection_report import inspect as inspect
    from tomoseg.data.read import read_volume as read_volume
    from tomoseg.data.volume import Volume as Volume
    from tomoseg.evaluation.options import EvaluationOptions as EvaluationOptions
    from tomoseg.evaluation.run import evaluate as evaluate
    from tomoseg.inference.evaluator import StreamingEvaluator as StreamingEvaluator
    from tomoseg.inference.segmentation import Segmentation as Segmentation
    from tomoseg.inference.segmenter import Segmenter as Segmenter
    from tomoseg.label_app.folder import LabelApp as LabelApp
    from tomoseg.label_app.options import ServerOptions as ServerOptions
    from tomoseg.label_app.server import serve_label_app as serve_label_app
    from tomoseg.planning.bundle_writer import plan as plan
    from tomoseg.planning.options import PlanningOptions as PlanningOptions
    from tomoseg.report.records import Report as Report
    from tomoseg.training.options import TrainingOptions as TrainingOptions
    from tomoseg.training.run import train as train

# `import tomoseg` must not wait for torch and monai (about 5 s): each name is imported when it is first used
_HOME = {
    "BatchInterruptedError": "batch.run",
    "Bundle": "bundle.metadata",
    "EvaluationOptions": "evaluation.options",
    "ExecutorOptions": "batch.options",
    "Grid": "data.geometry",
    "LabelApp": "label_app.folder",
    "ServerOptions": "label_app.options",
    "OutputOptions": "batch.options",
    "PlanningOptions": "planning.options",
    "Progress": "batch.progress",
    "ReadOptions": "core.reading",
    "Report": "report.records",
    "ReportsError": "batch.segment",
    "RunOptions": "bundle.options",
    "Segmentation": "inference.segmentation",
    "Segmenter": "inference.segmenter",
    "StreamingEvaluator": "inference.evaluator",
    "TomosegError": "core.errors",
    "TrainingOptions": "training.options",
    "Volume": "data.volume",
    "evaluate": "evaluation.run",
    "examine_installation": "cli.doctor",
    "export": "convert.export.export",
    "find_bundle": "bundle.registry",
    "inspect": "data.inspection.inspection_report",
    "plan": "planning.bundle_writer",
    "read_volume": "data.read",
    "read_with": "core.reading",
    "registered_names": "bundle.registry",
    "segment_batch": "batch.segment",
    "serve_label_app": "label_app.server",
    "train": "training.run",
    "watch": "batch.watch",
}
__all__ = sorted(["__version__", *_HOME])


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'tomoseg' has no attribute {name!r}")
    return getattr(import_module(f"tomoseg.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
