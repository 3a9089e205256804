"""The segmenter, with no more imported than it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tomoseg.bundle.options import Options
from tomoseg.bundle.registry import describe_all, find_bundle
from tomoseg.cli.lazy_import import collector_paused, deferred
from tomoseg.core.errors import UsageError

if TYPE_CHECKING:
    from tomoseg.inference.segmenter import Segmenter

# what MONAI imports at once and few bundles use; torch.distributed.optim is ignite's wish, and brings sympy
SELDOM_USED = (
    "itk", "matplotlib", "nrrd", "pandas", "pydicom", "scipy", "skimage", "sklearn", "torch.distributed.optim",
)  # fmt: skip


def refuse_no_bundle(name: str) -> None:
    """Raise UsageError, with the names to choose from, if none was given."""
    if not name:
        raise UsageError(f"expected a bundle with -b; choose one of: {describe_all()}")


def load_segmenter(bundle: str, options: Options) -> Segmenter:
    """Load a bundle by its name or folder; with it come torch and MONAI, which take 1 to 2 s."""
    chosen = find_bundle(bundle)
    import_engine()
    from tomoseg.inference.segmenter import Segmenter

    return Segmenter(chosen, options)


def import_engine() -> None:
    """Import what segments scans."""
    with collector_paused():
        import torch  # noqa: F401 - what it needs is not deferred

        with deferred(*SELDOM_USED):
            import tomoseg.batch.run  # noqa: F401 - and so is what it needs
