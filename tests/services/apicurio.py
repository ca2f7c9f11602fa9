"""One Apicurio Registry, which speaks Confluent's registry API, over HTTPS and behind a login."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import tarfile
import tempfile
import urllib.request
from pathlib import Path

from tests.services.kafka_jars import FETCH_TIMEOUT_S, MIN_JAVA, cache_folder, java_major
from tests.services.processes import Service, Unavailable, first_that_starts, free_port, new_directory

VERSION = "3.0.9"
GET = "org.apache.maven.plugins:maven-dependency-plugin:2.8:get"  # newer ones also want the parent POM
ARTIFACT = "io.apicurio:apicurio-registry-app:{version}:tar.gz:all"
API = "/apis/ccompat/v7"
READY_WITHIN_S = 90.0
JVM = ["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]


def registry_folder() -> Path:
    """Return where the registry lies or will lie."""
    return cache_folder() / f"apicurio-{VERSION}"


def registry_files() -> Path:
    """Return the folder with the registry, fetching it from Maven Central on first use (about 110 MB).

    Raises:
        Unavailable: no Maven, or Maven Central did not answer.
    """
    folder, maven = registry_folder(), shutil.which("mvn")
    if folder.is_dir():
        return folder
    if maven is None:
        raise Unavailable(f"the registry is not in {folder} and mvn is not installed to fetch it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Into a folder beside it and renamed when whole, so that an interrupted fetch leaves nothing half done.
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        fetched, archives = Path(scratch) / "registry", Path(scratch) / "m2"
        artifact = f"-Dartifact={ARTIFACT.format(version=VERSION)}"
        command = [maven, "-q", "-B", GET, artifact, "-Dtransitive=false", f"-Dmaven.repo.local={archives}"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, cwd=scratch, timeout=FETCH_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"Maven did not fetch the registry in {FETCH_TIMEOUT_S} s") from error
        if done.returncode != 0:
            said = next((line for line in (done.stdout + done.stderr).splitlines() if "ERROR" in line), "")
            raise Unavailable(f"Maven could not fetch the registry: {said[:300]}")
        with tarfile.open(next(archives.rglob("apicurio-registry-app-*-all.tar.gz"))) as archive:
            archive.extractall(fetched, filter="data")
        if not folder.is_dir():
            fetched.rename(folder)
    return folder


def start_registry(*, certificate: Path, key: Path, authority: Path, user: str, password: str) -> Service:
    """Start an empty registry that wants TLS and this login; its `address` is the URL without the login.

    Raises:
        Unavailable: no Java 17, no registry, or it did not come up.
    """
    java = shutil.which("java")
    if java is None or java_major() < MIN_JAVA:
        raise Unavailable(f"Java {MIN_JAVA} or newer is not installed (found {java_major() or 'none'})")
    runner = next(registry_files().glob("apicurio-registry-app-*-runner.jar"))
    settings = {
        "quarkus.http.insecure-requests": "disabled",
        "quarkus.http.ssl.certificate.files": str(certificate),
        "quarkus.http.ssl.certificate.key-files": str(key),
        "quarkus.http.auth.basic": "true",
        "quarkus.http.auth.permission.all.paths": "/apis/*",
        "quarkus.http.auth.permission.all.policy": "authenticated",
        "quarkus.security.users.embedded.plain-text": "true",
        f"quarkus.security.users.embedded.users.{user}": password,
        f"quarkus.security.users.embedded.roles.{user}": "sr-admin",
    }
    return first_that_starts(lambda: _service([java, *JVM], runner, settings, authority))


def _service(java: list[str], runner: Path, settings: dict[str, str], authority: Path) -> Service:
    directory, port = new_directory("registry"), free_port()
    (directory / "config").mkdir()
    (directory / "config" / "application.properties").write_text(
        "".join(f"{key}={value}\n" for key, value in {**settings, "quarkus.http.ssl-port": port}.items())
        + "quarkus.http.host=127.0.0.1\nquarkus.http.port=0\n"
    )
    address = f"https://127.0.0.1:{port}"
    return Service(
        name="Apicurio",
        address=f"{address}{API}",
        directory=directory,
        command=[*java, "-jar", str(runner)],
        is_ready=lambda: _is_ready(f"{address}/health/ready", authority),
        ready_within_s=READY_WITHIN_S,
    )


def _is_ready(url: str, authority: Path) -> bool:
    try:
        context = ssl.create_default_context(cafile=authority)
        with urllib.request.urlopen(url, timeout=2.0, context=context) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
