"""The example of a worker for a second queue."""

import re
from collections.abc import Callable

import yaml

from tests.harness.project import Project


def test_compose_s_example_of_a_second_queue_works_when_it_is_uncommented(
    bake: Callable[..., Project],
) -> None:
    service = bake()
    text = (service.path / "compose.yaml").read_text()
    example = re.search(r"(?:^  # {1,3}[w<c].*\n){3}", text, re.MULTILINE)
    assert example
    uncommented = text.replace(example[0], re.sub(r"^  # ", "  ", example[0], flags=re.MULTILINE))

    services = yaml.safe_load(uncommented)["services"]

    command = f"celery -A {service.slug} worker -Q long --loglevel=info"
    assert services["worker-long"] == services["worker"] | {"command": command}
