from django.db import models
from django_celery_beat.models import PeriodicTask


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
