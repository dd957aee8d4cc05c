"""System checks: what is wrong with the schedules, before one of them runs."""

from difflib import get_close_matches
from typing import Any

from celery import current_app
from django.conf import settings
from django.core import mail
from django.core.checks import CheckMessage, Error, Warning, register
from django.utils.module_loading import autodiscover_modules

from scheduling import registry


@register
def check_declared(**kwargs: Any) -> list[CheckMessage]:
    """Every schedule has a name of its own and a task that a worker knows."""
    autodiscover_modules("tasks")  # not Celery's, which runs the checks itself
    found = list(registry.by_file())
    files: dict[str, list[str]] = {}
    for file, schedule in found:
        files.setdefault(schedule.name, []).append(file)
    messages: list[CheckMessage] = [
        Error(
            f"{len(where)} schedules are called {name!r}, in {' and in '.join(where)}.",
            hint="Give each a name of its own.",
            id="scheduling.E001",
        )
        for name, where in files.items()
        if len(where) > 1
    ]
    for file, schedule in found:
        if schedule.task_name not in current_app.tasks:
            near = get_close_matches(schedule.task_name, current_app.tasks, n=1)
            messages.append(
                Error(
                    f"Schedule {schedule.name!r} in {file} is for the task "
                    f"{schedule.task_name!r}, which no installed app registers.",
                    hint=f"Did you mean {near[0]!r}?" if near else "Look at its app's tasks.py.",
                    id="scheduling.E002",
                )
            )
        if schedule.renamed_from in files:
            messages.append(
                Error(
                    f"Schedule {schedule.name!r} in {file} says renamed_from="
                    f"{schedule.renamed_from!r}, but a schedule of that name is declared.",
                    hint="Remove one of the two.",
                    id="scheduling.E003",
                )
            )
    return messages


@register
def check_settings(**kwargs: Any) -> list[CheckMessage]:
    """No setting of Celery's undoes what ``schedules.py`` declares."""
    celery = current_app.conf
    messages: list[CheckMessage] = []
    if celery.beat_schedule:
        messages.append(
            Warning(
                f"CELERY_BEAT_SCHEDULE has {', '.join(map(repr, celery.beat_schedule))}: beat "
                "writes them over operators' changes at each start.",
                hint="Declare them in an app's schedules.py instead.",
                id="scheduling.W004",
            )
        )
    if str(current_app.timezone) != settings.TIME_ZONE:
        messages.append(
            Warning(
                f"CELERY_TIMEZONE is {str(current_app.timezone)!r}, TIME_ZONE is "
                f"{settings.TIME_ZONE!r}: crontabs run at other times than the admin shows.",
                hint="Set CELERY_TIMEZONE = TIME_ZONE.",
                id="scheduling.W005",
            )
        )
    # Only tests have an outbox: https://docs.djangoproject.com/en/5.2/topics/testing/tools/
    if celery.task_always_eager and not hasattr(mail, "outbox"):
        messages.append(
            Warning(
                "CELERY_TASK_ALWAYS_EAGER is on: beat runs the tasks itself, and a slow one holds "
                "up all schedules.",
                hint="Leave it to unit tests; make dev runs a worker.",
                id="scheduling.W006",
            )
        )
    return messages
