"""metadata.json of the bundles that tomoseg writes."""

from collections.abc import Mapping, Sequence
from importlib.metadata import packages_distributions, version

from tomoseg.bundle.configs import Json, as_plain
from tomoseg.data.datasets import UNNAMED_CHANNELS
from tomoseg.planning.fingerprint import Fingerprint, LabelPrint
from tomoseg.planning.label_table import label_table
from tomoseg.planning.layout import Layout
from tomoseg.planning.rules import TrainingPlan
from tomoseg.planning.template import render_config

REQUIRED_PACKAGES = ("fire", "nibabel", "pytorch-ignite", "scipy")


def make_metadata(plan: TrainingPlan, fingerprint: Fingerprint, layout: Layout, title: str, source: str) -> Json:
    """Return metadata.json of a planned bundle.

    Args:
        plan: the decisions.
        fingerprint: fingerprint of the dataset.
        layout: how the dataset's files are named.
        title: what the dataset calls itself.
        source: where it comes from, and under which licence.
    """
    inputs = fingerprint.channels if len(fingerprint.channels) > 1 else UNNAMED_CHANNELS
    metadata = describe_bundle(plan.labels, plan.patch, plan.modality, inputs, title, fingerprint.labels)
    if layout.itk:
        packages = metadata["required_packages_version"]
        packages["itk"] = _version(packages_distributions()["itk"][0])  # it comes in parts, as itk-io
    return metadata | {"data_source": as_plain(source)}


def describe_bundle(
    labels: Mapping[int, str],
    patch: Sequence[int],
    modality: str,
    inputs: Sequence[str],
    title: str,
    prints: Sequence[LabelPrint] = (),
) -> Json:
    """Return metadata.json of a bundle that nothing is known of but these.

    Args:
        labels: names of the label map's values, background left out.
        patch: the window, in voxels.
        modality: "CT", "MR" or another of DICOM's.
        inputs: names of the scan's channels.
        title: of the training data.
        prints: what the training data say of the labels, in their order; nothing by default.
    """
    metadata: Json = as_plain(
        render_config(
            "metadata",
            outputs={0: "background", **labels},
            patch=list(patch),
            modality=modality,
            title=title,
            inputs=dict(enumerate(inputs)),
            table=label_table(prints or [LabelPrint(value, name) for value, name in labels.items()]),
            packages={name: _version(name) for name in REQUIRED_PACKAGES},
            version=_version,
        )
    )
    return metadata


def _version(package: str) -> str:
    """Return the release of a package, without what says how it was built."""
    return version(package).partition("+")[0]
