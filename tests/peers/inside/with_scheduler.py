"""Settings and a pytest plugin: django-celery-beat's suite on the engine's scheduler."""

from scheduling.defaults import *  # noqa: F403
from t.proj.settings import *  # noqa: F403
from t.proj.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "django_celery_results", "scheduling"]


def pytest_collection() -> None:
    from django_celery_beat import schedulers
    from scheduling.beat.scheduler import DatabaseScheduler

    schedulers.DatabaseScheduler = DatabaseScheduler
