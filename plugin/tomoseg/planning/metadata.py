"""metadata.json of a planned bundle."""

from importlib.metadata import packages_distributions, version
from typing import Any

from tomoseg.bundle.configs import Json
from tomoseg.data.datasets import UNNAMED_CHANNELS
from tomoseg.planning.fingerprint import Fingerprint
from tomoseg.planning.label_table import label_table
from tomoseg.planning.layout import Layout
from tomoseg.planning.rules import TrainingPlan

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
REQUIRED_PACKAGES = ("fire", "nibabel", "pytorch-ignite", "scipy")


def make_metadata(plan: TrainingPlan, fingerprint: Fingerprint, layout: Layout, title: str, source: str) -> Json:
    """Return metadata.json.

    Args:
        plan: what was decided.
        fingerprint: what the dataset is like.
        layout: how the dataset's files are named.
        title: what the dataset calls itself.
        source: where it comes from, and under which licence.
    """
    names = {0: "background", **plan.labels}
    listed = ", ".join(f"{value}: {name}" for value, name in names.items())
    kind = {"CT": "CT", "MR": "MRI"}[plan.modality]
    channels = fingerprint.channels if len(fingerprint.channels) > 1 else UNNAMED_CHANNELS
    inputs = "one channel" if channels is UNNAMED_CHANNELS else f"{len(channels)} channels ({', '.join(channels)})"
    table = label_table(fingerprint.labels)
    packages = {name: _version(name) for name in REQUIRED_PACKAGES}
    if layout.itk:
        packages["itk"] = _version(packages_distributions()["itk"][0])  # it comes in parts, as itk-io
    return {
        "schema": SCHEMA,
        "version": "0.1.0",
        "changelog": {"0.1.0": "planned by tomoseg"},
        "monai_version": _version("monai"),
        "pytorch_version": _version("torch"),
        "numpy_version": _version("numpy"),
        "required_packages_version": packages,
        "supported_apps": {},
        "name": f"{title} {plan.modality} segmentation",
        "task": f"Segmentation of {', '.join(plan.labels.values())} in {kind}",
        "description": f"A 3D U-Net (DynUNet) that labels {', '.join(plan.labels.values())} in {kind}, "
        "in the scan's own grid",
        "authors": "planned by tomoseg; name yourself here",
        "copyright": "name the owner of the weights here",
        "data_source": source,
        "data_type": "nifti",
        "image_classes": f"{inputs}, {kind}",
        "label_classes": listed,
        "pred_classes": f"{len(names)} channels of scores: {listed}",
        "eval_metrics": {},
        "intended_use": "Research only. Not a medical device and not for diagnosis",
        "references": [
            "Isensee, F., et al.: nnU-Net: a self-configuring method for deep learning-based biomedical image "
            "segmentation. Nature Methods 18, 203-211 (2021). https://doi.org/10.1038/s41592-020-01008-z"
        ],
        **({"label_table": table} if table else {}),
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "hounsfield" if plan.modality == "CT" else "magnitude",
                    "modality": plan.modality,
                    "num_channels": len(channels),
                    **_window(plan),
                    "channel_def": {str(index): channel for index, channel in enumerate(channels)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(names),
                    **_window(plan),
                    "channel_def": {str(value): name for value, name in names.items()},
                }
            },
        },
    }


def _window(plan: TrainingPlan) -> dict[str, Any]:
    return {"spatial_shape": list(plan.patch), "dtype": "float32", "value_range": [], "is_patch_data": True}


def _version(package: str) -> str:
    """Return the release of a package, without what says how it was built."""
    return version(package).partition("+")[0]
