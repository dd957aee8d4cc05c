from typing import Any

from celery import states
from django.db import models
from django.db.models import Case, F, When
from django.db.models.signals import post_save, pre_save
from django.dispatch import receiver
from django_celery_beat.models import PeriodicTask
from django_celery_results.models import TaskResult

from scheduling.timing import TIMING_KEYS

FAILED = (states.FAILURE, states.REVOKED)  # an expired run is REVOKED: no worker took it up in time
FINISHED = (states.SUCCESS, *FAILED)


class Declaration(models.Model):
    """What code declared about a schedule at the last seeding: the base of the next merge."""

    name = models.CharField(max_length=200, primary_key=True)
    # None after an operator has deleted the row; the next seeding says so.
    periodic_task = models.OneToOneField(
        PeriodicTask, models.SET_NULL, null=True, related_name="declaration"
    )
    values = models.JSONField()

    class Meta:
        default_permissions = ()
        permissions = [("run_schedule", "Can run a schedule now")]

    def __str__(self) -> str:
        return self.name


class RunQuerySet(models.QuerySet["Run"]):
    def rename(self, old: str, new: str) -> None:
        """Let the runs of a schedule follow it to its new name."""
        TaskResult.objects.filter(periodic_task_name=old).update(periodic_task_name=new)
        self.filter(schedule=old).update(schedule=new)


class Run(models.Model):
    """A run of a schedule: what beat's message said, beside the worker's result of the task."""

    result = models.OneToOneField(TaskResult, models.CASCADE, primary_key=True)
    schedule = models.CharField(max_length=200)  # its name: the history outlives the row
    scheduled_for = models.DateTimeField()
    queued_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)  # its first try; None if it had expired
    finished_at = models.DateTimeField(null=True)
    retries = models.PositiveIntegerField(default=0)

    objects = RunQuerySet.as_manager()

    class Meta:
        default_permissions = ("view",)
        indexes = [
            models.Index(fields=["schedule", "-scheduled_for"], name="scheduling_run_schedule"),
            models.Index(fields=["scheduled_for"], name="scheduling_run_time"),
        ]

    def __str__(self) -> str:
        return f"{self.schedule}, due at {self.scheduled_for}"


class Heartbeat(models.Model):
    """When a beat ticked last."""

    beat = models.CharField(max_length=255, primary_key=True)  # its host and process
    ticked_at = models.DateTimeField()

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return self.beat


class Pause(models.Model):
    """A schedule that was paused by "pause all"; "resume all" resumes it."""

    periodic_task = models.OneToOneField(PeriodicTask, models.CASCADE, primary_key=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return str(self.periodic_task)


class Counter(models.Model):
    """A count over all processes that never falls."""

    UNREADABLE = "unreadable_messages"  # that workers put aside

    name = models.CharField(max_length=50, primary_key=True)
    value = models.PositiveBigIntegerField(default=0)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"{self.name}: {self.value}"

    @classmethod
    def add(cls, name: str, number: int) -> None:
        cls.objects.get_or_create(name=name)
        cls.objects.filter(name=name).update(value=F("value") + number)


@receiver(pre_save, sender=PeriodicTask)
def keep_run_times(
    instance: PeriodicTask, raw: bool, update_fields: Any = None, **kwargs: Any
) -> None:
    """Keep beat's columns as the database has them: an instance that is saved may be old.

    A row that is enabled, or gets another time, counts from now: its last run is cleared, as
    django-celery-beat clears that of a disabled row.
    """
    if raw or update_fields or instance._state.adding or instance.no_changes:
        return  # the last is how django-celery-beat's own scheduler saves run times
    instance._run_times = instance.last_run_at, instance.total_run_count
    instance.total_run_count = F("total_run_count")
    if instance.enabled:
        same_time = {column: getattr(instance, column) for column in (*TIMING_KEYS, "start_time")}
        instance.last_run_at = Case(When(enabled=True, **same_time, then=F("last_run_at")))


@receiver(post_save, sender=PeriodicTask)
def put_run_times_back(instance: PeriodicTask, **kwargs: Any) -> None:
    """Give the instance its values back in place of expressions.

    A row that somebody enables by itself is not "paused with all" any more.
    """
    if run_times := instance.__dict__.pop("_run_times", None):
        instance.last_run_at, instance.total_run_count = run_times
        if instance.enabled:
            Pause.objects.filter(periodic_task=instance).delete()
