"""The next due times of a form that is not saved yet."""

import pytest
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import CrontabSchedule, IntervalSchedule

from tests.admin.pages import form, text_of
from tests.factories import MINUTE, NOON, every, make

pytestmark = pytest.mark.django_db


def test_the_next_five_times_are_shown_before_saving(admin_client: Client) -> None:
    crontab = CrontabSchedule.objects.create(hour="3", minute="0", timezone="UTC")

    text = text_of(admin_client.get(reverse("admin:scheduling_preview"), form(crontab=crontab.pk)))

    assert "at 03:00, UTC" in text
    assert text.count("<time ") == 5 and ">02 Jun 03:00:00</time>" in text


def test_a_preview_of_a_row_counts_as_its_saving_would(admin_client: Client) -> None:
    row = make("Row", last_run_at=NOON - 4 * MINUTE, **every(10))
    preview = reverse("admin:scheduling_preview")
    another = IntervalSchedule.objects.create(every=20, period="minutes")

    unchanged = admin_client.get(preview, form(interval=row.interval_id, pk=row.pk))
    changed = admin_client.get(preview, form(interval=another.pk, pk=row.pk))

    assert ">12:06:00</time>" in text_of(unchanged)
    assert ">12:20:00</time>" in text_of(changed)
    row.refresh_from_db()
    assert row.last_run_at == NOON - 4 * MINUTE


@pytest.mark.parametrize(
    "values", [{"interval": ""}, {"crontab": "999"}, {"start_time_0": "x"}, {}]
)
def test_a_preview_of_what_is_not_right_yet_is_no_error(
    admin_client: Client, values: dict[str, str]
) -> None:
    answer = admin_client.get(
        reverse("admin:scheduling_preview"), form(**{"interval": ""} | values)
    )

    assert answer.status_code == 200
    assert "it has no schedule, or several" in text_of(answer)
