"""Find every app's ``schedules.py``, as Django finds ``admin.py``."""

from collections.abc import Iterator
from importlib import import_module

from celery.exceptions import ImproperlyConfigured
from django.apps import apps
from django.utils.module_loading import module_has_submodule

from scheduling.declare.schedule import Schedule


def declared() -> list[Schedule]:
    """All declared schedules, in the order of ``INSTALLED_APPS``."""
    return [schedule for _, schedule in by_file()]


def by_file() -> Iterator[tuple[str, Schedule]]:
    """The path of each ``schedules.py`` with each schedule that it declares.

    Raises whatever a ``schedules.py`` raises, so that an error never looks like "no schedules".
    """
    for app in apps.get_app_configs():
        if not app.module or not module_has_submodule(app.module, "schedules"):
            continue
        try:
            module = import_module(f"{app.name}.schedules")
        except ImproperlyConfigured as error:
            if "ephem" in str(error):  # celery.schedules.solar does not say how to install it
                error.add_note("Install ephem: uv sync --no-dev --all-extras")
            raise
        for schedule in module.schedules:
            if not isinstance(schedule, Schedule):
                raise TypeError(
                    f"{module.__file__}: {schedule!r} is not a Schedule; put only Schedule(...) "
                    "into the list schedules"
                )
            yield str(module.__file__), schedule
