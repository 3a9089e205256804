"""A real browser, driven through the DevTools protocol: https://chromedevtools.github.io/devtools-protocol/."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str:
    """Return the command that starts Chromium; skip the test where there is none, but install it in CI."""
    for name in NAMES:
        if command := shutil.which(name):
            return command
    if os.environ.get("CI") == "true" and shutil.which("apt-get"):
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", "chromium", "fonts-dejavu-core"]):
            subprocess.run(["apt-get", "-q", *arguments], check=True, capture_output=True)
        if command := shutil.which("chromium"):
            return command
    pytest.skip("there is no Chromium. Install it with: apt-get install chromium")


class Browser:
    """One tab.

    Args:
        process: Chromium, which reads commands from file descriptor 3 and answers on 4.
        to, answers: our ends of these.
    """

    def __init__(self, to: int, answers: int) -> None:
        self._to, self._answers = to, answers
        self._rest = b""
        self._number = 0
        self._session: dict[str, str] = {}
        self.events: list[dict[str, Any]] = []
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = {"sessionId": self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}
        for domain in ("Page", "Network", "Log", "Runtime", "Accessibility"):
            self.command(f"{domain}.enable")

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return what the browser answers; what happens meanwhile goes to `events`."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer}"
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._answers, 1 << 20)
            assert part, "the browser has gone"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        read: dict[str, Any] = json.loads(message)
        return read

    def open(
        self, page: Path | str, width: int = 1280, dark: bool = False, scripts: bool = True, media: str = ""
    ) -> None:
        """Load a file or an address, in a window of this many CSS pixels across, and wait until all of it is there."""
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.command("Emulation.setEmulatedMedia", media=media, features=features)
        self.command("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.command("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.events.clear()
        self.command("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression."""
        answer = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def click(self, selector: str) -> None:
        """Click with the mouse into the middle of the first element that a CSS selector finds."""
        x, y = self.evaluate(
            f"(() => {{ const found = document.querySelector({json.dumps(selector)}); "
            "found.scrollIntoView({block: 'center', behavior: 'instant'}); const box = found.getBoundingClientRect(); "
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.command("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a key, by its name, e.g. "ArrowRight"."""
        code = {"ArrowLeft": 37, "ArrowRight": 39, "Escape": 27, "Enter": 13, "Tab": 9}[key]
        extra = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            self.command("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **extra)

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Save a PNG of the page, or of what the window shows of it."""
        shot = self.command("Page.captureScreenshot", captureBeyondViewport=whole, **self._clip(whole))
        path.write_bytes(base64.b64decode(shot["data"]))

    def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = self.command("Page.getLayoutMetrics")["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 6000), "scale": 1}}

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for since it was opened."""
        return [
            event["params"]["request"]["url"]
            for event in self.events
            if event.get("method") == "Network.requestWillBeSent"
        ]

    def complaints(self) -> list[str]:
        """Return the errors and warnings of the page, a breach of its security policy among them."""
        reported = [
            event["params"]["entry"]["text"] for event in self.events if event.get("method") == "Log.entryAdded"
        ]
        return reported + [str(event) for event in self.events if event.get("method") == "Runtime.exceptionThrown"]


@contextmanager
def running_browser(profile: Path, application: bool = False) -> Iterator[Browser]:
    """Start Chromium without a window and without a network; its settings go into an empty folder.

    Args:
        profile: the folder.
        application: for a server on this computer, with WebGL; otherwise for pages in files.
    """
    their_input, to = os.pipe()
    answers, their_output = os.pipe()
    options = [
        "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-first-run",
        "--hide-scrollbars", "--disable-dev-shm-usage",
        f"--host-resolver-rules=MAP * ~NOTFOUND{', EXCLUDE 127.0.0.1' if application else ''}",
        *(["--use-angle=swiftshader", "--enable-unsafe-swiftshader"] if application else ["--disable-gpu"]),
        *(["--no-sandbox"] if os.geteuid() == 0 else []),
    ]  # fmt: skip
    process = subprocess.Popen(
        # Chromium wants just these numbers
        ["bash", "-c", f'exec "$@" 3<&{their_input} 4>&{their_output}', "bash", find_browser(), *options],
        pass_fds=(their_input, their_output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(their_input)
    os.close(their_output)
    try:
        yield Browser(to, answers)
    finally:
        os.close(to)  # upon which it ends
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(answers)
