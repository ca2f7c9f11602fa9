"""The Kubernetes manifests as tests see them: built by kustomize, checked against the API's schemas."""

from __future__ import annotations

import base64
import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.deploy.compose_file import ROOT

KUBERNETES = ROOT / "deploy" / "kubernetes"
LOGINS = ROOT / "examples" / "logins"
SHIPPED = KUBERNETES / "pipelines"
CRDS = Path(__file__).parent / "crds"  # where they come from: README.md there
VERSIONS = ("1.30.0", "1.37.0")  # the oldest that docs/kubernetes.md promises, and a new one
LEAST_KUSTOMIZE = (5, 0)

Object = dict[str, Any]


@functools.cache
def kustomize() -> list[str] | None:
    """The command that builds a folder; None when there is none, or too old a one."""
    candidates = {"kustomize": (["build"], ["version"]), "kubectl": (["kustomize"], ["version", "--client"])}
    for program, (builds, says) in candidates.items():
        if shutil.which(program) is None:
            continue
        said = subprocess.run(
            [program, *says], capture_output=True, text=True, timeout=60, check=False
        ).stdout
        found = re.search(r"(?:Kustomize Version: |kustomize/|^)v(\d+)\.(\d+)", said, re.MULTILINE)
        if found is not None and (int(found[1]), int(found[2])) >= LEAST_KUSTOMIZE:
            return [program, *builds]
    return None


needs_kustomize = pytest.mark.skipif(
    kustomize() is None, reason="neither kustomize 5 nor a kubectl with it is installed"
)


@functools.cache
def _built(folder: Path) -> str:
    command = kustomize()
    assert command is not None
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def build(folder: Path) -> list[Object]:
    """Every object that `kubectl apply -k` would send."""
    return list(yaml.safe_load_all(_built(folder)))


def combined(folder: Path, *components: str) -> list[Object]:
    """The base with these components, as an overlay of one's own would have them."""

    def at(path: Path) -> str:
        return os.path.relpath(path, folder)

    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namePrefix": "mine-",
        "labels": [{"pairs": {"app.kubernetes.io/instance": "mine"}, "includeSelectors": True}],
        "resources": [at(KUBERNETES / "base")],
        "components": [at(KUBERNETES / "components" / component) for component in components],
        "configMapGenerator": [{"name": "pipeline", "literals": ["pipeline.yaml={}"]}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return build(folder)


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """Those of one kind."""
    return [each for each in objects if each["kind"] == kind]


def named(objects: list[Object], kind: str, name: str) -> Object:
    """The one of this kind and name."""
    (found,) = (each for each in of_kind(objects, kind) if each["metadata"]["name"] == name)
    return found


def pods(objects: list[Object]) -> dict[str, Object]:
    """Pod templates by the name of their Deployment."""
    return {d["metadata"]["name"]: d["spec"]["template"] for d in of_kind(objects, "Deployment")}


def container(template: Object) -> Object:
    """The one container of a pod."""
    (only,) = template["spec"]["containers"]
    found: Object = only
    return found


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector matches, as Kubernetes decides it."""
    wanted = selector.get("matchLabels", {}).items()
    return all(labels.get(key) == value for key, value in wanted) and all(
        {"In": labels.get(e["key"]) in e.get("values", []), "Exists": e["key"] in labels}[e["operator"]]
        for e in selector.get("matchExpressions", [])
    )


def environment(template: Object, objects: list[Object]) -> dict[str, str]:
    """What a container finds in its environment, Secrets left out."""
    of = container(template)
    found: dict[str, str] = {}
    for source in of.get("envFrom", []):
        if "configMapRef" in source:
            found |= named(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    return found | {each["name"]: each["value"] for each in of.get("env", [])}


def lay_out(template: Object, objects: list[Object], folder: Path) -> None:
    """Write the pipeline's volume into a folder as the kubelet does: real files behind links, read-only."""
    behind = folder / "..2026_01_01"
    (volume,) = (each for each in template["spec"]["volumes"] if each["name"] == "pipeline")
    for source in (each["configMap"] for each in volume["projected"]["sources"]):
        there = named(objects, "ConfigMap", source["name"])
        content = {key: text.encode() for key, text in there.get("data", {}).items()}
        content |= {key: base64.b64decode(text) for key, text in there.get("binaryData", {}).items()}
        items = {item["key"]: item["path"] for item in source.get("items", [])} or {
            key: key for key in content
        }
        for key, path in items.items():
            (behind / path).parent.mkdir(parents=True, exist_ok=True)
            (behind / path).write_bytes(content[key])
            (behind / path).chmod(0o444)
    (folder / "..data").symlink_to(behind.name)
    for each in behind.iterdir():
        (folder / each.name).symlink_to(Path("..data") / each.name)


def faults(thing: Object) -> Iterator[str]:
    """What the API server would not take, one line each."""
    import kubernetes_validate

    crd = CRDS / f"{thing['kind']}.json"
    if crd.exists():
        validator = Draft202012Validator(json.loads(crd.read_text()))
        yield from (f"{thing['kind']}: {e.json_path}: {e.message}" for e in validator.iter_errors(thing))
        return
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            yield f"{thing['kind']} {thing['metadata']['name']} ({version}): {error.path}: {error.message}"
