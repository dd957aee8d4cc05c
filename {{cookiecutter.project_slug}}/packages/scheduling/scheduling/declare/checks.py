"""System checks: find what is wrong with the schedules before one of them runs."""

import logging
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlsplit

from celery import current_app
from celery.signals import beat_init, worker_init
from django.conf import settings
from django.core import mail
from django.core.checks import CheckMessage, Error, Warning, register
from django.db import connections, router
from django.utils.module_loading import autodiscover_modules
from django_celery_beat.models import PeriodicTask

from scheduling.declare import discovery
from scheduling.models import Declaration

VENDORS = {"postgresql", "sqlite"}
REDIS = {"embedded", "redis", "rediss", "sentinel"}  # schemes of brokers
HOUR = 3600  # seconds

logger = logging.getLogger(__name__)


@register
def check_declared(**kwargs: Any) -> list[CheckMessage]:
    """Each schedule has a unique name, a registered task, and a ``renamed_from`` that is free."""
    autodiscover_modules("tasks")  # Celery's own autodiscovery would run these checks again
    found = list(discovery.by_file())
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
                    f"{schedule.renamed_from!r}, but a schedule of that name is still declared.",
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
        names = ", ".join(map(repr, celery.beat_schedule))
        messages.append(
            Warning(
                f"CELERY_BEAT_SCHEDULE has {names}: each start of beat overwrites operators' "
                "changes to them.",
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
                "CELERY_TASK_ALWAYS_EAGER is on: beat runs the tasks itself, and a slow task "
                "delays all schedules.",
                hint="Use it in unit tests only; make dev runs a worker.",
                id="scheduling.W006",
            )
        )
    return messages


@register
def check_database(**kwargs: Any) -> list[CheckMessage]:
    """The engine's tables are in one database, which it knows. Plain ``check`` says so too."""
    used = {
        model._meta.app_label: router.db_for_write(model) for model in (PeriodicTask, Declaration)
    }
    messages: list[CheckMessage] = []
    if len(set(used.values())) > 1:
        where = ", ".join(f"{app} in {alias!r}" for app, alias in used.items())
        messages.append(
            Error(
                f"DATABASE_ROUTERS puts the scheduler's tables into several databases: {where}.",
                hint="Name one database for these apps.",
                id="scheduling.E009",
            )
        )
    for alias in dict.fromkeys(used.values()):
        if connections[alias].vendor not in VENDORS:
            name = connections[alias].display_name
            messages.append(
                Error(
                    f"The database {alias!r} is {name}, which the scheduler does not support.",
                    hint="Use PostgreSQL, or SQLite on one machine.",
                    id="scheduling.E007",
                )
            )
    return messages


@register
def check_limits(**kwargs: Any) -> list[CheckMessage]:
    """Redis does not deliver a task again while it waits for its retry or runs."""
    conf: Any = current_app.conf
    if urlsplit(conf.broker_read_url or "").scheme.partition("+")[0] not in REDIS:
        return []
    autodiscover_modules("tasks")
    timeout = conf.broker_transport_options.get("visibility_timeout") or _default_timeout()
    messages: list[CheckMessage] = []
    for name, task in sorted(current_app.tasks.items()):
        limit, pause = _time_limit(task), _longest_pause(task)
        if name.startswith("celery.") or not limit or limit + pause < timeout:
            continue
        enough = (limit + pause) // HOUR * HOUR + HOUR
        messages.append(
            Warning(
                f"Task {name!r} may wait {pause} s for a retry and then run for {limit} s, its "
                f"time limit: Redis delivers it again after visibility_timeout, {timeout} s, and "
                "two workers run it at once.",
                hint='Set CELERY_BROKER_TRANSPORT_OPTIONS["visibility_timeout"] = '
                f"{enough} in the settings, or lower the task's limits.",
                id="scheduling.W008",
            )
        )
    return messages


def _default_timeout() -> int:
    from kombu.transport.redis import Channel  # loads redis-py, which costs each command 0.1 s

    return int(Channel.visibility_timeout)


def _time_limit(task: Any) -> int | None:
    """For how many seconds a task may run; None without a limit."""
    conf: Any = current_app.conf
    hard = task.time_limit or conf.task_time_limit
    soft = task.soft_time_limit or conf.task_soft_time_limit
    limit = hard or soft
    return int(limit) if limit else None


def _longest_pause(task: Any) -> int:
    """How many seconds a task may wait for its next try, as far as its options say."""
    if task.max_retries == 0:
        return 0
    pauses = [task.default_retry_delay]
    if getattr(task, "autoretry_for", ()) and getattr(task, "retry_backoff", False):
        pauses.append(getattr(task, "retry_backoff_max", 600))
    return int(max(pauses))


@worker_init.connect
@beat_init.connect
def check_at_start(**kwargs: Any) -> None:
    """Log what a worker or beat should know, which Celery does not, and end what cannot work."""
    messages = [*check_database(), *check_limits()]
    for message in messages:
        logger.log(message.level, "%s", message)  # Django's levels are those of logging
    if any(message.is_serious() for message in messages):
        raise SystemExit(1)  # Celery only logs an Exception of a signal's receiver
