"""The model card of a planned bundle, docs/README.md, and what stands beside it."""

from __future__ import annotations

from tomoseg.bundle.card import EMPTY_RESULTS
from tomoseg.planning.data_config import default_fold
from tomoseg.planning.fingerprint import Fingerprint
from tomoseg.planning.layout import Layout
from tomoseg.planning.presets import Budget
from tomoseg.planning.rules import Plan

LICENSE = """Configuration and documentation of this bundle were written by tomoseg and are under the Apache License,
Version 2.0: https://www.apache.org/licenses/LICENSE-2.0

Weights are derived from the data that they were trained on; see docs/data_license.txt.
"""
LOGGING = """[loggers]
keys=root

[handlers]
keys=consoleHandler

[formatters]
keys=fullFormatter

[logger_root]
level=INFO
handlers=consoleHandler

[handler_consoleHandler]
class=StreamHandler
level=INFO
formatter=fullFormatter
args=(sys.stdout,)

[formatter_fullFormatter]
format=%(asctime)s - %(name)s - %(levelname)s - %(message)s
"""


def data_license(title: str, source: str) -> str:
    """Return docs/data_license.txt."""
    return f"Data: {title}\nSource and licence, as its dataset.json says: {source}\n"


def write_card(
    plan: Plan, fingerprint: Fingerprint, budget: Budget, layout: Layout, name: str, title: str, source: str
) -> str:
    """Return docs/README.md.

    Args:
        plan: what was decided, and why.
        fingerprint: what the dataset is like.
        budget: what was allowed.
        layout: how the dataset's files are named.
        name: of the bundle's folder.
        title, source: what the dataset calls itself, and where it comes from.
    """
    labels = ", ".join(f"{label} ({value})" for value, label in plan.labels.items())
    held = "the cases that the dataset keeps for validation" if default_fold(layout) == "validation" else "fold 0"
    return f"""# {title}, {plan.modality}

Labels {labels} in {plan.modality} volumes. The result is a `uint8` label map in the scan's own grid.

A pure MONAI bundle: JSON and weights, no code. `tomoseg plan` wrote it for {budget.device} and
{budget.memory / 1e9:g} GB of memory, preset `{budget.preset}`; `configs/plan.json` has every choice for programs.

## Intended use

Research, by people who look at the results. It is no medical device. Say here what it was measured on, and what it must
not be used for.

## Data

{source}

{_data_table(fingerprint)}

| label | name | cases with any voxels | cases where it is told as annotated | median volume (mL) |
|---|---|---|---|---|
{_label_rows(plan, fingerprint)}

## Choices, and why

| choice | | why |
|---|---|---|
{_choice_rows(plan)}

## Training

{_capital(plan.choices()["loss"])} on {plan.network.heads + 1} levels weighted 1, 1/2, 1/4 and so on; AdamW,
learning rate 1e-3, polynomial decay with power 0.9, gradients clipped at 12; a moving average of the weights is
validated and saved; bf16 or fp16 autocast. {plan.steps} steps an epoch, {plan.epochs["cpu"]} epochs on a CPU,
{plan.epochs["cuda"]} on a GPU.
Validation is on {held}. Everything is in `configs/train.json`.

```
tomoseg train {name} --data DATASET
```

or without the plugin, from the folder above the bundle, or inside it with `configs/…`; from elsewhere give
`--bundle_root`:

```
python -m monai.bundle run --config_file {name}/configs/train.json --dataset_dir DATASET
python -m monai.bundle run --config_file {name}/configs/evaluate.json --dataset_dir DATASET \\
    --checkpoint {name}/train/model.pt
python -m monai.bundle run --config_file {name}/configs/inference.json --dataset_dir FOLDER --output_dir OUT
torchrun --standalone --nnodes=1 --nproc_per_node=2 -m monai.bundle run \\
    --config_file "['{name}/configs/train.json','{name}/configs/multi_gpu_train.json']" --dataset_dir DATASET
```

With scans of the same kind that nobody labelled, in a folder of their own, `tomoseg train {name} --data DATASET
--unlabelled FOLDER` learns from these, too, or without the plugin:

```
python -m monai.bundle run --config_file "['{name}/configs/train.json','{name}/configs/semi_supervised.json']" \\
    --dataset_dir DATASET --unlabelled_dir FOLDER
```

A step then takes about twice the time and memory.

`--negatives DIR` (without the plugin `--negatives_dir DIR`) names a folder of NIfTI scans that hold none of the labels;
one window in eight is then taken from them. `--fold K` holds fold K out, `--fold none` nothing; the validation shown on
the way is then on training cases.

{EMPTY_RESULTS}
## References

1. Isensee, F., et al. nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation. Nature
   Methods 18, 203–211 (2021). https://doi.org/10.1038/s41592-020-01008-z
"""


def _data_table(fingerprint: Fingerprint) -> str:
    rows = {
        "training cases": str(fingerprint.cases),
        "validation cases of its own": str(fingerprint.validation_cases),
        "median shape": "×".join(map(str, fingerprint.median_shape)),
        "median spacing (mm)": "×".join(f"{mm:g}" for mm in fingerprint.median_spacing_mm),
        "foreground intensities": f"mean {fingerprint.intensity_mean:g}, SD {fingerprint.intensity_sd:g}, "
        f"0.5th to 99.5th percentile {fingerprint.intensity_low:g} to {fingerprint.intensity_high:g}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def _label_rows(plan: Plan, fingerprint: Fingerprint) -> str:
    return "\n".join(
        f"| {value} | {name} | {label.cases} | {label.annotated} | {label.median_ml:g} |"
        for (value, name), label in zip(plan.labels.items(), fingerprint.labels, strict=True)
    )


def _choice_rows(plan: Plan) -> str:
    rows = []
    for choice, value in plan.choices().items():
        if isinstance(value, dict):
            shown = ", ".join(f"{key} {entry}" for key, entry in value.items())
        elif isinstance(value, list):
            shown = "×".join(map(str, value)) or "none"
        else:
            shown = str(value)
        rows.append(f"| {choice.replace('_', ' ')} | {shown} | {plan.reasons[choice]} |")
    return "\n".join(rows)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
