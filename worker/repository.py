"""Where model versions lie: a folder, or a URL that they are fetched from, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from worker.composite_card import MEMBER, check_files
from worker.model_file import CARD_FILE, GOLDEN_FILE, check_sha256, load_model_card
from worker.yaml_lines import ConfigError

_EXTRAS = {"s3": "s3", "gs": "gs", "gcs": "gs", "http": "http", "https": "http"}


class RepositoryError(ConfigError):
    """A version cannot be fetched: what was asked for, where, and what to do."""


def version_folder(repository: Path | str, name: str, version: str) -> Path:
    """Where this version is, or will be once it is fetched."""
    if isinstance(repository, Path):
        return repository / name / version
    place = hashlib.sha256(repository.encode()).hexdigest()[:16]
    return _cache() / place / name / version


def fetch(repository: Path | str, name: str, version: str) -> Path:
    """The folder of a version, brought here if it is not here yet; versions never change.

    Raises:
        RepositoryError: it is not there, or not all of it, or is not what its card says.
    """
    folder = version_folder(repository, name, version)
    if isinstance(repository, Path) or folder.is_dir():
        return folder
    source = f"{repository.rstrip('/')}/{name}/{version}"
    files = _file_system(repository)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as temporary:
        # Named as it will be, since cards are checked for that.
        arriving = Path(temporary) / name / version
        arriving.mkdir(parents=True)
        try:
            _get(files, f"{source}/{CARD_FILE}", arriving / CARD_FILE)
            files_of_it, members = _named_by(arriving)
            for file in files_of_it:
                target = arriving / file
                if not target.resolve().is_relative_to(arriving.resolve()):
                    raise RepositoryError(f"{source}: its card names {file!r}, a file outside of the version")
                target.parent.mkdir(parents=True, exist_ok=True)
                _get(files, f"{source}/{file}", target)
        except ConfigError:
            raise
        except Exception as error:  # every kind of store has its own
            raise RepositoryError(
                f"{source}: cannot be fetched ({type(error).__name__}: {error}): expected {CARD_FILE}, "
                f"{GOLDEN_FILE} and the files that the card names"
            ) from error
        for member in members:
            fetch(repository, *member)
        if not members:
            check_sha256(load_model_card(arriving))
        try:
            arriving.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process of this machine was faster
                raise
    return folder


def versions(repository: Path | str, name: str) -> list[str]:
    """The versions of a model, the oldest name first: 2 before 10, 1.9 before 1.10.

    Raises:
        RepositoryError: the repository cannot be listed, as one by HTTP often cannot.
    """
    try:
        if isinstance(repository, Path):
            folder = repository / name
            found = [each.name for each in folder.iterdir() if (each / CARD_FILE).is_file()]
        else:
            files = _file_system(repository)
            root = f"{repository.rstrip('/')}/{name}"
            listed = files.ls(root, detail=False)
            found = [str(each).rstrip("/").rpartition("/")[2] for each in listed]
            found = [each for each in found if files.exists(f"{root}/{each}/{CARD_FILE}")]
    except (OSError, ValueError, NotImplementedError) as error:
        raise RepositoryError(f"{repository}: cannot be listed: {error}") from error
    return sorted((each for each in found if not each.startswith(".")), key=_in_order)


def newest(repository: Path | str, name: str) -> str | None:
    """The last version that is whole; one that is still being written is not there yet."""
    for version in reversed(versions(repository, name)):
        try:
            check_files(fetch(repository, name, version))
        except ConfigError:
            continue
        return version
    return None


def _in_order(version: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", version) if part]


def _named_by(folder: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """Files of the version besides its card, or name and version of each that it is made of.

    Whether the rest of the card holds is not checked yet: what it names is still to come.
    """
    card: Any = yaml.safe_load((folder / CARD_FILE).read_text())
    if not isinstance(card, dict):
        raise ValueError(f"{CARD_FILE} is no mapping")
    if "combine" in card:
        found = [re.fullmatch(MEMBER, str(member["model"])) for member in card.get("members") or ()]
        return [], [(match[0].partition("/")[0], match[0].partition("/")[2]) for match in found if match]
    external = card.get("external_data") or {}
    return [str(card.get("file", "model.onnx")), GOLDEN_FILE, *map(str, external)], []


def _get(files: Any, source: str, target: Path) -> None:
    with files.open(source, "rb") as opened, target.open("wb") as out:
        shutil.copyfileobj(opened, out, 1 << 20)


def _file_system(repository: str) -> Any:
    import fsspec

    scheme = repository.partition("://")[0]
    try:
        return fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:
        extra = _EXTRAS.get(scheme)
        remedy = f"pip install 'penstock[{extra}]'" if extra else "expected file, s3, gs, http or https"
        raise RepositoryError(f"{repository}: {error}: {remedy}") from error


def _cache() -> Path:
    return Path(os.environ.get("PENSTOCK_CACHE", Path.home() / ".cache" / "penstock")) / "models"
