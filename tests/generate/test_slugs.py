"""A slug must not hide a package or module that a service uses, on any Python and platform."""

import re
import shutil
import sys
import tomllib
from collections.abc import Callable

import pytest

from tests.harness.hook import listed, possible_slugs
from tests.harness.project import Project


def test_every_package_that_any_platform_needs_is_refused(bake: Callable[..., Project]) -> None:
    """By a lock: uv resolves it for all platforms and Pythons at once."""
    if not shutil.which("uv"):
        pytest.fail("There is no uv on the PATH: run the tests with make test-fast.")
    project = bake()
    project.run("uv", "lock", "--quiet")

    lock = tomllib.loads((project.path / "uv.lock").read_text())
    names = [re.sub(r"[-.]+", "_", package["name"]) for package in lock["package"]]

    assert "async_timeout" in names  # redis needs it before Python 3.11.3
    assert possible_slugs(names) - {project.slug} - set(listed("TAKEN")) == set()


def test_every_folder_and_module_of_a_service_is_refused(bake: Callable[..., Project]) -> None:
    project = bake()
    names = [path.stem for path in project.path.iterdir() if path.is_dir() or path.suffix == ".py"]

    assert possible_slugs(names) - {project.slug} - set(listed("TAKEN")) == set()


def test_the_names_stand_in_order() -> None:
    assert listed("TAKEN") == sorted(set(listed("TAKEN")))


def test_every_python_refuses_the_same_modules() -> None:
    """As many on each: the tests run on several."""
    refused = possible_slugs(sys.stdlib_module_names) | set(listed("NOT_IN_EVERY_PYTHON"))

    assert len(refused) == 218
