"""What operators do to schedules: run now, pause, resume, back to the code's values."""

from collections.abc import Iterable
from datetime import UTC
from typing import Any

from celery import current_app
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django_celery_beat.models import PeriodicTask, PeriodicTasks
from kombu.exceptions import OperationalError

from scheduling import registry, seed
from scheduling.due import TIMINGS
from scheduling.models import Pause
from scheduling.scheduler import Entry

Rows = QuerySet[PeriodicTask]


def run_now(rows: Iterable[PeriodicTask]) -> dict[PeriodicTask, str]:
    """Send a run of each row as beat would, due now; its schedule goes on as if there were none.

    Returns why a row was not sent, or an empty text if it was.
    """
    current_app.loader.import_default_modules()  # tasks, which the web has no other use for
    told: dict[PeriodicTask, str] = {}
    away = ""
    for row in rows:
        try:
            told[row] = away or _send(row)
        except OperationalError as error:  # one wait for it is enough
            told[row] = away = f"the broker is away: {error}"
        except Exception as error:  # whatever Celery raises for what people have stored
            told[row] = f"{type(error).__name__}: {error}"
    return told


def _send(row: PeriodicTask) -> str:
    if row.task not in current_app.tasks:
        return f"no worker knows the task {row.task!r}"
    now = timezone.now().astimezone(UTC).isoformat()
    entry = Entry(row)
    entry.options["headers"] |= {"scheduled_for": now, "queued_at": now}
    task: Any = current_app.tasks[row.task]
    task.apply_async(entry.args, entry.kwargs, **entry.options)
    return ""


def pause(rows: Iterable[PeriodicTask]) -> list[PeriodicTask]:
    """Disable rows. What is paused by itself is not resumed with all. Returns which were."""
    return _enable(rows, False)


def resume(rows: Iterable[PeriodicTask]) -> list[PeriodicTask]:
    """Enable rows, which count from now: each runs at its next time. Returns which were."""
    return _enable(rows, True)


def _enable(rows: Iterable[PeriodicTask], enabled: bool) -> list[PeriodicTask]:
    keys = [row.pk for row in rows]
    with transaction.atomic():
        Pause.objects.filter(pk__in=keys).delete()
        changed = list(_locked().filter(pk__in=keys, enabled=not enabled))
        _update(PeriodicTask.objects.filter(pk__in=[row.pk for row in changed]), enabled)
        return changed


def reset(name: str) -> list[str]:
    """Give one row the code's values. Returns what changed; ``KeyError`` if no code declares it."""
    declared = registry.declared()
    if name not in {schedule.name for schedule in declared}:
        raise KeyError(name)
    changes = seed.seed(declared, reset=name)
    return [text for change in changes for _, text in change.lines]


def pause_all() -> list[PeriodicTask]:
    """Disable all enabled rows, and remember which they were. Returns them."""
    with transaction.atomic():
        rows = _locked().filter(enabled=True)
        paused = list(rows)
        marks = [Pause(periodic_task=row) for row in paused]
        Pause.objects.bulk_create(marks, batch_size=5_000, ignore_conflicts=True)
        _update(rows, False)
        return paused


def resume_all() -> list[PeriodicTask]:
    """Enable the rows that ``pause_all`` disabled, which count from now. Returns them."""
    with transaction.atomic():
        rows = _locked().filter(enabled=False, pause__isnull=False)
        resumed = list(rows)
        _update(PeriodicTask.objects.filter(enabled=False, pk__in=Pause.objects.values("pk")), True)
        Pause.objects.all().delete()
        return resumed


def _locked() -> Rows:
    rows: Rows = PeriodicTask.objects.select_related(*TIMINGS).order_by("name")
    return rows.select_for_update(of=("self",))


def _update(rows: Rows, enabled: bool) -> int:
    """Let rows count from now, as saving does (``models.keep_run_times``), and every beat look."""
    changed = rows.order_by().update(enabled=enabled, last_run_at=None, date_changed=timezone.now())
    if changed:
        PeriodicTasks.update_changed()
    return changed
