import logging
from datetime import timedelta
from typing import Any

from celery import shared_task
from django.db.models import QuerySet
from django.utils import timezone

from scheduling import database
from scheduling.conf import conf
from scheduling.models import Change, Node, Run
from scheduling.one_off import delete_left_over

DELETE_BATCH_SIZE = 1_000  # rows: their locks are held for a short time
LOG_KEPT_FOR = timedelta(days=1)  # a beat that has not read it for longer compares all rows

logger = logging.getLogger(__name__)


@shared_task
def clean_up_history() -> int:
    """Delete runs older than the setting ``RUN_HISTORY_DAYS``. Returns how many were deleted."""
    retention = timedelta(days=conf.RUN_HISTORY_DAYS)
    oldest = timezone.now() - retention
    runs = Run.objects.using(database.alias())
    deleted = _delete(runs.filter(scheduled_for__lt=oldest).order_by("scheduled_for"))
    changes = Change.objects.using(database.alias())
    _delete(changes.filter(made_at__lt=timezone.now() - LOG_KEPT_FOR).order_by("pk"))
    Node.objects.filter(seen_at__lt=oldest).delete()
    delete_left_over(oldest)
    logger.info("Deleted %s runs older than %s", deleted, oldest)
    return deleted


def _delete(rows: QuerySet[Any]) -> int:
    """Delete rows in batches, in their order. Returns how many."""
    deleted = 0
    while keys := list(rows.values_list("pk", flat=True)[:DELETE_BATCH_SIZE]):
        rows.model._default_manager.using(rows.db).filter(pk__in=keys).delete()
        deleted += len(keys)
    return deleted
