"""docker-compose.yml says nothing that the code does not know."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.deploy.compose_file import (
    OURS,
    ROOT,
    WORKERS,
    Service,
    created_topics,
    environment,
    on_host,
    published,
    services,
)
from tests.services.kafka_jars import kafka_version
from worker.config import load_pipeline

SERVICES = services()
PIPELINES = sorted((ROOT / "pipelines").glob("*.yaml"))
ONE_SHOT = {"topics"}
DAY_MS = 86_400_000


def _source_code() -> str:
    files = [*PIPELINES, *(p for pkg in ("worker", "loadgen") for p in (ROOT / pkg).rglob("*.py"))]
    return "\n".join(path.read_text() for path in files)


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    image = SERVICES[name]["image"]
    assert re.search(r":[\w.-]*\d|^penstock:", image)


def test_the_broker_is_the_one_that_the_tests_run_on() -> None:
    assert {SERVICES[name]["image"] for name in ("kafka", "topics")} == {f"apache/kafka:{kafka_version()}"}


@pytest.mark.parametrize("name", OURS)
def test_our_images_are_built_from_a_stage_of_the_dockerfile(name: str) -> None:
    build = SERVICES[name]["build"]
    dockerfile = ROOT / build["context"] / build["dockerfile"]
    assert re.search(rf"^FROM .* AS {build['target']}$", dockerfile.read_text(), re.MULTILINE)


def test_the_cuda_override_names_services_and_a_stage_that_exist() -> None:
    override = yaml.safe_load((ROOT / "deploy" / "compose.cuda.yml").read_text())["services"]
    assert override.keys() <= SERVICES.keys()
    for service in override.values():
        assert f"AS {service['build']['target']}\n" in (ROOT / "Dockerfile").read_text()
        assert service["environment"].keys() <= set(re.findall(r"PENSTOCK_\w+", _source_code()))


@pytest.mark.parametrize("name", SERVICES)
def test_every_mounted_path_is_in_the_repository_and_every_volume_declared(name: str) -> None:
    declared = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["volumes"]
    for entry in SERVICES[name].get("volumes", []):
        source = entry.split(":")[0]
        assert (ROOT / source).exists() if source.startswith(".") else source in declared


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_what_it_depends_on(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        if other in ONE_SHOT:
            assert how["condition"] == "service_completed_successfully"
        else:
            assert how["condition"] == "service_healthy"
            assert "healthcheck" in SERVICES[other]


@pytest.mark.parametrize("name", WORKERS)
def test_two_workers_a_pipeline_and_nothing_that_forbids_more(name: str) -> None:
    assert SERVICES[name]["deploy"]["replicas"] == 2
    assert not {"container_name", "ports", "hostname"} & SERVICES[name].keys()


def test_every_pipeline_has_workers_and_no_worker_has_a_file_that_is_not_there() -> None:
    files = {on_host(SERVICES[name]["command"][-1]) for name in WORKERS}
    assert files == {str(path) for path in PIPELINES}


@pytest.mark.parametrize("name", OURS)
def test_every_environment_variable_is_one_that_a_pipeline_file_or_the_code_reads(name: str) -> None:
    read = set(re.findall(r"PENSTOCK_\w+", _source_code()))
    assert environment(name).keys() <= read


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_loads_its_file_under_the_environment_of_its_container(name: str) -> None:
    env = environment(name)
    pipeline = load_pipeline(Path(on_host(SERVICES[name]["command"][-1])), env)

    assert pipeline.admin.host == env["PENSTOCK_ADMIN_HOST"]
    assert str(pipeline.admin.port) == env["PENSTOCK_ADMIN_PORT"]
    assert pipeline.delivery.mode == env["PENSTOCK_DELIVERY"]


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.name)
def test_every_topic_of_a_pipeline_is_created_and_inputs_outlast_the_longest_window(path: Path) -> None:
    text = path.read_text()
    outputs = re.findall(r"^  (?:scores|alerts|dead_letters): (\S+)$", text, re.MULTILINE)
    source = re.findall(r"^  topic: ([^$\s]+)", text, re.MULTILINE)
    created = created_topics()

    assert len(source) == 1
    assert {*source, *outputs} <= created.keys()
    days = [int(day) for day in re.findall(r"(\d+)d\b", " ".join(re.findall(r"windows: (.*)", text)))]
    lateness = [int(day) for day in re.findall(r"allowed_lateness: (\d+)d", text)]
    assert created[source[0]][1] >= (max(days, default=0) + max(lateness, default=0)) * DAY_MS


def test_no_topic_is_created_that_no_pipeline_uses() -> None:
    words = set(re.findall(r"[\w.-]+", "\n".join(path.read_text() for path in PIPELINES)))
    assert created_topics().keys() <= words


def test_programs_on_this_machine_reach_kafka_and_redis_at_the_defaults_of_the_pipeline_files() -> None:
    pipeline = load_pipeline(ROOT / "pipelines" / "fraud.yaml", {})
    kafka, redis = SERVICES["kafka"], SERVICES["redis"]
    advertised = kafka["environment"]["KAFKA_ADVERTISED_LISTENERS"]

    assert f"HOST://{pipeline.kafka.bootstrap}" in advertised
    assert published(kafka) == {9092: int(str(pipeline.kafka.bootstrap).rpartition(":")[2])}
    assert str(published(redis)[6379]) in (ROOT / "pipelines" / "fraud.yaml").read_text()


@pytest.mark.parametrize("name", OURS)
def test_containers_reach_kafka_at_a_listener_that_it_advertises(name: str) -> None:
    advertised = SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"]
    assert f"INSIDE://{environment(name)['PENSTOCK_KAFKA']}" in advertised


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_published_beyond_this_machine(name: str) -> None:
    assert all(entry.startswith("127.0.0.1:") for entry in SERVICES[name].get("ports", []))


def test_the_worker_listens_and_is_asked_and_is_scraped_at_one_port() -> None:
    prometheus = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    found = prometheus["scrape_configs"][0]["dns_sd_configs"][0]

    assert set(found["names"]) == set(WORKERS)
    assert {environment(name)["PENSTOCK_ADMIN_PORT"] for name in WORKERS} == {str(found["port"])}
    assert f"EXPOSE {found['port']}" in (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("name", WORKERS)
def test_the_host_accepts_the_workers_command_and_its_health_check(name: str) -> None:
    service: Service = SERVICES[name]
    program, run, file = service["command"]
    assert (program, run) == ("penstock", "run")

    checked = _penstock("validate", on_host(file))
    assert checked.returncode == 0, checked.stderr
    assert service["healthcheck"]["test"][:2] == ["CMD", "penstock"]
    # Nobody listens at this port: the check runs and says "unhealthy" (10), not "no such command" (2).
    answer = _penstock(*service["healthcheck"]["test"][2:], PENSTOCK_ADMIN_PORT="1")
    assert answer.returncode == 10, answer.stderr


def _penstock(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "worker.cli", *arguments],
        cwd=ROOT,
        env={**variables, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
