"""What the console says is wrong, read from its page in a real browser."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.arena import Arena
from tests.services.browser import Browser, start_browser

ROOT = Path(__file__).resolve().parents[1]
STARTS_WITHIN_S = 60.0
_ADDRESS = re.compile(r'"address": ?"([^"]+)"')
_NUMBER = re.compile(r"\d[\d.,:]*")
# A sentence that says all is well, or that the page listens, is no finding.
_FINDINGS = """[...document.querySelectorAll('#health .bad, #health .warn')].map(
  each => each.querySelector('b').textContent)"""


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """The page of a console that is a process of its own, so that no fault of a worker is one of it."""

    browser: Browser

    def findings(self) -> list[str]:
        """The sentences to be read there now, the worst first."""
        return [str(each) for each in self.browser.get(_FINDINGS)]


def kind_of(sentence: str) -> str:
    """A sentence without its numbers, which change from one look to the next."""
    return _NUMBER.sub("#", sentence)


@contextmanager
def open_page(made: Arena, file: Path) -> Iterator[Page]:
    """Start a console over the pipeline file, and open it.

    Raises:
        RuntimeError: it did not start.
    """
    services = made.services
    log = services.folder / "console.log"
    env = {
        "CHAOS_KAFKA": services.cluster.bootstrap,
        "CHAOS_STORE": services.redis.address,
        "CHAOS_WORKER": "console",
    }
    command = [sys.executable, "-m", "worker.cli", "console", str(file), "--port", "0"]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
        )
    try:
        give_up_s = time.monotonic() + STARTS_WITHIN_S
        while not (found := _ADDRESS.search(log.read_text())):
            if process.poll() is not None or time.monotonic() > give_up_s:
                raise RuntimeError(f"no console (exit {process.poll()}):\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        with start_browser() as browser:
            browser.open(found[1])
            browser.wait("document.querySelector('#live')?.textContent === 'live'", STARTS_WITHIN_S)
            yield Page(browser)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
