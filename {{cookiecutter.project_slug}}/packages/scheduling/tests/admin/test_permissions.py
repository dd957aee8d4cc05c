"""Who may see and do what."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import (
    PeriodicTask,
)

from scheduling.models import Run
from tests.admin.pages import LIST, TIMELINE, choose, declared, page_of, text_of
from tests.factories import NOON, store

pytestmark = pytest.mark.django_db


ACTIONS = ["run_now", "pause", "resume", "reset", "delete_selected"]


def test_without_permission_nothing_is_seen_or_done(user: Callable[..., Client]) -> None:
    row, client = declared(), user("view_user")
    urls = [
        reverse(f"admin:scheduling_{n}") for n in ("timeline", "preview", "pause_all", "resume_all")
    ]

    for url in (LIST, page_of(row), *urls):
        assert client.get(url).status_code == 403, url
        assert client.post(url).status_code == 403, url
    for action in ACTIONS:
        assert (
            client.post(
                LIST,
                {"action": action, "_selected_action": [row.pk], "confirmed": "yes", "post": "yes"},
            ).status_code
            == 403
        )
    row.refresh_from_db()
    assert row.enabled


def test_nobody_without_a_login_sees_anything(client: Client) -> None:
    for url in (LIST, TIMELINE, page_of(declared()), reverse("admin:scheduling_preview")):
        assert reverse("admin:login") in client.get(url).headers["Location"]


def test_who_may_look_may_not_act(
    user: Callable[..., Client], sent: Callable[..., list[Any]]
) -> None:
    row, client = declared(), user("view_periodictask")
    store(row.name, NOON, "started", "failed")
    Run.objects.update(error="Oh: secret", traceback="secret")

    text = text_of(client.get(LIST))
    assert "declared in" in text and "Pause all" not in text
    page = text_of(client.get(page_of(row)))
    assert '<svg class="chart"' in page
    assert "secret" not in page and 'name="action"' not in page
    assert client.get(TIMELINE).status_code == 200
    for name in ("preview", "pause_all", "resume_all"):
        assert client.post(reverse(f"admin:scheduling_{name}")).status_code == 403
    for action in ACTIONS:
        client.post(
            LIST,
            {"action": action, "_selected_action": [row.pk], "confirmed": "yes", "post": "yes"},
        )
    assert PeriodicTask.objects.filter(pk=row.pk, enabled=True).exists()
    assert not sent() and not LogEntry.objects.exists()


def test_running_needs_its_own_permission(
    user: Callable[..., Client], sent: Callable[..., list[Any]]
) -> None:
    row, client = declared(), user("view_periodictask", "run_schedule")

    choose(client, "run_now", row)
    client.post(LIST, {"action": "pause", "_selected_action": [row.pk], "confirmed": "yes"})

    assert len(sent()) == 1
    assert PeriodicTask.objects.filter(pk=row.pk, enabled=True).exists()
