"""Starts MONAI Label's own server with our app, on this computer only and without asking the internet for anything."""

import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from platformdirs import user_data_path

from tomoseg.bundle.metadata import Bundle
from tomoseg.bundle.trust import require_trusted
from tomoseg.core.errors import UsageError, errors_as, import_package
from tomoseg.core.notes import print_line
from tomoseg.core.threads import choose_threads
from tomoseg.label_app.folder import FOLLOW_LINKS, LabelApp


def serve_label_app(
    studies: str,
    app: Path | None = None,
    bundles: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    threads: int | None = None,
    follow_links: bool = False,
    gate: Callable[[Bundle], object] = require_trusted,
    on_warning: Callable[[str], None] | None = None,
) -> None:
    """Start MONAI Label's server with bundles as its models, and serve until the process is stopped.

    Args:
        studies: a folder of scans, or the http(s) URL of a DICOMweb archive.
        app: the app's folder, made if it is not there; None for `label_app` in the studies' folder (for an archive, in
            the user's data folder).
        bundles: bundles to serve; if empty, the app's own, or all that are registered.
        host: address to listen at.
        port: TCP port.
        threads: as in `RunOptions`, of the server and of each process that it starts.
        follow_links: serve files that are links, too, wherever they lead.
        gate: called with each bundle before any of its code runs; raises for one that may not.
        on_warning: called if other computers can reach the server without logging in.

    Returns:
        Nothing; the server runs until it is stopped.

    Raises:
        MissingPackageError: MONAI Label is not installed.
        UsageError: the studies are not there, the app has code that is not tomoseg's, the port is taken, or `threads`
            is below 1.
        BundleError: a bundle is unknown, unusable, or not trusted.

    Example:
        >>> import tomoseg
        >>> tomoseg.serve_label_app("scans", bundles=["hippocampus"])  # doctest: +SKIP
    """
    if threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(choose_threads(threads))
    import_package("monailabel", "monailabel", "label")
    remote = studies.startswith(("http://", "https://"))
    if not remote and not Path(studies).is_dir():
        raise UsageError(f"{studies}: no such folder; expected one with scans, or the URL of a DICOMweb archive")
    folder = LabelApp((app or default_app(studies)).resolve())
    # an app that is there keeps its bundles, unless others are named
    served = folder.write(bundles) if bundles or not (folder.root / "main.py").is_file() else folder.bundles
    folder.require_own_code()
    for one in served:
        gate(one)
    _check_port(host, port)
    os.environ.setdefault("MONAI_LABEL_TRACKING_ENABLED", "false")
    if on_warning is not None and (warning := exposure(host)):
        on_warning(warning)
    names = ", ".join(one.name for one in served)
    print_line(f"MONAI Label at http://{host}:{port} with {names}; stop with Ctrl-C")

    import logging

    from monailabel.main import Main  # reads the settings from the environment

    # what MONAI Label logs at a lower level names patients
    main = Main(loglevel=logging.WARNING, actions="start_server")
    arguments = ["start_server", "--app", str(folder.root), "--studies", studies, "--host", host, "--port", str(port)]
    arguments += ["--verbose", "WARNING", "--log_level", "warning", "--uvicorn_app", "tomoseg.label_app.web:app"]
    arguments += ["--conf", FOLLOW_LINKS, "true"] if follow_links else []
    main.action_start_server(main.args_parser().parse_args(arguments))


def default_app(studies: str) -> Path:
    """Return the default folder of the app: beside the studies, to which trained weights belong."""
    if not studies.startswith(("http://", "https://")):
        return Path(studies) / "label_app"
    parts = urlsplit(studies)
    place = "_".join(part for part in (parts.hostname or "", str(parts.port or ""), parts.path.strip("/")) if part)
    return user_data_path("tomoseg") / "label_app" / place.replace("/", "_")


def exposure(host: str) -> str:
    """Return a warning if other computers can reach the server without a log-in, else an empty text."""
    guarded = os.environ.get("MONAI_LABEL_AUTH_ENABLE", "").strip().lower() in ("1", "true", "yes", "on")
    with suppress(ValueError):  # a name
        guarded = guarded or host == "localhost" or ip_address(host).is_loopback
    if guarded:
        return ""
    return (
        f"anyone who reaches {host} can read the studies, change labels and train, without a log-in. Leave "
        "--host out and use an SSH tunnel, or set MONAI_LABEL_AUTH_ENABLE and MONAI_LABEL_AUTH_REALM_URI (Keycloak)"
    )


def _check_port(host: str, port: int) -> None:
    """Refuse a port that is taken; MONAI Label would load everything first, and then say so in its log."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        what, remedy = f"{host}:{port}: cannot listen there", ". Choose another --port"
        with errors_as(UsageError, what, OSError, OverflowError, remedy=remedy):
            probe.bind((host, port))
