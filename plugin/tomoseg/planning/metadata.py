"""metadata.json of a planned bundle."""

from importlib.metadata import packages_distributions, version

from tomoseg.bundle.configs import Json
from tomoseg.data.datasets import UNNAMED_CHANNELS
from tomoseg.planning.fingerprint import Fingerprint
from tomoseg.planning.label_table import label_table
from tomoseg.planning.layout import Layout
from tomoseg.planning.rules import TrainingPlan
from tomoseg.planning.template import render_config

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
    outputs = {0: "background", **plan.labels}
    inputs = fingerprint.channels if len(fingerprint.channels) > 1 else UNNAMED_CHANNELS
    packages = {name: _version(name) for name in REQUIRED_PACKAGES}
    if layout.itk:
        packages["itk"] = _version(packages_distributions()["itk"][0])  # it comes in parts, as itk-io
    return render_config(
        "metadata",
        plan=plan,
        title=title,
        source=source,
        kind={"CT": "CT", "MR": "MRI"}[plan.modality],
        inputs=dict(enumerate(inputs)),
        channels=f"{len(inputs)} channels ({', '.join(inputs)})" if len(inputs) > 1 else "one channel",
        outputs=outputs,
        listed=", ".join(f"{value}: {name}" for value, name in outputs.items()),
        table=label_table(fingerprint.labels),
        packages=packages,
        version=_version,
    )


def _version(package: str) -> str:
    """Return the release of a package, without what says how it was built."""
    return version(package).partition("+")[0]
