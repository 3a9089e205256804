"""The server's web application: the routes of MONAI Label that its clients use, and ours in place of some."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, File, Form, HTTPException, Request, UploadFile
from fastapi.background import BackgroundTasks
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from monailabel.config import settings
from monailabel.endpoints import activelearning, batch_infer, datastore, infer, info, ohif, scoring, session, train
from monailabel.endpoints.user.auth import User, get_current_user
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.utils.app import app_instance

from tomoseg.core.errors import BundleError, MemoryLimitError, TomosegError, UsageError, VolumeError, one_line
from tomoseg.core.files import open_regular
from tomoseg.data.formats import SINGLE_FILE_SUFFIXES, strip_suffix
from tomoseg.label_app.folder import is_dicomweb
from tomoseg.label_app.guard import Guard, require_plain
from tomoseg.label_app.history import annotator
from tomoseg.label_app.home import home_page
from tomoseg.label_app.login import Login, login_routes
from tomoseg.label_app.proxy import ask_archive
from tomoseg.label_app.request_log import RequestLog
from tomoseg.label_app.uploads import INPUT_SUFFIXES, LABEL_SUFFIXES, received

# what 3D Slicer's and OHIF's clients ask MONAI Label for; all else is gone
STOCK_ROUTES = {
    activelearning: {("POST", "/activelearning/{strategy}")},
    batch_infer: {("GET", "/batch/infer"), ("POST", "/batch/infer/{model}"), ("DELETE", "/batch/infer")},
    datastore: {
        ("GET", "/datastore/"), ("HEAD", "/datastore/image"), ("GET", "/datastore/image"),
        ("GET", "/datastore/image/info"), ("HEAD", "/datastore/label"), ("GET", "/datastore/label"),
        ("GET", "/datastore/label/info"),
    },
    info: {("GET", "/info/")},
    scoring: {("GET", "/scoring/"), ("POST", "/scoring/"), ("POST", "/scoring/{method}"), ("DELETE", "/scoring/")},
    session: {("GET", "/session/{session_id}"), ("DELETE", "/session/{session_id}")},
    train: {("GET", "/train/"), ("POST", "/train/"), ("POST", "/train/{model}"), ("DELETE", "/train/")},
}  # fmt: skip
FIXED = ("image", "model", "session")
HTTP_STATUSES = {UsageError: 400, VolumeError: 422, MemoryLimitError: 507, BundleError: 500}
REMOTE_FONTS = re.compile(rb"<link [^>]*//fonts\.[^>]*>|@import [^;]*//fonts\.[^;]*;")


def make_app(login: Login, hosts: set[str], max_upload_bytes: int, private: Path) -> Guard:
    """Return the web application of a server.

    Args:
        login: who may ask.
        hosts: names of the server.
        max_upload_bytes: of one request.
        private: folder that no other user reads, for what clients send.
    """
    app = FastAPI(title="tomoseg", openapi_url=None, docs_url=None, redoc_url=None, lifespan=_lifespan)
    for module, allowed in STOCK_ROUTES.items():
        app.router.routes += [
            route for route in module.router.routes if {(method, route.path) for method in route.methods} <= allowed
        ]
    app.include_router(login_routes(login))
    log = RequestLog()
    _add_pages(app, log)
    _add_uploads(app, private)
    app.dependency_overrides[get_current_user] = _annotator
    app.add_exception_handler(TomosegError, _answer_error)
    app.add_exception_handler(MONAILabelException, _answer_stock_error)
    return Guard(app, hosts, login, max_upload_bytes, log)


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    instance = app_instance()
    instance.server_mode(True)
    instance.on_init_complete()
    yield


def _annotator(request: Request) -> User:
    return User(username=request.state.annotator)


def _add_pages(app: FastAPI, log: RequestLog) -> None:
    """Add the first page, OHIF, and OHIF's way to the archive."""
    viewer = Path(ohif.__file__).parent / "static" / "ohif"

    @app.get("/")
    def home(request: Request) -> HTMLResponse:
        # the page has a policy of its own, for its one style and script
        return HTMLResponse(home_page(app_instance(), str(request.base_url), log.refused), headers={
            "content-security-policy": "frame-ancestors 'none'"})  # fmt: skip

    @app.get("/ohif/{path:path}")
    def show(path: str) -> Any:
        file = viewer / path
        if not path or not file.is_file():
            file = viewer / "index.html"  # any other address is one of its own pages
        if file.suffix not in (".html", ".css"):
            return FileResponse(file)
        kind = "text/css" if file.suffix == ".css" else "text/html"
        return Response(REMOTE_FONTS.sub(b"", open_regular(file).read()), media_type=kind)

    @app.api_route("/proxy/dicom/{service}/{path:path}", methods=["GET", "POST"])
    async def proxy(request: Request, service: str, path: str) -> Any:
        if service not in ("qido", "wado", "stow") or not is_dicomweb(settings.MONAI_LABEL_STUDIES):
            raise HTTPException(404, "there is no such archive")
        asked = (request.method, service, path, request.url.query, dict(request.headers), await request.body())
        return await run_in_threadpool(ask_archive, *asked)


# plain functions, which FastAPI runs in threads: MONAI Label's own are coroutines, and block all other requests, such
# as those for the progress of a training, while a network runs
def _add_uploads(app: FastAPI, private: Path) -> None:
    """Add what takes files from clients: a model's run, new images, annotations and sessions."""

    @app.post("/infer/{model}")
    def run_inference(
        background_tasks: BackgroundTasks,
        model: str,
        image: str = "",
        session_id: str = "",
        params: str = Form("{}"),
        file: UploadFile | None = File(None),  # noqa: B008 - how FastAPI has it
        output: infer.ResultType | None = None,
    ) -> Any:
        if not image and not session_id and not file:
            raise HTTPException(400, "expected image=ID, session_id=ID or an uploaded file, got none of them")
        asked = _parameters(params)
        for name in FIXED:  # they would stand for the image and the model of the request
            asked.pop(name, None)
        if output == infer.ResultType.dicom_seg:  # ours needs no labels from the client and no program of dcmqi's
            asked["result_extension"], output = ".dcm", infer.ResultType.image
        instance = app_instance()
        request = {**asked, "model": model, "image": image}
        if session_id and (found := instance.sessions().get_session(session_id)):
            request["image"] = found.image
        if file is None:
            result = instance.infer(request)
        else:
            with received([file], INPUT_SUFFIXES, private) as path:
                result = instance.infer(request | {"image": str(path)})
        return infer.send_response(instance.datastore(), result, output, background_tasks)

    @app.put("/datastore/image")
    @app.put("/datastore/")
    def add_image(
        request: Request,
        image: str = "",
        params: str = Form("{}"),
        file: UploadFile = File(...),  # noqa: B008
    ) -> dict[str, str]:
        studies = app_instance().datastore()
        name = image or strip_suffix(Path(file.filename or "").name)
        require_plain({"image": name})
        if not name or name in studies.list_images():
            raise HTTPException(409, f"image {name!r}: exists. Choose another name")
        with received([file], SINGLE_FILE_SUFFIXES, private) as path:
            known = {**_parameters(params), "user": request.state.annotator}
            return {"image": studies.add_image(name, str(path), known)}

    @app.put("/datastore/label")
    def save_label(
        request: Request,
        image: str,
        tag: str = "",
        params: str = Form("{}"),
        label: UploadFile = File(...),  # noqa: B008
    ) -> dict[str, Any]:
        with received([label], LABEL_SUFFIXES, private) as path:
            known = _parameters(params)
            known["user"] = annotator(request.state.annotator, known.get("client_id"))
            return dict(app_instance().save_annotation(image, path, tag, known))

    @app.put("/session/")
    def add_session(
        expiry: int = 0,
        files: list[UploadFile] = File(...),  # noqa: B008
    ) -> dict[str, Any]:
        with received(files, INPUT_SUFFIXES, private) as path:
            number, known = app_instance().sessions().add_session(str(path), expiry)
        return {"session_id": number, "session_info": known.to_json()}


def _parameters(text: str) -> dict[str, Any]:
    """Return what a client sends beside a file.

    Raises:
        HTTPException: it is no JSON object, or names in it are not plain.
    """
    try:
        content = json.loads(text or "{}")
        if not isinstance(content, dict):
            raise ValueError(type(content).__name__)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"params: expected a JSON object: {one_line(error)}") from error
    require_plain({key: value for key, value in content.items() if key not in FIXED})
    return content


def _answer_error(request: Request, error: Exception) -> JSONResponse:
    status = next((status for kind, status in HTTP_STATUSES.items() if isinstance(error, kind)), 500)
    return JSONResponse({"detail": one_line(error)}, status)


def _answer_stock_error(request: Request, error: Any) -> JSONResponse:
    return JSONResponse({"detail": error.msg}, 404)
