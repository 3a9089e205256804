"""From a labelled dataset to a bundle: a fingerprint, rules that decide by it, and the files."""

from tomoseg.planning.bundle_writer import plan_bundle
from tomoseg.planning.imbalance import Imbalance
from tomoseg.planning.presets import PRESETS, Budget
from tomoseg.planning.rules import Plan

__all__ = ["PRESETS", "Budget", "Imbalance", "Plan", "plan_bundle"]
