"""Finds every app's ``schedules.py``, as Django finds ``admin.py``."""

from collections.abc import Iterator
from importlib import import_module

from celery.exceptions import ImproperlyConfigured
from django.apps import apps
from django.utils.module_loading import module_has_submodule

from scheduling.schedule import Schedule


def declared() -> list[Schedule]:
    """What the ``schedules`` lists of all installed apps declare, in the order of the apps."""
    return [schedule for _, schedule in by_file()]


def by_file() -> Iterator[tuple[str, Schedule]]:
    """Each declared schedule, after the path of the file that declares it.

    An error in a ``schedules.py`` is raised as it is: it never looks like "no schedules".
    """
    for app in apps.get_app_configs():
        if not app.module or not module_has_submodule(app.module, "schedules"):
            continue
        try:
            module = import_module(f"{app.name}.schedules")
        except ImproperlyConfigured as error:
            if "ephem" in str(error):  # celery.schedules.solar needs it, and does not say how
                error.add_note("Install ephem: uv sync --no-dev --all-extras")
            raise
        for schedule in module.schedules:
            if not isinstance(schedule, Schedule):
                raise TypeError(f"{module.__file__}: {schedule!r} is no Schedule")
            yield str(module.__file__), schedule
