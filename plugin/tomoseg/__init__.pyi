"""The public names for type checkers, and where `__init__.py` finds each of them."""

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
from tomoseg.core.version import __version__ as __version__
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
from tomoseg.training.calibration import calibrate as calibrate
from tomoseg.training.options import TrainingOptions as TrainingOptions
from tomoseg.training.run import train as train

__all__: list[str]
