"""The server's first page: how many images have labels, the bundles, and the addresses for the clients."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tomoseg.label_app.folder import is_dicomweb
from tomoseg.report.html.template import page_environment


def home_page(app: Any, address: str, refused: Iterable[tuple[str, str, str]]) -> str:
    """Return the page as HTML.

    Args:
        app: the running `TomosegApp`.
        address: of the server, as the browser has it.
        refused: requests that failed: time, request and reason.
    """
    studies = app.datastore()
    total, labelled = len(studies.list_images()), len(studies.get_labeled_images())
    models = [(one.name, one.weights.current.number, list(one.labels.ids)) for one in app.models.values()]
    details = {"Studies": app.studies, "Folder of the app": app.app_dir}
    template = page_environment(Path(__file__).parent).get_template("home.html")
    return template.render(
        address=address.rstrip("/"), total=total, labelled=labelled, models=models, details=details,
        archive=is_dicomweb(app.studies),
        refused=list(refused),
    )  # fmt: skip
