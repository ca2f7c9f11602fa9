"""Apache Kafka's jars from Maven Central, fetched once into a cache folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.services.processes import Unavailable

POM = Path(__file__).with_name("pom.xml")
MIN_JAVA = 17
COPY = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies"
FETCH_TIMEOUT_S = 900


def kafka_version() -> str:
    """Return the version that the committed POM pins."""
    found = re.search(r"<kafka\.version>([^<]+)<", POM.read_text())
    if found is None:
        raise Unavailable(f"{POM.name} names no kafka.version")
    return found[1]


def java_major() -> int:
    """Return the major version of the machine's Java, 0 without one."""
    java = shutil.which("java")
    if java is None:
        return 0
    said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False).stderr
    found = re.search(r'version "(\d+)', said)
    return int(found[1]) if found else 0


def cache_folder() -> Path:
    """Return where fetched programs are kept."""
    return Path(os.environ.get("PENSTOCK_CACHE") or Path.home() / ".cache" / "penstock")


def jars_folder() -> Path:
    """Return where the jars lie or will lie."""
    return cache_folder() / f"kafka-{kafka_version()}"


def jars() -> Path:
    """Return the folder with Kafka's jars, fetching them on first use (about 45 MB).

    Raises:
        Unavailable: no Maven, or Maven Central did not answer.
    """
    folder = jars_folder()
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise Unavailable(f"Kafka's jars are not in {folder} and mvn is not installed to fetch them")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Into a folder beside it and renamed when whole, so that an interrupted fetch leaves nothing half done.
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        fetched = Path(scratch) / "lib"
        command = [
            maven,
            "-q",
            "-B",
            "-f",
            str(POM),
            COPY,
            f"-DoutputDirectory={fetched}",
            "-DincludeScope=runtime",
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"Maven did not fetch Kafka's jars in {FETCH_TIMEOUT_S} s") from error
        if done.returncode != 0:
            said = next((line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line), "")
            raise Unavailable(f"Maven could not fetch Kafka's jars: {said[:300]}")
        if not folder.is_dir():
            fetched.rename(folder)
    return folder
