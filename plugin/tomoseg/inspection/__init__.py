"""Look at scans and labelled datasets before anybody works with them."""

from tomoseg.inspection.fitness import require_negatives, require_trainable, trainable_labels
from tomoseg.inspection.scan import ScanFindings
from tomoseg.inspection.survey import Survey, inspect_paths
from tomoseg.inspection.tables import Table, list_problems, list_remarks, tabulate

__all__ = [
    "ScanFindings",
    "Survey",
    "Table",
    "inspect_paths",
    "list_problems",
    "list_remarks",
    "require_negatives",
    "require_trainable",
    "tabulate",
    "trainable_labels",
]
