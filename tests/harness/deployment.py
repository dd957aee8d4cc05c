"""What a service has for Compose and Kubernetes, read as these read it."""

import re
from typing import Any

import yaml

from tests.harness.project import Project

# What compose.yaml needs of its .env.
VARIABLES = {
    "SECRET_KEY": "kF3-vX9_qLz2RbN7wYc5TgHs8JmPd4Ae6UoKi1ZxQvWnEyBtCjSfMhDrGaLpOu",
    "ALLOWED_HOSTS": "portal.example.com",
    "EMAIL_URL": "smtp://127.0.0.1:25",
    "POSTGRES_PASSWORD": "password",
}


def interpolate(data: Any, variables: dict[str, str]) -> Any:
    """As Compose does in each value: ${NAME:?message}, ${NAME:-default}, ${NAME} and $$."""
    if isinstance(data, dict):
        return {key: interpolate(item, variables) for key, item in data.items()}
    if isinstance(data, list):
        return [interpolate(item, variables) for item in data]
    if not isinstance(data, str):
        return data

    def value(found: re.Match[str]) -> str:
        if found[0] == "$$":
            return "$"
        if variables.get(found["name"]):
            return variables[found["name"]]
        if found["kind"] == ":?":
            raise KeyError(found["rest"])
        return found["rest"] or ""

    return re.sub(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<kind>:[-?])(?P<rest>[^}]*))?\})", value, data)


def compose(project: Project, variables: dict[str, str]) -> dict[str, Any]:
    """The services of compose.yaml."""
    services = yaml.safe_load((project.path / "compose.yaml").read_text())["services"]
    interpolated: dict[str, Any] = interpolate(services, variables)
    return interpolated


def manifests(project: Project) -> list[dict[str, Any]]:
    text = (project.path / "deploy/kubernetes.yaml").read_text()
    items: list[dict[str, Any]] = yaml.safe_load(text)["items"]
    return items


def pods(project: Project) -> dict[str, dict[str, Any]]:
    """The pod of each deployment and job of deploy/kubernetes.yaml, by its name."""
    return {
        item["metadata"]["name"]: item["spec"]["template"]["spec"]
        for item in manifests(project)
        if item["kind"] in ("Deployment", "Job")
    }
