"""The files for Compose, Kubernetes, GitHub and Dependabot: by their schemas, and by what they say.

tests/live/test_production.py runs what they name.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from tests.harness.deployment import VARIABLES, compose, manifests, pods
from tests.harness.project import OUTPUT, TEMPLATE, Project


@pytest.fixture(scope="module")
def project(bake: Callable[..., Project]) -> Project:
    return bake()


SCHEMAS = {
    "compose.yaml": "vendor.compose-spec",
    ".github/workflows/ci.yml": "vendor.github-workflows",
    ".github/dependabot.yml": "vendor.dependabot",
}


@pytest.mark.parametrize("file", SCHEMAS)
def test_a_file_is_as_its_schema_says(project: Project, file: str) -> None:
    schema = ["--builtin-schema", SCHEMAS[file]]
    subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *schema, project.path / file], check=True
    )


WORKFLOW = ".github/workflows/ci.yml"
PINNED = r"[\w./-]+:[\w.-]+@sha256:[0-9a-f]{64}"  # Dependabot brings tag and digest up to date


@pytest.mark.parametrize("folder", [TEMPLATE, OUTPUT])
def test_an_action_is_a_commit_and_its_release_stands_beside_it(folder: Path) -> None:
    uses = re.findall(r"uses: (.+)", (folder / WORKFLOW).read_text())

    assert uses
    for action in uses:
        assert re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action)


def test_an_image_is_a_digest(project: Project) -> None:
    """But Flower's, which Compose starts on request only, and the service's own."""
    texts = [(project.path / name).read_text() for name in ("compose.yaml", WORKFLOW)]
    images = re.findall(r"image: (\S+:\S+)", "".join(texts))
    bases = re.findall(r"FROM (\S+)", (project.path / "Dockerfile").read_text())

    assert len(images) == 5 and len(bases) == 3
    assert [name for name in images + bases if not re.fullmatch(PINNED, name)] == [
        "mher/flower:2.0"
    ]


@pytest.mark.parametrize("name", VARIABLES)
def test_compose_names_all_variables_when_one_is_missing(project: Project, name: str) -> None:
    with pytest.raises(KeyError) as error:
        compose(project, VARIABLES | {name: ""})

    assert all(variable in str(error.value) for variable in VARIABLES)


def test_compose_builds_the_image_once(project: Project) -> None:
    services = compose(project, VARIABLES)
    image = services["migrate"]["image"]

    assert [name for name, service in services.items() if "build" in service] == ["migrate"]
    others = [name for name, service in services.items() if service["image"] == image]
    assert others == ["web", "worker", "beat", "migrate"]
    assert all("migrate" in services[name]["depends_on"] for name in others[:-1])


def test_compose_keeps_each_service_within_bounds(project: Project) -> None:
    services = compose(project, VARIABLES)

    assert set(services) == {"web", "worker", "beat", "migrate", "postgres", "redis", "flower"}
    for name, service in services.items():
        assert {"cpus", "memory"} == set(service["deploy"]["resources"]["limits"]), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert "healthcheck" in service or name in ("migrate", "flower"), name
        assert service["restart"] == ("no" if name == "migrate" else "unless-stopped"), name
    for name in ("web", "worker", "beat", "migrate"):
        service = services[name]
        assert service["environment"]["DEBUG"] == "false"  # whatever .env says
        assert service["read_only"] and service["cap_drop"] == ["ALL"]
        assert service["environment"]["DATABASE_URL"].endswith(
            "@postgres:5432/postgres?sslmode=disable"
        )
    assert services["beat"]["deploy"]["replicas"] == 2
    assert services["flower"]["profiles"] == ["flower"]


# Kubernetes


def test_kubernetes_knows_each_manifest(project: Project) -> None:
    for item in manifests(project):
        kubernetes_validate.validate(item, "1.34", strict=True)


def test_the_kustomization_finds_what_it_names(project: Project) -> None:
    kustomization = yaml.safe_load((project.path / "deploy/kustomization.yaml").read_text())
    containers = [c for pod in pods(project).values() for c in pod["containers"]]
    sources = [next(iter(source.values()))["name"] for source in containers[0]["envFrom"]]

    assert all((project.path / "deploy" / name).exists() for name in kustomization["resources"])
    assert {c["image"] for c in containers} == {image["name"] for image in kustomization["images"]}
    made = [*kustomization["configMapGenerator"], *kustomization["secretGenerator"]]
    assert [generated["name"] for generated in made] == sources
    assert not [item for item in manifests(project) if item["kind"] == "Secret"]


def test_every_container_in_the_cluster_is_confined(project: Project) -> None:
    assert set(pods(project)) == {"migrate", "web", "worker", "beat"}
    for name, pod in pods(project).items():
        assert pod["automountServiceAccountToken"] is False, name
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["containers"] + pod.get("initContainers", []):
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name


def test_compose_and_kubernetes_run_the_same_commands(project: Project) -> None:
    services = compose(project, VARIABLES)
    for name, pod in pods(project).items():
        container, service = pod["containers"][0], services[name]
        assert " ".join(container.get("command", [])) == service.get("command", "")
        if name in ("worker", "beat"):
            probe = " ".join(container["readinessProbe"]["exec"]["command"])
            assert probe == service["healthcheck"]["test"]
    assert pods(project)["worker"]["containers"][0]["env"] == [
        {"name": "REMAP_SIGTERM", "value": services["worker"]["environment"]["REMAP_SIGTERM"]}
    ]
