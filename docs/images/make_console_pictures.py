"""Draws the pictures of docs/console.md: `python docs/images/make_console_pictures.py http://localhost:8080`."""

from __future__ import annotations

import json
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

from PIL import Image

from tests.services.browser import Browser, start_browser

HERE = Path(__file__).parent
WAIT_S = 60.0
COLOURS = 240  # half the bytes


def main(url: str, pipeline: str = "fraud") -> None:
    """Take a picture of each view as it is now."""
    keys = _keys(url, pipeline)
    key = max(set(keys), key=keys.count)
    with start_browser() as browser:
        picture(browser, url, "overview", pipeline, ready="#c-stage tbody tr")
        row = "document.querySelectorAll('summary')[1].click()"
        picture(browser, url, "alerts", pipeline, ready=".alerts summary:nth-child(1)", then=row)
        row = "[...document.querySelectorAll('summary')].find(s => s.innerText.includes('truncated')).click()"
        picture(browser, url, "letters", pipeline, ready=".letters summary", then=row)
        place = f"{pipeline}/{urllib.parse.quote(key)}"
        picture(browser, url, "entity", place, ready=".plots svg", height=1150)
        picture(browser, url, "models", pipeline, ready="main table tbody tr")
        picture(browser, url, "workers", pipeline, ready="main table tbody tr", height=620)
        picture(browser, url, "overview", pipeline, name="phone", ready="#c-rate path", width=390, dark=True)


def _keys(url: str, pipeline: str) -> list[str]:
    """Of the newest alerts, as soon as they are read."""
    give_up_s = time.monotonic() + WAIT_S
    while time.monotonic() < give_up_s:
        address = f"{url}/console/api/alerts?pipeline={pipeline}&limit=1000"
        with urllib.request.urlopen(address, timeout=10) as answer:
            if found := [row["key"] for row in json.load(answer)["rows"]]:
                return found
        time.sleep(1.0)
    raise SystemExit(f"no alert of {pipeline} after {WAIT_S:g} s")


def picture(
    browser: Browser,
    url: str,
    view: str,
    place: str,
    *,
    ready: str,
    name: str = "",
    then: str = "",
    width: int = 1280,
    height: int = 860,
    dark: bool = False,
) -> None:
    """One view, when it has what is waited for."""
    browser.look(width, height, dark=dark)
    browser.open("about:blank")
    browser.wait("location.href === 'about:blank'")
    browser.open(f"{url}/#/{view}/{place}")
    browser.wait(f"document.querySelector({json.dumps(ready)}) !== null", WAIT_S)
    if then:
        browser.get(then)
    time.sleep(2.0)
    path = HERE / f"console-{name or view}.png"
    browser.picture(path)
    Image.open(path).convert("RGB").quantize(COLOURS, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
