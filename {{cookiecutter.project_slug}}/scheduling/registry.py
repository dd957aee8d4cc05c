"""Finds every app's ``schedules.py``, as Django finds ``admin.py``."""

from importlib import import_module

from django.apps import apps
from django.utils.module_loading import module_has_submodule

from scheduling.schedule import Schedule


def declared() -> list[Schedule]:
    """What the ``schedules`` lists of all installed apps declare, in the order of the apps.

    An error in a ``schedules.py`` is raised as it is: it never looks like "no schedules".
    """
    return [
        schedule
        for app in apps.get_app_configs()
        if app.module and module_has_submodule(app.module, "schedules")
        for schedule in import_module(f"{app.name}.schedules").schedules
    ]
