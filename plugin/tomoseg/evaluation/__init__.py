"""How good label maps are: compared with references, case by case and label by label, and summarised."""

from tomoseg.evaluation.results import Evaluation
from tomoseg.evaluation.run import Rules, evaluate, save_evaluation

__all__ = ["Evaluation", "Rules", "evaluate", "save_evaluation"]
