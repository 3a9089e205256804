"""Where the label server listens, who may ask, and how much they may send."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tomoseg.bundle.options import parse_size
from tomoseg.core.errors import UsageError
from tomoseg.core.options import Option
from tomoseg.core.threads import choose_threads

CONF = ("follow_links", "accept_unknown", "always")  # options that are the app's, as MONAI Label's --conf
MIN_LETTERS = 12  # of a token that a person chose


@dataclass(frozen=True)
class ServerOptions:
    """Where the label server listens, who may ask, and how much they may send.

    Attributes:
        host: address to listen at; other computers reach only what you name.
        port: TCP port.
        token: for the log-in of clients, at least 12 letters, or auto for a new one. Without it, everyone who reaches
            the server may ask; for other computers the server makes one, unless --insecure is given.
        insecure: let other computers in without a token.
        tls_cert: certificate (PEM) for https.
        tls_key: private key (PEM) of the certificate.
        allow_host: another name of the server, such as that of a proxy in front of it.
        max_upload: limit of what a client may send at once, in bytes or as in 2GB.
        wait: wait for an archive that does not answer yet, and for scans in an empty folder.
        accept_unknown: take annotations with labels that no bundle has, and incomplete ones; such voxels become
            background in training.
        always: use newly trained weights also where they are worse on the labels that are held out.
        follow_links: serve files that are links, too, wherever they lead.
        threads: threads; by default OMP_NUM_THREADS, else the cores that it may use.

    Raises:
        UsageError: a value is out of range, or two do not go together.

    Example:
        >>> import tomoseg
        >>> tomoseg.ServerOptions(max_upload="500MB").max_upload_bytes
        500000000
    """

    host: Annotated[str, Option("ADDRESS")] = "127.0.0.1"
    port: Annotated[int, Option("N")] = 8000
    token: Annotated[str | None, Option("auto|SECRET")] = None
    insecure: bool = False
    tls_cert: Annotated[str | None, Option("FILE")] = None
    tls_key: Annotated[str | None, Option("FILE")] = None
    allow_host: Annotated[tuple[str, ...], Option("NAME")] = ()
    max_upload: Annotated[int | str, Option("SIZE")] = "2GB"
    wait: bool = False
    accept_unknown: bool = False
    always: bool = False
    follow_links: bool = False
    threads: Annotated[int | None, Option("N")] = None

    def __post_init__(self) -> None:
        choose_threads(self.threads)
        _ = self.max_upload_bytes
        if self.token not in (None, "", "auto") and len(self.token or "") < MIN_LETTERS:
            raise UsageError(f"--token: expected at least {MIN_LETTERS} letters. Use --token auto")
        if bool(self.tls_cert) != bool(self.tls_key):
            raise UsageError("--tls-cert: goes with --tls-key. Give both")
        for name, path in (("--tls-cert", self.tls_cert), ("--tls-key", self.tls_key)):
            if path and not Path(path).is_file():
                raise UsageError(f"{name}: no such file {path}")

    @property
    def max_upload_bytes(self) -> int:
        """Limit of what a client may send at once, in bytes."""
        return parse_size(self.max_upload, "max_upload")
