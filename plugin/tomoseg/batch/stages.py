"""The three stages of a case: prepare (read and preprocess), predict (run the network), write."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Generic, TypeAlias, TypeVar

from tomoseg.batch.cases import Case
from tomoseg.batch.manifest import hash_run
from tomoseg.batch.options import OutputOptions
from tomoseg.batch.output import OutputWriter
from tomoseg.batch.progress import Progress
from tomoseg.core.errors import MemoryLimitError, OutputError, root_cause
from tomoseg.core.memory import explain_failure, is_out_of_memory
from tomoseg.core.reading import read_with
from tomoseg.data.formats import SCAN_SUFFIXES, has_suffix
from tomoseg.inference.segmentation import Segmentation
from tomoseg.inference.segmenter import Prepared, Segmenter
from tomoseg.inference.weights import hash_weights
from tomoseg.report.records import CaseReport

Content = TypeVar("Content")


@dataclass(frozen=True)
class Staged(Generic[Content]):
    """A case that is ready for the network, or for writing.

    Attributes:
        case: the scan and its files.
        content: of a case that is ready for the network, the preprocessed scan: tensors (channel, I', J', K') with
            their 4×4 affines to RAS+ mm, and the (I, J, K) grid that the labels will have; the voxels as they were read
            are gone. Of one that can be written, labels (I, J, K), or (label, I, J, K) if they may overlap, uint8 or
            uint16, in the scan's grid; the entropy, if there is one, (I, J, K) float32 in `[0, 1]`.
        scan: SHA-256 of the scan's files; empty for a case without manifest.
    """

    case: Case
    content: Content
    scan: str


@dataclass(frozen=True)
class ShortOfMemory:
    """A case that ran out of memory; with no other beside it, it may fit.

    Attributes:
        report: the outcome if it does not.
    """

    report: CaseReport


Outcome: TypeAlias = CaseReport | ShortOfMemory


class Stages:
    """Runs the stages of cases: a stage returns a failure instead of raising it, and passes on an earlier outcome.

    Several threads may run it: one case at a time is prepared, for two would take twice the memory; and the segmenter
    lets one at a time be predicted.

    Args:
        segmenter: the loaded bundle.
        output: which files are written.
    """

    def __init__(self, segmenter: Segmenter, output: OutputOptions) -> None:
        bundle, options = segmenter.bundle, segmenter.options
        self.run = hash_run(bundle, hash_weights(segmenter.weights), options, segmenter.precision)
        self._segmenter = segmenter
        self._one_is_prepared = Lock()
        self._writer = OutputWriter(self.run, output, options.uncertainty, bundle.input_channels)

    def segment(self, case: Case, progress: Progress | None = None) -> Outcome:
        """Run all stages of one case, one after the other."""
        return self.write(self.predict(self.prepare(case), progress or Progress()))

    def prepare(self, case: Case) -> Staged[Prepared] | Outcome:
        """Read and preprocess a scan, unless its manifest proves that it was segmented before."""
        try:
            if case.output_type.of_series and case.input.is_file() and has_suffix(case.input.name, SCAN_SUFFIXES):
                raise OutputError(f"{case.input}: expected a DICOM series: {case.output_type.name} refers to one")
            with ThreadPoolExecutor(1, "tomoseg-hash") as pool:  # the scan is hashed while it is read
                scan = pool.submit(self._hash, case)
                existing = self._writer.find_existing(case, scan.result)
                if existing is not None:
                    return existing
                with self._one_is_prepared:
                    prepared = self._segmenter.prepare(case.source)
                if case.output_type.of_series and prepared.series is not None:  # rather now than after the network
                    from tomoseg.data.dicom.reference import read_source  # pydicom takes 0.2 s

                    read_source(case.output, prepared.series, prepared.grid.shape)
                return Staged(case, prepared, scan.result())
        except Exception as error:  # the bundle's transforms, and the libraries that read files
            return _failure(case, error)

    def _hash(self, case: Case) -> str:
        """Return the SHA-256 of a scan; empty where no manifest needs it, or where the reader reports an error."""
        with suppress(OSError), read_with(self._segmenter.options.reading):
            return case.source.hash(case.output_type.name) if case.resumable else ""
        return ""

    def predict(self, case: Staged[Prepared] | Outcome, progress: Progress) -> Staged[Segmentation] | Outcome:
        """Run network and post-processing."""
        if not isinstance(case, Staged):
            return case
        try:
            result = self._segmenter.predict(case.content, partial(progress.on_window, Path(case.case.shown)))
            return Staged(case.case, result, case.scan)
        except Exception as error:  # the bundle's network, inferer and post-processing, and what runs them
            return _failure(case.case, error)

    def write(self, case: Staged[Segmentation] | Outcome) -> Outcome:
        """Write the files of a case."""
        if not isinstance(case, Staged):
            return case
        try:
            with read_with(self._segmenter.options.reading):
                return self._writer.write(case.case, case.content, case.scan)
        except Exception as error:  # the libraries that write files
            return _failure(case.case, error)


def _failure(case: Case, error: Exception) -> Outcome:
    """Return the outcome of a case that failed; the other cases go on."""
    # a limit that the user set holds with nothing else in memory, too
    short = not isinstance(error, MemoryLimitError) and is_out_of_memory(root_cause(error))
    report = CaseReport.failure(case.input, explain_failure(error, case.input, "for this scan"), case.series)
    return ShortOfMemory(report) if short else report
