"""What every request has to pass before the server answers it: from whom, from which page, with which names."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import psutil
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tomoseg.label_app.login import Login
from tomoseg.label_app.request_log import RequestLog

# names of things that the server has; none of them is a path
IDENTIFIERS = {
    "device", "id", "image", "image_id", "images", "label", "label_tag", "method", "model", "session", "session_id",
    "strategy", "tag",
}  # fmt: skip
MAX_JSON_BYTES = 1_000_000  # of a request that is no upload
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
HIDDEN_SEPARATORS = re.compile(rb"%(2f|5c|00)", re.IGNORECASE)
POLICY = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
# what OHIF needs in a browser; no other computer
VIEWER_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' blob: data:; font-src 'self' data:; "
    "connect-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def own_names(host: str, allowed: Collection[str] = ()) -> set[str]:
    """Return the names under which browsers and clients may reach a server.

    Args:
        host: the address that it listens at; "0.0.0.0" and "::" stand for all of this computer's.
        allowed: more names, such as that of a proxy.
    """
    names = {host, *allowed, "localhost", "127.0.0.1", "::1", socket.gethostname(), socket.getfqdn()}
    if not is_loopback(host):
        addresses = (one.address for found in psutil.net_if_addrs().values() for one in found)
        names |= {address.partition("%")[0] for address in addresses}
    return {name.lower() for name in names}


def is_loopback(host: str) -> bool:
    """Return whether only this computer reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def require_plain(values: Mapping[str, Any]) -> None:
    """Refuse names that could lead to another place than the one they name.

    Args:
        values: what a client asks for; identifiers among them, also in lists, have to be plain.

    Raises:
        HTTPException: one has a separator, a control character, or is `..`.
    """
    for key, value in values.items():
        for one in value if isinstance(value, list) else (value,):
            if isinstance(one, Mapping):
                require_plain(one)
            elif key in IDENTIFIERS and isinstance(one, str) and not _is_plain(one):
                raise HTTPException(400, f"{key}: expected a name without separators, got {one!r}")


def _is_plain(name: str) -> bool:
    return name.isprintable() and not {"/", "\\"} & set(name) and name not in (".", "..")


@dataclass(frozen=True)
class Guard:
    """ASGI middleware that refuses what no client of MONAI Label sends.

    Attributes:
        app: what answers.
        hosts: names of this server; any other in a request is a web page that pretends to be from here.
        login: who may ask.
        max_upload_bytes: of one request.
        log: of requests.
    """

    app: ASGIApp
    hosts: Collection[str]
    login: Login
    max_upload_bytes: int
    log: RequestLog

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # there are no web sockets
            await send({"type": "websocket.close"})
            return
        request = Request(scope)
        viewer = scope["path"].startswith("/ohif")
        caching = {} if viewer else {"cache-control": "no-store"}
        send = self.log.noting(request, send)
        guarded = _with_headers(send, {"content-security-policy": VIEWER_POLICY if viewer else POLICY} | caching)
        try:
            self._check(request)
            receive = await self._limited(request, receive)
            if (answer := self.login.answer(request)) is not None:
                await answer(scope, receive, guarded)
                return
        except HTTPException as error:
            await _refuse(error)(scope, receive, guarded)
            return
        await self.app(scope, receive, guarded)

    def _check(self, request: Request) -> None:
        host = request.headers.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            name = ""
        if name not in self.hosts:
            raise HTTPException(403, f"host {host!r}: is no name of this server. Start it with --allow-host")
        origin, changes = request.headers.get("origin"), request.method not in SAFE_METHODS
        foreign = origin is not None and origin.lower() != f"{request.url.scheme}://{host}".lower()
        crossing = request.headers.get("sec-fetch-site") in ("cross-site", "same-site")
        followed = not changes and request.headers.get("sec-fetch-mode") == "navigate"  # a link to here
        if (changes and foreign) or (crossing and not followed):
            raise HTTPException(403, f"origin {origin!r}: web pages of other servers may not ask")
        path = request.scope.get("raw_path", b"").partition(b"?")[0]
        if HIDDEN_SEPARATORS.search(path) or not all(map(_is_plain, request.scope["path"].split("/"))):
            raise HTTPException(400, "expected a plain address, got one with a hidden separator or ..")
        for key, value in request.query_params.multi_items():
            require_plain({key: value})

    async def _limited(self, request: Request, receive: Receive) -> Receive:
        """Return a `receive` that ends at the limit; JSON is read and checked before."""
        uploads = request.headers.get("content-type", "").startswith("multipart/")
        limit = self.max_upload_bytes if uploads else min(MAX_JSON_BYTES, self.max_upload_bytes)
        length = request.headers.get("content-length", "0")
        too_large = f"expected at most {limit} bytes. Start the server with --max-upload"
        if not length.isdecimal() or int(length) > limit:
            raise HTTPException(413, too_large)
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise HTTPException(413, too_large)
            return message

        if uploads or request.method in SAFE_METHODS:
            return counted
        messages = [await counted()]
        while messages[-1].get("more_body"):
            messages.append(await counted())
        body = b"".join(message.get("body", b"") for message in messages)
        _check_json(body)
        messages = [{"type": "http.request", "body": body}]

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        return replay


def _check_json(body: bytes) -> None:
    try:
        content = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        return  # a form, or what the endpoint reports
    if isinstance(content, Mapping):
        require_plain(content)


def _refuse(error: HTTPException) -> Response:
    return JSONResponse({"detail": error.detail}, error.status_code, error.headers)


HEADERS = {
    "x-frame-options": "DENY",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


def _with_headers(send: Send, more: dict[str, str]) -> Send:
    """Return a `send` that adds the headers that keep other web pages out, unless an answer has its own."""
    headers = HEADERS | more

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            own = {name.lower() for name, _ in message.get("headers", ())}
            added = [(name.encode(), value.encode()) for name, value in headers.items() if name.encode() not in own]
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        await send(message)

    return sending
