"""The way from OHIF to the archive: DICOMweb below its root, and nothing else."""

import re
from typing import Any

import requests
from monailabel.config import settings
from starlette.exceptions import HTTPException
from starlette.responses import StreamingResponse

# of QIDO-RS, WADO-RS and STOW-RS: PS3.18, chapter 10
ROOTS = {"studies", "series", "instances"}
SEGMENT = re.compile(r"[A-Za-z0-9_.,-]+")
PASSED = {"accept", "content-type"}  # headers of a client that reach the archive
BLOCK_BYTES = 1 << 20


def ask_archive(method: str, service: str, path: str, query: str, headers: dict[str, str], body: bytes) -> Any:
    """Return the archive's answer.

    Args:
        method: "GET", or "POST" to store.
        service: "qido", "wado" or "stow".
        path: below the archive's root, such as "studies/1.2.3/metadata".
        query: of the address.
        headers: of the client.
        body: of the client.

    Raises:
        HTTPException: it is no request of DICOMweb, or the archive does not answer.
    """
    segments = path.strip("/").split("/")
    if segments[0] not in ROOTS or not all(SEGMENT.fullmatch(one) and one.strip(".") for one in segments):
        raise HTTPException(400, "expected an address of DICOMweb below studies, series or instances")
    if method == "POST" and segments[0] != "studies":
        raise HTTPException(405, "expected studies, where the archive stores")
    # OHIF asks for metadata where it asks for lists
    service = "wado" if service == "qido" and segments[-1] == "metadata" else service
    prefix = getattr(settings, f"MONAI_LABEL_{service.upper()}_PREFIX") or ""
    address = "/".join(part for part in (settings.MONAI_LABEL_STUDIES.rstrip("/"), prefix, *segments) if part)
    user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    try:
        found = requests.request(
            method, address, params=query, data=body or None, stream=True, allow_redirects=False,
            headers={name: value for name, value in headers.items() if name.lower() in PASSED},
            auth=(user, password) if user and password else None, timeout=settings.MONAI_LABEL_DICOMWEB_PROXY_TIMEOUT,
        )  # fmt: skip
    except requests.RequestException as error:
        raise HTTPException(502, f"the archive does not answer: {type(error).__name__}") from error
    if found.is_redirect:
        raise HTTPException(502, "the archive answers from another address. Give that one to --studies")
    kind = found.headers.get("content-type", "application/octet-stream")
    return StreamingResponse(found.iter_content(BLOCK_BYTES), found.status_code, media_type=kind)
