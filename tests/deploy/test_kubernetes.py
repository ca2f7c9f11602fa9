"""The Kubernetes manifests are what the API takes, and say nothing that the code does not know."""

from __future__ import annotations

import copy
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.deploy.compose_file import ROOT, on_host
from tests.deploy.kubernetes_files import (
    KUBERNETES,
    LOGINS,
    SHIPPED,
    Object,
    build,
    combined,
    container,
    environment,
    faults,
    lay_out,
    named,
    needs_kustomize,
    of_kind,
    pods,
    selects,
)
from worker.admin import PAGES, STUCK_S
from worker.config import load_pipeline
from worker.processes import LEAVE_WITHIN_S

pytestmark = needs_kustomize
FOLDERS = [LOGINS, SHIPPED]
MONITORING = KUBERNETES / "monitoring"
RULES = sorted((ROOT / "deploy" / "rules").glob("*.yml"))


def _all_pods() -> list[tuple[list[Object], str]]:
    return [(build(folder), name) for folder in FOLDERS for name in pods(build(folder))]


def _prometheus_rules(*arguments: str) -> list[Object]:
    script = str(KUBERNETES / "prometheus-rules.sh")
    done = subprocess.run(["sh", script, *arguments], capture_output=True, text=True, timeout=60, check=True)
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.parametrize("folder", [*FOLDERS, MONITORING], ids=lambda folder: folder.name)
def test_the_api_takes_every_object(folder: Path) -> None:
    assert [fault for thing in build(folder) for fault in faults(thing)] == []


@pytest.mark.parametrize("components", [("gpu",), ("scale-on-lag", "gpu"), ("scale-on-lag", "file-in-image")])
def test_components_go_together(components: tuple[str, ...], tmp_path: Path) -> None:
    assert [fault for thing in combined(tmp_path, *components) for fault in faults(thing)] == []


def test_what_the_api_would_not_take_is_found() -> None:
    scaled = copy.deepcopy(named(build(LOGINS), "ScaledObject", "logins-worker"))
    worker = copy.deepcopy(named(build(LOGINS), "Deployment", "logins-worker"))
    scaled["spec"]["maxReplicas"] = 4
    scaled["spec"]["triggers"][0]["metadata"]["threshold"] = 30  # text, says the CRD
    container(worker["spec"]["template"])["livenessProb"] = {}

    assert len(list(faults(scaled))) == 2
    assert list(faults(worker)) != []


def test_no_pod_needs_more_than_the_strictest_standard_and_none_can_write_but_in_its_caches() -> None:
    for objects, name in _all_pods():
        spec, of = pods(objects)[name]["spec"], container(pods(objects)[name])
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert of["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        assert spec["automountServiceAccountToken"] is False, name
        writable = {v["name"] for v in spec["volumes"] if "emptyDir" in v}
        assert all("sizeLimit" in v["emptyDir"] for v in spec["volumes"] if "emptyDir" in v), name
        for mount in of["volumeMounts"]:
            assert mount["name"] in writable or mount.get("readOnly") is True, (name, mount)
        for variable in ("NUMBA_CACHE_DIR", "PENSTOCK_CACHE"):
            path = environment(pods(objects)[name], objects).get(variable)
            assert path is None or any(
                path.startswith(m["mountPath"]) for m in of["volumeMounts"] if m["name"] in writable
            )


def test_nothing_is_reported_to_the_makers_of_libraries() -> None:
    assert re.search(r"ORT_DISABLE_TELEMETRY=1\b", (ROOT / "Dockerfile").read_text())
    for objects, name in _all_pods():
        assert environment(pods(objects)[name], objects)["ORT_DISABLE_TELEMETRY"] == "1", name


def test_the_user_is_the_one_of_the_image() -> None:
    (uid,) = re.findall(r"useradd .*--uid (\d+)", (ROOT / "Dockerfile").read_text())
    users = {pods(objects)[name]["spec"]["securityContext"]["runAsUser"] for objects, name in _all_pods()}

    assert users == {int(uid)}


def test_images_are_stages_of_the_dockerfile(tmp_path: Path) -> None:
    stages = set(re.findall(r"^FROM .* AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    everywhere = [*_all_pods(), (combined(tmp_path, "gpu"), "mine-worker")]
    images = {container(pods(objects)[name])["image"] for objects, name in everywhere}

    assert images == {"penstock:cpu", "penstock:cuda"}
    assert {image.partition(":")[2] for image in images} <= stages


def test_memory_is_limited_and_the_cpu_is_not() -> None:
    for objects, name in _all_pods():
        resources = container(pods(objects)[name])["resources"]
        assert {"cpu", "memory", "ephemeral-storage"} <= resources["requests"].keys(), name
        assert "memory" in resources["limits"], name
        assert "cpu" not in resources["limits"], name  # throttled for the rest of 100 ms is latency


def test_health_is_asked_where_it_is_served_and_waiting_for_kafka_kills_nobody() -> None:
    for objects, name in _all_pods():
        of = container(pods(objects)[name])
        paths = {kind: of[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
        assert paths == {"startup": "/healthz", "readiness": "/readyz", "liveness": "/healthz"}, name
        assert set(paths.values()) <= set(PAGES)
        # /readyz says no while Redis or Kafka is away; /healthz only once a loop stands still.
        (port,) = of["ports"]
        assert environment(pods(objects)[name], objects)["PENSTOCK_ADMIN_PORT"] == str(port["containerPort"])
        assert {of[f"{kind}Probe"]["httpGet"]["port"] for kind in paths} == {port["name"]}
        # A broker that hangs holds a loop up for two commits (transaction_timeout and 5 s) and an abort.
        live = of["livenessProbe"]
        stands_still_s = STUCK_S + live["periodSeconds"] * (live["failureThreshold"] - 1)
        assert stands_still_s >= 2 * (2 * (10 + 5) + 5), name
    worker = container(pods(build(LOGINS))["logins-worker"])
    assert worker["startupProbe"]["periodSeconds"] * worker["startupProbe"]["failureThreshold"] >= 5 * 60


def test_a_pod_is_given_longer_to_leave_than_a_worker_takes() -> None:
    for objects, name in _all_pods():
        assert pods(objects)[name]["spec"]["terminationGracePeriodSeconds"] >= LEAVE_WITHIN_S + 5, name
        assert "lifecycle" not in container(pods(objects)[name]), name


def test_whatever_a_pod_names_is_there_or_may_be_missing() -> None:
    for objects, name in _all_pods():
        spec, of = pods(objects)[name]["spec"], container(pods(objects)[name])
        maps = {each["metadata"]["name"]: each for each in of_kind(objects, "ConfigMap")}
        for source in of["envFrom"]:
            assert source.get("configMapRef", {}).get("name") in maps or source["secretRef"]["optional"]
        for volume in spec["volumes"]:
            assert volume.get("secret", {"optional": True})["optional"], name
            for source in volume.get("projected", {}).get("sources", []):
                there = maps[source["configMap"]["name"]]
                keys = {*there.get("data", {}), *there.get("binaryData", {})}
                assert {item["key"] for item in source["configMap"].get("items", [])} <= keys
        assert {mount["name"] for mount in of["volumeMounts"]} == {v["name"] for v in spec["volumes"]}, name
        accounts = {each["metadata"]["name"] for each in of_kind(objects, "ServiceAccount")}
        assert spec.get("serviceAccountName") in {None, *accounts}, name


def test_selectors_find_the_pods_of_their_own_name_and_no_other() -> None:
    for folder in FOLDERS:
        objects = build(folder)
        labels = {name: template["metadata"]["labels"] for name, template in pods(objects).items()}
        for thing in objects:
            spec = thing.get("spec", {})
            selector = spec.get("podSelector") or spec.get("selector")
            if selector is None:
                continue
            plain = {"matchLabels": selector} if thing["kind"] == "Service" else selector
            found = {name for name, has in labels.items() if selects(plain, has)}
            assert found == {thing["metadata"]["name"]}, thing["kind"]


def test_every_worker_has_a_budget_a_policy_and_a_service() -> None:
    for objects, name in _all_pods():
        kinds = {each["kind"] for each in objects if each["metadata"]["name"] == name}
        assert {"Deployment", "NetworkPolicy", "Service"} <= kinds, name
        if name.endswith("worker"):
            assert {"PodDisruptionBudget", "ServiceAccount"} <= kinds, name


def test_the_network_policy_lets_out_to_the_addresses_of_the_environment_and_in_to_the_admin_port() -> None:
    for objects, name in _all_pods():
        policy = named(objects, "NetworkPolicy", name)["spec"]
        env = environment(pods(objects)[name], objects)
        wanted = [env["PENSTOCK_KAFKA"]]
        if name.endswith("worker"):
            wanted.append(re.sub(r"^redis://|/\d+$", "", env["PENSTOCK_STORE"]))
        for address in wanted:
            host, _, port = address.partition(":")
            namespace = {"kubernetes.io/metadata.name": host.split(".")[1]}
            assert any(
                selects(peer["namespaceSelector"], namespace)
                and any(p["port"] <= int(port) <= p.get("endPort", p["port"]) for p in rule["ports"])
                for rule in policy["egress"]
                for peer in rule["to"]
            ), address
        assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
        assert all("ports" in rule and "to" in rule for rule in policy["egress"])
        assert [rule["ports"] for rule in policy["ingress"]] == [[{"port": "admin", "protocol": "TCP"}]]


def test_the_pipeline_file_of_the_map_loads_under_the_environment_of_its_pods(tmp_path: Path) -> None:
    objects = build(LOGINS)
    for name, template in pods(objects).items():
        assert container(template)["command"][2] == "/etc/penstock/pipeline/pipeline.yaml"
        (tmp_path / name).mkdir()
        lay_out(template, objects, tmp_path / name)
        pipeline = load_pipeline(tmp_path / name / "pipeline.yaml", environment(template, objects))
        assert pipeline.admin.host == "0.0.0.0", name  # else no probe reaches it
        assert pipeline.admin.port == container(template)["ports"][0]["containerPort"]
        assert str(pipeline.kafka.bootstrap) == "kafka.kafka:9092"
        assert (tmp_path / name / pipeline.source.schema_ref).is_file()


def test_shipped_pipelines_are_run_from_the_image_each_by_workers_of_its_own() -> None:
    objects = build(SHIPPED)
    commands = [container(template)["command"] for template in pods(objects).values()]
    files = sorted(on_host(command[-1]) for command in commands)

    assert files == sorted(map(str, (ROOT / "pipelines").glob("*.yaml")))
    assert {tuple(command[:2]) for command in commands} == {("penstock", "run")}
    for template in pods(objects).values():
        env = environment(template, objects)
        pipeline = load_pipeline(Path(on_host(container(template)["command"][-1])), env)
        assert (pipeline.admin.host, pipeline.delivery.mode) == ("0.0.0.0", "exactly_once")


def test_a_gpu_is_asked_for_by_name_on_nodes_that_have_one(tmp_path: Path) -> None:
    objects = combined(tmp_path, "scale-on-lag", "gpu")
    template, lag = pods(objects)["mine-worker"], pods(objects)["mine-lag"]
    update = named(objects, "Deployment", "mine-worker")["spec"]["strategy"]["rollingUpdate"]

    assert container(template)["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert environment(template, objects)["PENSTOCK_DEVICE"] == "cuda:0"
    assert template["spec"]["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert "nvidia.com/gpu" in {toleration["key"] for toleration in template["spec"]["tolerations"]}
    assert len(template["spec"]["tolerations"]) == 3
    assert update == {"maxSurge": 0, "maxUnavailable": 1}  # no spare GPU for the new one
    assert "nvidia.com/gpu" not in container(lag)["resources"]["limits"]
    assert container(lag)["image"] == "penstock:cpu"


def test_prometheus_finds_workers_and_lag_under_the_jobs_that_the_rules_ask_for() -> None:
    (monitor,) = of_kind(build(MONITORING), "ServiceMonitor")
    services = [s for folder in FOLDERS for s in of_kind(build(folder), "Service")]
    found = [s for s in services if selects(monitor["spec"]["selector"], s["metadata"]["labels"])]
    jobs = {s["metadata"]["name"]: s["metadata"]["labels"][monitor["spec"]["jobLabel"]] for s in found}
    asked = set(re.findall(r'job="([^"]+)"', "".join(path.read_text() for path in RULES)))

    assert found == services
    assert asked <= {"penstock"}
    assert {job for name, job in jobs.items() if name.endswith("worker")} == {"penstock"}
    assert {job for name, job in jobs.items() if name.endswith("lag")} == {"penstock-lag"}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["path"] in PAGES
    assert all(port["name"] == endpoint["port"] for s in services for port in s["spec"]["ports"])
    # Those that are not ready are the ones to look at.
    assert all(s["spec"]["publishNotReadyAddresses"] for s in services)


def test_the_alert_rules_are_those_of_the_files_that_prometheus_reads_elsewhere() -> None:
    printed = _prometheus_rules()

    assert [fault for thing in printed for fault in faults(thing)] == []
    assert [thing["spec"] for thing in printed] == [yaml.safe_load(path.read_text()) for path in RULES]
    labelled = _prometheus_rules("kube-prometheus-stack")
    assert {thing["metadata"]["labels"]["release"] for thing in labelled} == {"kube-prometheus-stack"}
    assert [fault for thing in labelled for fault in faults(thing)] == []


def test_the_namespace_lets_nothing_in_that_needs_more_rights() -> None:
    (namespace,) = yaml.safe_load_all((KUBERNETES / "namespace.yaml").read_text())

    assert list(faults(namespace)) == []
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for folder in FOLDERS:
        assert {thing["metadata"]["namespace"] for thing in build(folder)} == {namespace["metadata"]["name"]}
