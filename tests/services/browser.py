"""A real headless Chromium, driven over its own protocol through a pipe: only the browser is needed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.services.processes import Unavailable

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_ANSWER_S = 30.0
_FLAGS = (
    "--headless",
    "--no-sandbox",  # tests run as root in containers
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)
_SHELL = ("/bin/bash", "-c")  # sh knows descriptors of one digit only
_KEYS = {"Enter": ("Enter", 13, "\r"), "Escape": ("Escape", 27, ""), "Tab": ("Tab", 9, "")}


class BrowserError(Exception):
    """The browser did not do what it was asked for."""


class Browser:
    """One browser process and the one page of it."""

    def __init__(self, process: subprocess.Popen[bytes], to_it: int, from_it: int) -> None:
        self.process = process
        self._to, self._from = to_it, from_it
        self._buffer = b""
        self._number = 0
        self.requests: list[str] = []  # addresses asked for
        self.complaints: list[str] = []  # of the console: errors, exceptions, violations of the policy
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Performance"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """One command of the DevTools protocol.

        Raises:
            BrowserError: it failed, or was not answered in time.
        """
        self._number += 1
        said: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if not method.startswith("Target."):
            said["sessionId"] = self._session
        os.write(self._to, json.dumps(said).encode() + b"\0")
        give_up_s = time.monotonic() + _ANSWER_S
        while True:
            heard = self._read(give_up_s)
            if heard.get("id") == self._number:
                if "error" in heard:
                    raise BrowserError(f"{method}: {heard['error']['message']}")
                return heard["result"]
            self._note(heard)

    def open(self, url: str) -> None:
        """Go to an address."""
        self.call("Page.navigate", url=url)

    def get(self, expression: str) -> Any:
        """The value of a JavaScript expression; a promise is waited for.

        Raises:
            BrowserError: it throws.
        """
        said = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in said:
            details = said["exceptionDetails"]
            raise BrowserError(
                f"{expression}: {details.get('exception', {}).get('description', details['text'])}"
            )
        return said["result"].get("value")

    def wait(self, expression: str, timeout_s: float = 20.0) -> Any:
        """Wait until an expression is true; returns its value.

        Raises:
            BrowserError: it was not in time.
        """
        give_up_s = time.monotonic() + timeout_s
        while not (value := self.get(expression)):
            if time.monotonic() > give_up_s:
                page = self.get("document.body.innerText.slice(0, 1500)")
                raise BrowserError(f"not so after {timeout_s:g} s: {expression}\n{page}\n{self.complaints}")
            time.sleep(0.05)
        return value

    def text(self, selector: str = "body") -> str:
        """What is to be read there."""
        return str(self.get(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def press(self, key: str) -> None:
        """Press a key on the keyboard and let go of it."""
        name, code, text = _KEYS[key] if key in _KEYS else (key, ord(key.upper()), key)
        for kind in ("keyDown", "keyUp"):
            written = {"text": text} if kind == "keyDown" and text else {}
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                code=name,
                windowsVirtualKeyCode=code,
                **written,
            )

    def type(self, text: str) -> None:
        """Type into whatever has the focus."""
        self.call("Input.insertText", text=text)

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Be a window of this size, in this colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call(
            "Emulation.setEmulatedMedia",
            features=[scheme, {"name": "prefers-reduced-motion", "value": "reduce"}],
        )

    def picture(self, path: Path) -> None:
        """The window as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def heap_mb(self) -> float:
        """Memory of the page's objects after collecting garbage."""
        self.call("HeapProfiler.collectGarbage")
        return float(self.call("Runtime.getHeapUsage")["usedSize"]) / 1e6

    def nodes(self) -> int:
        """DOM nodes that the page holds, shown or not."""
        metrics = {m["name"]: m["value"] for m in self.call("Performance.getMetrics")["metrics"]}
        return int(metrics["Nodes"])

    def _read(self, give_up_s: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready = select.poll()  # unlike select() it takes descriptors of 1024 and more
            ready.register(self._from, select.POLLIN)
            is_ready = ready.poll(max(0.0, give_up_s - time.monotonic()) * 1000)
            data = os.read(self._from, 1 << 20) if is_ready else b""
            if not data:
                raise BrowserError("the browser does not answer")
            self._buffer += data
        one, _, self._buffer = self._buffer.partition(b"\0")
        heard: dict[str, Any] = json.loads(one)
        return heard

    def _note(self, heard: dict[str, Any]) -> None:
        method, parameters = heard.get("method"), heard.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(
                str(parameters["exceptionDetails"].get("exception", {}).get("description"))
            )
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(f"{parameters['entry']['text']} {parameters['entry'].get('url', '')}")


@contextlib.contextmanager
def start_browser(*more: str) -> Iterator[Browser]:
    """Run a browser until the block ends.

    Args:
        more: further arguments for it.

    Raises:
        Unavailable: there is none.
    """
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        raise Unavailable("no Chromium on the path: apt-get install chromium")
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    with tempfile.TemporaryDirectory(prefix="penstock-browser-", ignore_cleanup_errors=True) as folder:
        where = f"--user-data-dir={folder}"
        process = subprocess.Popen(
            # Commands are read from descriptor 3 and answers written to 4.
            [*_SHELL, f'exec "$@" 3<&{to_read} 4>&{from_write}', "sh", program, *_FLAGS, *more, where],
            pass_fds=(to_read, from_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(to_read)
        os.close(from_write)
        try:
            yield Browser(process, to_write, from_read)
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(to_write)
            os.close(from_read)
