from typing import Any

from django.db import models
from django.db.models import Case, F, When
from django.db.models.signals import post_save, pre_save
from django.dispatch import receiver
from django_celery_beat.models import PeriodicTask

from scheduling.due import TIMING_KEYS


class Declaration(models.Model):
    """What code declared about a schedule when it was last seeded: the base of the next merge."""

    name = models.CharField(max_length=200, primary_key=True)
    # Empty after an operator has deleted the row; the next seeding says so.
    periodic_task = models.OneToOneField(
        PeriodicTask, models.SET_NULL, null=True, related_name="declaration"
    )
    values = models.JSONField()

    def __str__(self) -> str:
        return self.name


@receiver(pre_save, sender=PeriodicTask)
def keep_run_times(
    instance: PeriodicTask, raw: bool, update_fields: Any = None, **kwargs: Any
) -> None:
    """Saving a row that was read a while ago does not undo what beat has written since.

    A row that is enabled, or has another time, counts from now on: its last run is forgotten, as
    django-celery-beat forgets that of a disabled one.
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
    """The instance has values again, as it was read, in place of expressions."""
    if run_times := instance.__dict__.pop("_run_times", None):
        instance.last_run_at, instance.total_run_count = run_times
