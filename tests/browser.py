"""Headless Chromium, driven through its DevTools protocol over a pair of pipes: no port, no driver, no package."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

PATIENCE_SECONDS = 30
"""What hangs is an error; nothing else waits for it."""

_PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HAS_CHROMIUM = pytest.mark.skipif(_PROGRAM is None, reason="no Chromium is installed")

_OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)

_BEGIN = """
import fcntl, os, sys
for target, pipe in enumerate([fcntl.fcntl(int(pipe), fcntl.F_DUPFD, 10) for pipe in sys.argv[1:3]], 3):
    os.dup2(pipe, target)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""The browser reads descriptor 3 and writes 4."""


class Page:
    """One page in a browser of its own; a context manager that ends it.

    Attributes:
        events: What the browser told so far, as in the protocol: ``method`` and ``params``.
    """

    def __init__(self, folder: Path) -> None:
        """Start the browser.

        Args:
            folder: An empty folder for its profile.
        """
        assert _PROGRAM is not None
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        pipes = (str(theirs_in), str(theirs_out))
        begun = [sys.executable, "-c", _BEGIN, *pipes, _PROGRAM, *_OPTIONS, f"--user-data-dir={folder}", "about:blank"]
        with folder.with_suffix(".log").open("wb") as log:
            self._process = subprocess.Popen(begun, pass_fds=(theirs_in, theirs_out), stdout=log, stderr=log)
        for descriptor in (theirs_in, theirs_out):
            os.close(descriptor)
        self._numbers = itertools.count(1)
        self._read = b""
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        (page,) = (target["targetId"] for target in targets if target["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and give its result."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next())["id"] != number:
            pass
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        """The next answer; events on the way are kept."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            while b"\0" not in self._read:
                assert select.select([self._in], [], [], deadline - time.monotonic())[0], "the browser does not answer"
                found = os.read(self._in, 1 << 20)
                assert found, "the browser has ended"
                self._read += found
            text, _, self._read = self._read.partition(b"\0")
            message: dict[str, Any] = json.loads(text)
            if "id" in message:
                return message
            self.events.append(message)

    def open(self, address: str) -> None:
        """Go to an address, and wait until all of it is there."""
        self.call("Page.navigate", url=address)
        self.wait_for(f"location.href.startsWith({address!r}) && document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript, of a promise what it becomes."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, (expression, answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait_for(self, condition: str) -> None:
        """Wait until an expression is true; it is looked at whenever the page draws, or could."""
        self.evaluate(
            f"new Promise(done => {{ const look = () => ({condition}) ? done() : setTimeout(look, 10); look(); }})"
        )

    def drop(self, path: Path, selector: str) -> None:
        """Drop a file on the middle of an element, as from a file manager."""
        x, y = self.evaluate(
            f"(box => [box.x + box.width / 2, box.y + box.height / 2])"
            f"(document.querySelector({selector!r}).getBoundingClientRect())"
        )
        data = {"items": [], "files": [str(path.absolute())], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def choose(self, path: Path, selector: str) -> None:
        """Choose a file in an input."""
        node = self.call("Runtime.evaluate", expression=f"document.querySelector({selector!r})")["result"]
        self.call("DOM.setFileInputFiles", files=[str(path.absolute())], objectId=node["objectId"])

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Show the page in another size, light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self) -> bytes:
        """The whole page as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    @property
    def addresses(self) -> list[str]:
        """What the page asked the network for."""
        sent = [event["params"] for event in self.events if event["method"] == "Network.requestWillBeSent"]
        return [request["request"]["url"] for request in sent]

    @property
    def complaints(self) -> list[dict[str, Any]]:
        """What the console shows as an error."""
        errors = [event["params"] for event in self.events if event["method"] == "Runtime.exceptionThrown"]
        entries = [event["params"]["entry"] for event in self.events if event["method"] == "Log.entryAdded"]
        return errors + [entry for entry in entries if entry["level"] == "error"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._out)  # on which it ends
        os.close(self._in)
        self._process.wait(PATIENCE_SECONDS)
