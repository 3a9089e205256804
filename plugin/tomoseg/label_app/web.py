"""MONAI Label's web application with our answers to /infer/ and errors with reasons."""

import json
from pathlib import Path
from typing import Any

from fastapi import Depends, File, Form, HTTPException, Request, UploadFile
from fastapi.background import BackgroundTasks
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from monailabel.app import app
from monailabel.config import settings
from monailabel.endpoints import infer as stock
from monailabel.endpoints.user.auth import RBAC, User
from monailabel.interfaces.exception import MONAILabelException

from tomoseg.core.errors import BundleError, MemoryLimitError, TomosegError, UsageError, VolumeError, one_line

FIXED = ("image", "model", "session")
HTTP_STATUSES = {UsageError: 400, VolumeError: 422, MemoryLimitError: 507, BundleError: 500}


# a plain function, which FastAPI runs in a thread: MONAI Label's own is a coroutine that runs the network and blocks
# all other requests, such as those for the progress of a training
def run_inference(
    background_tasks: BackgroundTasks,
    model: str,
    image: str = "",
    session_id: str = "",
    params: str = Form("{}"),
    file: UploadFile = File(None),  # noqa: B008 - how FastAPI has it
    label: UploadFile = File(None),  # noqa: B008
    output: stock.ResultType | None = None,
    user: User = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER)),  # noqa: B008
) -> Any:
    """Run a model on an image of the studies, an uploaded file or a session, as MONAI Label's clients ask for it."""
    if not image and not session_id and not file:
        raise HTTPException(400, "expected image=ID, session_id=ID or an uploaded file, got none of them")
    if Path(image).is_absolute():  # MONAI Label would open any file of this computer
        raise HTTPException(404, f"image {image!r}: no such image in the studies")
    try:
        asked = json.loads(params or "{}")
        if not isinstance(asked, dict):
            raise ValueError(type(asked).__name__)
    except ValueError as error:
        raise HTTPException(400, f"params: expected a JSON object: {one_line(error)}") from error
    for name in FIXED:  # MONAI Label would let them stand for the image and the model of the request
        asked.pop(name, None)
    if output == stock.ResultType.dicom_seg:  # by ours, which needs no labels from the client and no program of dcmqi's
        asked["result_extension"] = ".dcm"
        output = stock.ResultType.image
    return stock.run_inference(background_tasks, model, image, session_id, json.dumps(asked), file, label, output)


def _answer_error(request: Request, error: Exception) -> JSONResponse:
    status = next((status for kind, status in HTTP_STATUSES.items() if isinstance(error, kind)), 500)
    return JSONResponse({"detail": one_line(error)}, status)


def _answer_stock_error(request: Request, error: Any) -> JSONResponse:
    return JSONResponse({"detail": error.msg}, 404)


# before MONAI Label's own route, for the first that fits is taken
app.router.routes.insert(
    0, APIRoute(f"{settings.MONAI_LABEL_API_STR}/infer/{{model}}", run_inference, methods=["POST"])
)
# MONAI Label lets any web page that the user visits read the studies from here; its OHIF comes from this very server
app.user_middleware[:] = [one for one in app.user_middleware if one.cls is not CORSMiddleware]
app.add_exception_handler(TomosegError, _answer_error)
app.add_exception_handler(MONAILabelException, _answer_stock_error)
