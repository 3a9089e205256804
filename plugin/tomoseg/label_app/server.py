"""Starts MONAI Label's own server with our app, on this computer only and without asking the internet for anything."""

import contextlib
import hashlib
import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from platformdirs import user_data_path

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.trust import require_trusted
from tomoseg.core.errors import OutputError, UsageError, errors_as, import_package, one_line
from tomoseg.core.notes import print_line
from tomoseg.core.threads import choose_threads
from tomoseg.label_app.folder import LabelApp, is_dicomweb
from tomoseg.label_app.history import Submission
from tomoseg.label_app.options import CONF, ServerOptions

WILDCARDS = ("0.0.0.0", "::")  # all addresses of this computer
BETWEEN_TRIES_S = 2.0


def serve_label_app(
    studies: str,
    app: Path | None = None,
    bundles: Sequence[str] = (),
    options: ServerOptions | None = None,
    *,
    gate: Callable[[Bundle], object] = require_trusted,
    on_warning: Callable[[str], None] | None = None,
) -> None:
    """Start MONAI Label's server with bundles as its models, and serve until the process is stopped.

    Args:
        studies: a folder of scans, or the http(s) URL of a DICOMweb archive.
        app: the app's folder outside of the studies, made if it is not there; None for one of its own in the user's
            data folder for each place of studies.
        bundles: bundles to serve; if empty, the app's own, or all that are registered.
        options: where it listens, and who may ask.
        gate: called with each bundle before any of its code runs; raises for one that may not.
        on_warning: called if others can read scans on their way to a client.

    Returns:
        Nothing; the server runs until it is stopped.

    Raises:
        MissingPackageError: MONAI Label is not installed.
        UsageError: the studies are not there or empty, the archive does not answer, the app has code that is not
            tomoseg's, the port is taken, or other computers would get in without a token.
        BundleError: a bundle is unknown, unusable, or not trusted.

    Example:
        >>> import tomoseg
        >>> tomoseg.serve_label_app("scans", bundles=["hippocampus"])  # doctest: +SKIP
    """
    options = options or ServerOptions()
    os.environ["OMP_NUM_THREADS"] = str(choose_threads(options.threads))  # of all processes of the app
    import_package("monailabel", "monailabel", "label")
    remote = is_dicomweb(studies)
    if not remote and not Path(studies).is_dir():
        raise UsageError(f"{studies}: no such folder; expected one with scans, or the URL of a DICOMweb archive")
    studies = studies if remote else str(Path(studies).resolve())
    folder = LabelApp((app or default_app(studies)).resolve())
    if not remote and folder.root.is_relative_to(studies):
        raise UsageError(f"--app: {folder.root} lies in the studies, where others may write. Choose another folder")
    # an app that is there keeps its bundles, unless others are named
    served = folder.write(bundles) if bundles or not (folder.root / "main.py").is_file() else folder.bundles
    folder.require_own_code()
    folder.serve(studies)
    for one in served:
        gate(one)
    _check_port(options.host, options.port)
    token = _choose_token(options)
    options = replace(options, tls_cert=_absolute(options.tls_cert), tls_key=_absolute(options.tls_key))
    # the working directory is on the path of processes that start, and MONAI Label reads its settings there
    with contextlib.chdir(folder.root):
        _serve(studies, folder, options, token, [one.name for one in served], on_warning)


def _serve(
    studies: str,
    folder: LabelApp,
    options: ServerOptions,
    token: str,
    names: Sequence[str],
    on_warning: Callable[[str], None] | None,
) -> None:
    os.environ.setdefault("MONAI_LABEL_TRACKING_ENABLED", "false")
    os.environ["MONAI_LABEL_AUTH_ENABLE"] = "false"  # ours stands before it
    os.environ["MONAI_LABEL_SESSION_PATH"] = str(sessions := folder.root / "sessions")
    received = folder.root / "received"
    for private in (sessions, received):  # what a server that was killed left behind
        shutil.rmtree(private, ignore_errors=True)
        private.mkdir(0o700)

    import logging

    from monailabel.main import Main  # reads the settings from the environment

    from tomoseg.label_app.guard import is_loopback, own_names
    from tomoseg.label_app.login import Login
    from tomoseg.label_app.web import make_app

    _require_studies(studies, options.wait)
    secure = options.tls_cert is not None
    if on_warning is not None and not secure and not is_loopback(options.host):
        on_warning(
            f"others between {options.host} and a client can read scans and the token. Give --tls-cert and "
            "--tls-key, or leave --host out and use an SSH tunnel"
        )
    name = socket.gethostname() if options.host in WILDCARDS else options.host
    address = f"{'https' if secure else 'http'}://{f'[{name}]' if ':' in name else name}:{options.port}"
    print_line(f"MONAI Label at {address} with {', '.join(names)}; stop with Ctrl-C")
    if token:
        print_line(f"log in at {address}/?token={token}, or in 3D Slicer with your name and the password {token}")

    # what MONAI Label logs at a lower level names patients
    main = Main(loglevel=logging.WARNING, actions="start_server")
    arguments = ["start_server", "--app", str(folder.root), "--studies", studies, "--host", options.host]
    arguments += ["--port", str(options.port), "--verbose", "WARNING", "--log_level", "warning"]
    for name in CONF:
        arguments += ["--conf", name, "true"] if getattr(options, name) else []
    arguments += ["--ssl_certfile", options.tls_cert, "--ssl_keyfile", str(options.tls_key)] if options.tls_cert else []
    parsed = main.args_parser().parse_args(arguments)
    hosts = own_names(options.host, options.allow_host)
    logging.getLogger("tomoseg.requests").setLevel(logging.INFO)
    parsed.uvicorn_app = make_app(Login(token, options.port), hosts, options.max_upload_bytes, received)
    main.action_start_server(parsed)


def restore_label(folder: Path, image_id: str, number: int) -> Submission:
    """Store an earlier submission of an image again, as its newest one, which is returned.

    Args:
        folder: of the app.
        image_id: the image.
        number: of the submission.

    Raises:
        MissingPackageError: MONAI Label is not installed.
        UsageError: there is no such submission, the app has code that is not tomoseg's, or the studies are gone.
        VolumeError: the image is no longer there.
        OutputError: the archive does not take it, or the disk is full.
    """
    import_package("monailabel", "monailabel", "label")
    app = LabelApp(folder.resolve())
    old = app.history.find(image_id, number)
    app.require_own_code()
    # MONAI Label reads its settings in the working directory; requests and the archive each have their own errors
    failed = f"image {image_id}: cannot be stored"
    with contextlib.chdir(app.root), errors_as(OutputError, failed, Exception):
        _require_studies(app.studies, wait=False)
        from tomoseg.label_app.datastore.studies import open_studies
        from tomoseg.label_app.model import ServedModel

        models = [ServedModel(bundle, app) for bundle in app.bundles]
        studies = open_studies(app.studies, app, models, accept_unknown=True, follow_links=True)
        studies.save_label(image_id, str(old.label), "final", {**old.facts, "restored": number})
    return app.history.of(image_id)[-1]


def _absolute(path: str | None) -> str | None:
    return path and str(Path(path).resolve())


def default_app(studies: str) -> Path:
    """Return the default folder of the app: one in the user's data folder for each place of studies.

    Args:
        studies: a folder, absolute, or the URL of an archive; only its hash shows in the folder's name.
    """
    return user_data_path("tomoseg") / "label_app" / hashlib.sha256(os.fsencode(studies)).hexdigest()[:16]


def _choose_token(options: ServerOptions) -> str:
    """Return the token of a server; empty for none.

    Raises:
        UsageError: other computers would get in without one, unasked.
    """
    from tomoseg.label_app.guard import is_loopback

    foreign = not is_loopback(options.host)
    if options.token == "" and foreign and not options.insecure:
        raise UsageError(f"--host: {options.host} lets other computers in without a token. Give one, or --insecure")
    if options.token == "auto" or (options.token is None and foreign and not options.insecure):
        return secrets.token_urlsafe(24)
    return options.token or ""


def _require_studies(studies: str, wait: bool) -> None:
    """Make sure that there is an archive that answers, or a scan in the folder.

    Args:
        studies: a folder, or the URL of an archive.
        wait: try until there is one.

    Raises:
        UsageError: there is none.
    """
    while True:
        if not (missing := _missing_studies(studies)):
            return
        if not wait:
            raise UsageError(f"{studies}: {missing}, or --wait")
        time.sleep(BETWEEN_TRIES_S)


def _missing_studies(studies: str) -> str:
    if not is_dicomweb(studies):
        from tomoseg.label_app.datastore.local_studies import EXTENSIONS

        found = any(next(Path(studies).glob(pattern), None) for pattern in EXTENSIONS)
        return "" if found else "has no scan that can be served. Put NIfTI, NRRD or MetaImage files there"
    from tomoseg.label_app.datastore.dicom_studies import connect

    try:
        connect(studies.rstrip("/")).search_for_series(limit=1)
    except Exception as error:  # requests, JSON and the archive each have their own
        return f"no DICOMweb archive answers there ({one_line(error)}). Check the address, often .../dicom-web"
    return ""


def _check_port(host: str, port: int) -> None:
    """Refuse a port that is taken; MONAI Label would load everything first, and then say so in its log."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        what, remedy = f"{host}:{port}: cannot listen there", ". Choose another --port"
        with errors_as(UsageError, what, OSError, OverflowError, remedy=remedy):
            probe.bind((host, port))
