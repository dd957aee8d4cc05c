"""What code declares is not deleted here, nor with a timing."""

import pytest
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import PeriodicTask

from tests.admin.pages import LIST, choose, declared, text_of
from tests.factories import every, make

pytestmark = pytest.mark.django_db


def test_what_an_operator_has_renamed_is_still_declared(admin_client: Client) -> None:
    row = declared()
    PeriodicTask.objects.filter(pk=row.pk).update(name="Another name")
    delete = reverse("admin:django_celery_beat_periodictask_delete", args=[row.pk])

    assert "declared in scheduling/schedules.py" in text_of(admin_client.get(LIST))
    assert "Remove it there" in text_of(admin_client.post(delete, {"post": "yes"}))
    choose(admin_client, "reset", row)
    row.refresh_from_db()
    assert row.name == "Clean up the run history"


def test_what_code_declares_is_not_deleted(admin_client: Client) -> None:
    row, mine = declared(), make("Mine", **every(10))
    reason = "Clean up the run history: declared in scheduling/schedules.py. Remove it there"
    delete = reverse("admin:django_celery_beat_periodictask_delete", args=[row.pk])
    timing = reverse("admin:django_celery_beat_crontabschedule_delete", args=[row.crontab_id])
    selected = {"action": "delete_selected", "_selected_action": [row.pk, mine.pk], "post": "yes"}

    for answer in (
        admin_client.post(delete, {"post": "yes"}),
        admin_client.post(timing, {"post": "yes"}),
        admin_client.post(LIST, selected),
    ):
        assert reason in text_of(answer)
    assert PeriodicTask.objects.filter(pk__in=[row.pk, mine.pk]).count() == 2

    admin_client.post(LIST, selected | {"_selected_action": [mine.pk]})
    assert not PeriodicTask.objects.filter(pk=mine.pk).exists()
