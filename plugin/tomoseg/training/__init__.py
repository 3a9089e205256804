"""A bundle's own training, run by MONAI: resumed exactly, saved atomically, shown to people."""

from tomoseg.training.cross_validation import CrossValidation, cross_validate
from tomoseg.training.options import EVERY, NONE, VALIDATION, TrainingOptions, parse_fold
from tomoseg.training.training import Trained, check_data, check_negatives, install, train
from tomoseg.training.unlabelled import Unlabelled, check_unlabelled
from tomoseg.training.workflow import default_fold, is_first

__all__ = [
    "EVERY",
    "NONE",
    "VALIDATION",
    "CrossValidation",
    "Trained",
    "TrainingOptions",
    "Unlabelled",
    "check_data",
    "check_negatives",
    "check_unlabelled",
    "cross_validate",
    "default_fold",
    "install",
    "is_first",
    "parse_fold",
    "train",
]
