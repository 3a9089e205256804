"""Import what segments scans, with no more than it needs."""

from tomoseg.bundle.registry import describe_all
from tomoseg.cli.lazy_import import collector_paused, deferred
from tomoseg.cli.trust import find_trusted
from tomoseg.core.errors import UsageError
from tomoseg.core.reader_process import start_reading

# what few bundles use: MONAI imports it at once, and our search for heads SimpleITK;
# torch.distributed.optim is ignite's wish, and brings sympy
SELDOM_USED = (
    "itk", "matplotlib", "nrrd", "pandas", "pydicom", "scipy", "SimpleITK", "skimage", "sklearn",
    "torch.distributed.optim",
)  # fmt: skip


def import_engine(bundle: str, trust: bool) -> None:
    """Import what segments scans, torch and MONAI among it, which takes 1 to 2 s; if there is a bundle that may run.

    Args:
        bundle: name or folder.
        trust: let it run without asking.

    Raises:
        UsageError: no bundle was given; with the names to choose from.
        BundleError: there is no such bundle.
    """
    if not bundle:
        raise UsageError(f"expected a bundle with -b. Choose one of: {describe_all()}")
    find_trusted(bundle, trust)
    start_reading("tomoseg.data.read")
    with collector_paused():
        import torch  # noqa: F401 - its own imports are not deferred

        with deferred(*SELDOM_USED):
            import tomoseg.batch.segment
            import tomoseg.batch.watch  # noqa: F401 - with its own imports
