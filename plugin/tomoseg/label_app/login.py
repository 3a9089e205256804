"""Who may ask: everyone with the server's token, under the name of their log-in."""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Form
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from tomoseg.label_app.history import MAX_NAME

OPEN_PATHS = {"/auth", "/auth/", "/auth/token", "/auth/token/"}
PARAMETER = "token"  # of the address that the server prints


@dataclass(frozen=True)
class Login:
    """The log-in of a server.

    Attributes:
        token: empty for a server without one.
        port: cookies of one computer are shared by all its ports.
    """

    token: str = ""
    port: int = 0

    @property
    def cookie(self) -> str:
        """Name of the cookie."""
        return f"tomoseg_{self.port}"

    def answer(self, request: Request) -> Response | None:
        """Note who asks in the request; return an answer where a browser comes with the printed address.

        Raises:
            HTTPException: they may not.
        """
        request.scope.setdefault("state", {})["annotator"] = ""
        if not self.token or request.scope["path"] in OPEN_PATHS:
            return None
        given = request.query_params.get(PARAMETER)
        if given is not None and request.method == "GET" and self._annotator(given) is not None:
            answer = RedirectResponse(request.scope["path"], 303)
            secure = request.url.scheme == "https"
            answer.set_cookie(self.cookie, self.issue(""), httponly=True, samesite="strict", secure=secure)
            return answer
        kind, _, bearer = request.headers.get("authorization", "").partition(" ")
        for one in (bearer.strip() if kind.lower() == "bearer" else "", request.cookies.get(self.cookie, "")):
            if one and (name := self._annotator(one)) is not None:
                request.scope["state"]["annotator"] = name
                return None
        raise HTTPException(
            401, "log in with the token that the server printed at its start", {"www-authenticate": "Bearer"}
        )

    def issue(self, name: str) -> str:
        """Return what stands for the token in the requests of one annotator."""
        shown = base64.urlsafe_b64encode(name.encode()).decode()
        return f"{shown}.{hmac.new(self.token.encode(), name.encode(), 'sha256').hexdigest()}"

    def _annotator(self, given: str) -> str | None:
        """Return the name of who has a token or what `issue` made of it; None if it is neither."""
        if hmac.compare_digest(given.encode(), self.token.encode()):
            return ""
        try:
            name = base64.urlsafe_b64decode(given.partition(".")[0]).decode()
        except ValueError:
            return None
        return name if hmac.compare_digest(given.encode(), self.issue(name).encode()) else None


def login_routes(login: Login) -> APIRouter:
    """Return the log-in as MONAI Label's clients know it: user name is the annotator, password the token."""
    router = APIRouter(prefix="/auth")

    @router.get("/")
    def state() -> dict[str, Any]:
        return {"enabled": bool(login.token), "client_id": "tomoseg", "realm": ""}

    @router.post("/token")
    def enter(username: str = Form(""), password: str = Form("")) -> dict[str, Any]:
        if not login.token:
            return {"access_token": None, "token_type": None}
        if not hmac.compare_digest(password.encode(), login.token.encode()):
            raise HTTPException(401, "wrong password: expected the token that the server printed at its start")
        if not username.isprintable() or len(username) > MAX_NAME:
            raise HTTPException(400, f"user name: expected at most {MAX_NAME} letters, without control characters")
        return {"access_token": login.issue(username.strip()), "token_type": "bearer"}

    @router.get("/token/valid")
    def whoami(request: Request) -> dict[str, Any]:
        return {"username": request.state.annotator}

    return router
