"""What operators do to schedules: run now, pause, resume, reset to code's values."""

from collections.abc import Iterable
from typing import Any
from uuid import uuid4

from celery import current_app
from django.db.models import QuerySet
from django.utils import timezone
from django_celery_beat.models import PeriodicTask, PeriodicTasks
from kombu.exceptions import OperationalError

from scheduling import database
from scheduling.declare import discovery
from scheduling.messages import RunMessage
from scheduling.models import Pause, Run, Trigger
from scheduling.sync.apply import seed
from scheduling.sync.report import lines

MARK_BATCH_SIZE = 5_000  # rows

Rows = QuerySet[PeriodicTask]


def run_now(rows: Iterable[PeriodicTask]) -> dict[PeriodicTask, str]:
    """Send a run of each row as beat would, due now. The row's own due times do not change.

    Returns the reason why each row was not sent; an empty text if it was.
    """
    current_app.loader.import_default_modules()  # the web has not imported the tasks yet
    reasons: dict[PeriodicTask, str] = {}
    broker_error = ""
    for row in rows:
        try:
            reasons[row] = broker_error or _send(row)
        except OperationalError as error:  # wait for a dead broker only once
            reasons[row] = broker_error = f"the broker is unreachable: {error}"
        except Exception as error:  # whatever Celery raises for the values that people stored
            reasons[row] = f"{type(error).__name__}: {error}"
    return reasons


def _send(row: PeriodicTask) -> str:
    if row.task not in current_app.tasks:
        return f"no worker knows the task {row.task!r}"
    now, message = timezone.now(), RunMessage(row)
    message.name_run(uuid4(), now, now, Trigger.MANUAL)
    task: Any = current_app.tasks[row.task]
    with database.atomic():
        Run.objects.create(
            id=message.options["task_id"],
            periodic_task=row,
            schedule=row.name,
            task=row.task,
            scheduled_for=now,
            trigger=Trigger.MANUAL,
            queue=message.options.get("queue") or current_app.conf.task_default_queue,
            queued_at=now,
            ready_at=now,
        )
        task.apply_async(message.args, message.kwargs, **message.options)
    return ""


def pause(rows: Iterable[PeriodicTask]) -> list[PeriodicTask]:
    """Disable rows; ``resume_all`` will not enable them. Returns those that were enabled."""
    return _set_enabled(rows, False)


def resume(rows: Iterable[PeriodicTask]) -> list[PeriodicTask]:
    """Enable rows. They count from now: each runs when it is due next. Returns those that were
    disabled, without those that have expired: beat would disable them again."""
    return _set_enabled(rows, True)


def _set_enabled(rows: Iterable[PeriodicTask], enabled: bool) -> list[PeriodicTask]:
    keys = [row.pk for row in rows]
    with database.atomic():
        Pause.objects.filter(pk__in=keys).delete()
        found = _locked().filter(pk__in=keys, enabled=not enabled)
        changed = list(found.exclude(expires__lte=timezone.now()) if enabled else found)
        _update(PeriodicTask.objects.filter(pk__in=[row.pk for row in changed]), enabled)
        return changed


def reset(name: str) -> list[str]:
    """Give the row of a declared schedule code's values. Returns a text for each change.

    Raises ``KeyError`` if no code declares a schedule of that name.
    """
    declared = discovery.declared()
    if name not in {schedule.name for schedule in declared}:
        raise KeyError(name)
    with database.atomic():
        changes = seed(declared, reset=name)
        Pause.objects.filter(periodic_task__declaration__name=name).delete()
    return [text for change in changes for _, text in lines(change)]


def pause_all() -> list[PeriodicTask]:
    """Disable all enabled rows and mark them for ``resume_all``. Returns them."""
    with database.atomic():
        rows = _locked().filter(enabled=True)
        paused = list(rows)
        marks = [Pause(periodic_task=row) for row in paused]
        Pause.objects.bulk_create(marks, batch_size=MARK_BATCH_SIZE, ignore_conflicts=True)
        # Only marked rows: somebody may have enabled others in the meantime.
        _update(_marked().filter(enabled=True), False)
        return paused


def resume_all() -> list[PeriodicTask]:
    """Enable the rows that ``pause_all`` disabled. They count from now. Returns them."""
    with database.atomic():
        rows = _locked().filter(enabled=False, pk__in=Pause.objects.values("pk"))
        resumed = list(rows)
        _update(_marked().filter(enabled=False), True)
        Pause.objects.all().delete()
        return resumed


def _locked() -> Rows:
    rows: Rows = PeriodicTask.objects.select_for_update().order_by("name")
    return rows


def _marked() -> Rows:
    rows: Rows = PeriodicTask.objects.filter(pk__in=Pause.objects.values("pk"))
    return rows


def _update(rows: Rows, enabled: bool) -> int:
    """Enable or disable rows and make every beat reload. Returns the number of changed rows.

    Clears their last run, as ``models.keep_run_times`` does, so that they count from now.
    """
    changed = rows.order_by().update(enabled=enabled, last_run_at=None, date_changed=timezone.now())
    if changed:
        PeriodicTasks.update_changed()
    return changed
