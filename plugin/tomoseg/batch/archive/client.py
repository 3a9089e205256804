"""A DICOMweb archive: its series, their images, and the way back for results; dicomweb-client does the protocol.

An archive is not believed: the size of each answer is limited, redirects are not followed, and images are taken only
if they belong to the series that was asked for. Its texts go into no error, for they may hold the patient's data.
"""

import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from pydicom.config import disable_value_validation

from tomoseg.batch.archive.rules import FoundSeries
from tomoseg.core.errors import TomosegError, UsageError, VolumeError, errors_as, import_package, one_line
from tomoseg.core.files import require_regular, staging_folder
from tomoseg.core.quiet import suppress_warnings
from tomoseg.data.dicom.file_reader import read_dataset

MAX_ANSWER_BYTES = 1 << 26  # of a search
MAX_ANSWER_S = 3600.0
MAX_SILENCE_S = 60.0
SERIES_PER_PAGE = 1000
UID = re.compile(r"(?=.{1,64}$)\d+(\.\d+)*")  # so it may name a file
# attributes of a search, and the field of `FoundSeries` that each becomes
TAGS = {
    "0020000D": "study", "0020000E": "uid", "00080060": "modality", "00180015": "body_part",
    "0008103E": "description", "00081010": "station", "00201209": "images",
}  # fmt: skip
# without a change of the transfer syntax, which would be work for the archive
AS_STORED = 'multipart/related; type="application/dicom"; transfer-syntax=*'
MAX_SERIES = 1_000_000
REFUSED = "FailedSOPSequence"


class ArchiveError(TomosegError, RuntimeError):
    """An archive that is down, slow or refuses; the same may work later."""


class TooLargeError(VolumeError):
    """An answer beyond the limit."""


class _Session(requests.Session):
    """Reads answers up to a limit of bytes, and follows no redirect."""

    limit = MAX_ANSWER_BYTES

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        kwargs |= {"stream": True, "allow_redirects": False, "timeout": MAX_SILENCE_S}
        if "multipart" in str(request.headers.get("Accept")):
            request.headers["Accept"] = AS_STORED
        if self.verify is not True:  # REQUESTS_CA_BUNDLE would take its place: psf/requests#3829
            kwargs["verify"] = self.verify
        response = super().send(request, **kwargs)
        if response.is_redirect:
            response.close()
            raise requests.TooManyRedirects("it redirects to another address. Give the final one")
        read, end = response.iter_content, time.monotonic() + MAX_ANSWER_S

        def read_limited(*args: Any, **options: Any) -> Iterator[bytes]:
            left = self.limit
            for block in read(*args, **options):
                left -= len(block)
                if left < 0:
                    raise TooLargeError(f"the archive's answer has more than {self.limit} bytes. See --max-bytes")
                if time.monotonic() > end:
                    raise requests.Timeout(f"its answer takes more than {MAX_ANSWER_S:.0f} s")
                yield block

        response.iter_content = read_limited  # type: ignore[method-assign]
        return response


class Archive:
    """A DICOMweb archive.

    Credentials come from ~/.netrc, or from the file that the environment variable NETRC names.

    Args:
        url: of DICOMweb, e.g. "https://archive/dicom-web".
        ca_file: certificates that sign the archive's own; by default those that requests trusts.

    Raises:
        UsageError: the address holds a password, is none, or the file cannot be read.
        MissingPackageError: dicomweb-client is not installed.
    """

    def __init__(self, url: str, ca_file: str | None = None) -> None:
        client = import_package("dicomweb_client", "dicomweb-client")
        logging.getLogger("dicomweb_client").setLevel(logging.CRITICAL)  # it would log what the archive says
        self.url = url.rstrip("/")
        self._session = _Session()
        with errors_as(UsageError, f"{ca_file}: cannot be read", OSError, remedy=". Check --ca-file"):
            if ca_file is not None:
                self._session.verify = str(require_regular(Path(ca_file)))
        what = "expected an address such as https://archive/dicom-web"
        with errors_as(UsageError, what, ValueError, AttributeError):  # whose messages hold no address with a password
            parts = urlsplit(url)
            if parts.username or parts.password:
                raise UsageError("the archive's address holds a user or a password. Put them into ~/.netrc")
            if parts.port == 0 or not parts.hostname:
                raise ValueError(f"got {url}")
            self._client = client.DICOMwebClient(self.url, self._session)
        self._client.set_http_retry_params(retry=False)  # the queue tries again
        self._counts_changes = True

    def last_change(self) -> int | None:
        """Return the number of the last change where the archive is Orthanc; None elsewhere."""
        if not self._counts_changes:
            return None
        try:
            answer = self._session.get(urljoin(f"{self.url}/", "../changes"), params={"last": ""})
            self._counts_changes = answer.status_code < 400
            last = answer.json()["Last"]
        except (requests.RequestException, TooLargeError, ValueError, KeyError, TypeError):  # `search` says why
            return None
        return last if type(last) is int else None

    def search(self, since: str = "") -> Iterator[FoundSeries]:
        """Yield the series of the archive; those without valid UIDs or a number of images are left out.

        Args:
            since: only of studies from this day on, as YYYYMMDD.

        Raises:
            ArchiveError: it does not answer, or not with DICOM.
        """
        seen: set[str] = set()
        offset, filters = 0, {"StudyDate": f"{since}-"} if since else {}
        while True:
            with self._asking("search"):
                page = self._client.search_for_series(
                    limit=SERIES_PER_PAGE, offset=offset, fields=list(TAGS), search_filters=filters
                )
                found = [one for one in map(_read_found, page) if one is not None and one.uid not in seen]
            yield from found
            seen |= {one.uid for one in found}
            if len(seen) > MAX_SERIES:
                raise ArchiveError(f"{self.url}: holds more than {MAX_SERIES} series. Limit them with --days")
            offset += len(page)
            if not found:  # also of an archive that knows no offset
                return

    def fetch(self, study: str, series: str, folder: Path, max_bytes: int, max_images: int) -> int:
        """Save the images of a series in a new folder; return how many there are.

        Raises:
            ArchiveError: it does not answer, or not with DICOM.
            VolumeError: there are too many bytes or images, or images of another series among them.
            OutputError: they cannot be saved.
        """
        instances: set[str] = set()
        self._session.limit = max_bytes
        try:
            with staging_folder(folder.parent) as staging, self._asking("retrieval"), disable_value_validation():
                (staging / "images").mkdir()
                # bytes of each file, which no parser has seen yet
                for content in self._client.iter_bulkdata(f"{self.url}/studies/{study}/series/{series}"):
                    path = staging / "images" / f"{len(instances):06}.dcm"
                    path.write_bytes(content)
                    dataset = read_dataset(path, ["StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"])
                    if (dataset.StudyInstanceUID, dataset.SeriesInstanceUID) != (study, series):
                        raise VolumeError(f"{series}: the archive sent images of another series. Look into its log")
                    if dataset.SOPInstanceUID in instances:
                        path.unlink()
                    instances.add(dataset.SOPInstanceUID)
                    if len(instances) > max_images:
                        raise TooLargeError(f"{series}: the archive sent more than {max_images} images")
                (staging / "images").replace(folder)
        finally:
            self._session.limit = MAX_ANSWER_BYTES
        return len(instances)

    def store(self, study: str, paths: Sequence[Path]) -> None:
        """Store results in a study; an instance that is there already stays.

        Raises:
            ArchiveError: it does not answer, or refuses one of them and does not hold it.
        """
        with self._asking("storage"), disable_value_validation():
            results = [read_dataset(path, pixels=True) for path in paths]
        try:
            with self._asking("storage"), disable_value_validation():
                answer = self._client.store_instances(results, study)
                reasons = {f"{one.get('FailureReason', 0):#06x}" for one in answer.get(REFUSED) or ()}
            if reasons:
                raise ArchiveError(f"{self.url}: refuses results (DICOM failure reason {', '.join(sorted(reasons))})")
        except ArchiveError:  # some refuse instances that they hold already
            if not all(self._holds(study, str(one.SeriesInstanceUID), str(one.SOPInstanceUID)) for one in results):
                raise

    def _holds(self, study: str, series: str, instance: str) -> bool:
        with self._asking("search"):
            found = self._client.search_for_instances(study, series, search_filters={"SOPInstanceUID": instance})
        return any(_value(one, "00080018") == instance for one in found)

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            with suppress_warnings():
                yield
        except TomosegError:
            raise
        except OSError as error:  # of requests, or of the disk
            reason = getattr(error.args[0], "reason", error) if error.args else error  # what urllib3 wrapped
            raise ArchiveError(f"{self.url}: {what} failed: {one_line(reason or error)}") from error
        except Exception as error:  # of pydicom, json and the client
            name = type(error).__name__
            raise ArchiveError(f"{self.url}: {what} failed: expected DICOM, got something else ({name})") from error


def _value(item: Any, tag: str) -> Any:
    """Return the first value of an element in an answer; empty where there is none."""
    entry = item.get(tag) if isinstance(item, dict) else None
    value = entry.get("Value") if isinstance(entry, dict) else None
    return value[0] if isinstance(value, list) and value else ""


def _read_found(item: Any) -> FoundSeries | None:
    """Return a series of an answer in JSON; None where it cannot be asked for."""
    values = {name: _value(item, tag) for tag, name in TAGS.items()}
    images = str(values.pop("images"))
    texts = {name: value if isinstance(value, str) else "" for name, value in values.items()}
    if not (UID.fullmatch(texts["study"]) and UID.fullmatch(texts["uid"]) and images.isdecimal() and len(images) < 10):
        return None
    return FoundSeries(**texts, images=int(images))
