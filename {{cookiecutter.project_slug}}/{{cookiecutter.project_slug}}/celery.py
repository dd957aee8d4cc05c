import os
from typing import Any

from celery import Celery
from celery.signals import task_postrun, task_prerun
from django.db import close_old_connections

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "{{cookiecutter.project_slug}}.settings")

app = Celery("{{cookiecutter.project_slug}}")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@task_prerun.connect
@task_postrun.connect
def close_broken_connections(task: Any, **kwargs: Any) -> None:
    """Workers keep their database connection from task to task (CELERY_DB_REUSE_MAX), unless it is
    too old or broken: as Django's web does from request to request."""
    if not task.request.is_eager:
        close_old_connections()
