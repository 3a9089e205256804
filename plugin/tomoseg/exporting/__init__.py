"""A bundle's network in the files of other runtimes, each checked against PyTorch before it is kept."""

from tomoseg.exporting.export import Export, export_bundle
from tomoseg.exporting.formats import FORMATS, MAX_DICE_LOSS

__all__ = ["FORMATS", "MAX_DICE_LOSS", "Export", "export_bundle"]
