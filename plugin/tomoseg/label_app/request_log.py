"""One line in the log for each request that changes something or fails: request, seconds, outcome."""

import json
import logging
import time
from collections import deque
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.types import Message, Send

from tomoseg.core.errors import printable, shorten

LOGGER = logging.getLogger("tomoseg.requests")
SHOWN = ("image", "session_id", "tag")  # of an address: ids, and nothing of a patient
MAX_REASON = 300  # letters
KEPT = 20  # refusals on the first page


@dataclass(frozen=True)
class RequestLog:
    """The log of a server.

    Attributes:
        refused: the last refusals: time of day, request and reason.
    """

    refused: deque[tuple[str, str, str]] = field(default_factory=lambda: deque(maxlen=KEPT))

    def noting(self, request: Request, send: Send) -> Send:
        """Return a `send` that notes what becomes of a request."""
        start, status, body = time.perf_counter(), 0, b""

        async def sending(message: Message) -> None:
            nonlocal status, body
            status = message.get("status", status)
            failed = status >= 400
            body += message.get("body", b"")[:2000] if failed else b""
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self._note(request, status, time.perf_counter() - start, _reason(body))
            await send(message)

        return sending

    def _note(self, request: Request, status: int, seconds: float, reason: str) -> None:
        if request.method in ("GET", "HEAD") and status < 400:
            return
        shown = [f"{name}={value}" for name, value in request.query_params.multi_items() if name in SHOWN]
        asked = printable(" ".join([request.method, request.scope["path"], *shown]))[:300]
        LOGGER.info("%s: %d after %.2f s%s", asked, status, seconds, f": {reason}" if reason else "")
        if status >= 400:
            self.refused.appendleft((time.strftime("%H:%M:%S"), asked, reason))


def _reason(body: bytes) -> str:
    try:
        return shorten(str(json.loads(body)["detail"]), MAX_REASON) if body else ""
    except (ValueError, KeyError, TypeError):
        return ""
