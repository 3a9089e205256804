"""Make a bundle for a labelled dataset: the function behind `tomoseg plan`."""

import os

from tomoseg.data.inspection.scan import OnScan
from tomoseg.planning.bundle_writer import plan_bundle
from tomoseg.planning.options import PlanningOptions
from tomoseg.planning.rules import TrainingPlan


def plan(
    dataset: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: PlanningOptions | None = None,
    *,
    on_scan: OnScan | None = None,
) -> TrainingPlan:
    """Make a MONAI bundle that can be trained on a labelled dataset, each choice with its reason.

    Args:
        dataset: folder of the Decathlon, of nnU-Net, or with folders `images` and `labels`; label maps alone
            are enough where the options have `synthetic=1`.
        output: the bundle's folder, which is made.
        options: options of the plan.
        on_scan: called with the path of each scan before it is read.

    Returns:
        The choices and their reasons, as configs/plan.json holds them.

    Raises:
        UsageError: the folder is no dataset, or the output cannot be.
        DatasetError: the dataset has errors.
        OutputError: the bundle cannot be written.

    Example:
        >>> import tomoseg
        >>> made = tomoseg.plan("dataset", "my_bundle", tomoseg.PlanningOptions(device="cpu", preset="small"))
        >>> made.modality, made.labels
        ('MR', {1: 'Front', 2: 'Back part'})
    """
    asked = options or PlanningOptions()
    return plan_bundle(
        dataset, output, asked.budget, asked.modality, imbalance=asked.imbalance, synthetic=asked.synthetic,
        overwrite=asked.overwrite, on_scan=on_scan,
    )  # fmt: skip
