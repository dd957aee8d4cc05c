"""Periodic tasks for Django and Celery. README.md has the rooms."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scheduling.declare.schedule import Schedule
    from scheduling.one_off import run_at

__all__ = ["Schedule", "run_at"]

MODULES = {"Schedule": "scheduling.declare.schedule", "run_at": "scheduling.one_off"}


def __getattr__(name: str) -> Any:
    """Import a name when it is used: settings import this package before apps are loaded."""
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(MODULES[name]), name)
