"""MONAI Label's server as `tomoseg label-server` starts it, in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest

ELSEWHERE = "MONAI Label needs an environment of its own: scripts/test --label"
# one thread each: others share the cores; no GPU: the test is the same everywhere
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
# every connection to another computer fails at once
NO_INTERNET = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9") | {
    "no_proxy": "127.0.0.1,localhost"
}
STARTING_S = 120


def require_monailabel() -> None:
    """Skip a module where MONAI Label is not installed."""
    pytest.importorskip("monailabel", reason=ELSEWHERE)


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: where it listens.
        app: its app's folder.
        studies: the folder, or the archive's URL.
        process: the server.
        log: its output.
        token: what lets a request in.
    """

    url: str
    app: Path
    studies: str
    process: subprocess.Popen[bytes]
    log: Path
    token: str = ""

    @property
    def client(self) -> Any:
        """MONAI Label's own client, the one in 3D Slicer."""
        from monailabel.client import MONAILabelClient

        return MONAILabelClient(self.url, tmpdir=str(self.app.parent))

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> tuple[int, bytes]:
        """Return the status and the content of an answer."""
        url = f"{self.url}{path}{'?' + urlencode(query) if query else ''}"
        data = None if body is None else json.dumps(body).encode()
        return self._open(Request(url, data, {"Content-Type": "application/json"} if data else {}, method=method))

    def ask_form(self, path: str, params: Any, **query: Any) -> tuple[int, bytes]:
        """Return the status and the content of an answer to parameters as clients of /infer/ send them."""
        data = urlencode({"params": json.dumps(params)}).encode()
        return self._open(Request(f"{self.url}{path}?{urlencode(query)}", data, method="POST"))

    def _open(self, request: Request) -> tuple[int, bytes]:
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urlopen(request, timeout=300) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()

    def wait_for(self, kind: str, timeout_s: float = 300) -> dict[str, Any]:
        """Return the last task ("train", "scoring" or "batch/infer") once it has ended."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            status, answer = self.ask("GET", f"/{kind}/".replace("infer/", "infer"))
            if status == 200:
                task: dict[str, Any] = json.loads(answer)
                if task["status"] not in ("SUBMITTED", "RUNNING"):
                    return task
            time.sleep(0.5)
        raise AssertionError(f"{kind} did not end within {timeout_s} s: {answer!r}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_server(
    folder: Path, studies: str, *arguments: str, port: int = 0, token: str = "", **environment: str
) -> Iterator[Server]:
    """Run `tomoseg label-server` and wait until it answers; stop it afterwards.

    Args:
        folder: for the app and the log.
        studies: a folder, or the URL of an archive.
        arguments: of the command.
        port: 0 for one that is free.
        token: what lets a request in; empty where all are.
        environment: variables to set.
    """
    command = [sys.executable, "-m", "tomoseg", "label-server", "--trust", *arguments]
    command += ["--token", token] if token else []
    with running_command(command, folder, studies, port, environment, token) as server:
        yield server


@contextmanager
def running_command(
    command: list[str], folder: Path, studies: str, port: int, environment: dict[str, str], token: str = ""
) -> Iterator[Server]:
    """Run a command that starts MONAI Label with the app in `folder / "app"`; otherwise as `running_server`."""
    port = port or free_port()
    app, log = folder / "app", folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--studies", studies, "--app", str(app), "--port", str(port)],
            env=os.environ | ENVIRONMENT | NO_INTERNET | environment,
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd=folder,
        )  # fmt: skip
    server = Server(f"http://127.0.0.1:{port}", app, studies, process, log, token)
    try:
        _wait(server)
        yield server
    finally:
        with suppress(ProcessLookupError):  # it did not start
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(server: Server) -> None:
    end = time.monotonic() + STARTING_S
    while time.monotonic() < end:
        assert server.process.poll() is None, server.log.read_text()
        try:
            if server.ask("GET", "/info/")[0] == 200:
                return
        except (URLError, OSError):
            pass
        time.sleep(0.2)
    raise AssertionError(server.log.read_text())
