"""The pages work under a strict Content-Security-Policy."""

import re

import pytest
from django.test import Client
from django.urls import reverse

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.filterwarnings("ignore:No directory at"),  # where collectstatic has not run
]


@pytest.mark.parametrize(
    "page",
    [
        "django_celery_beat_periodictask_changelist",
        "django_celery_beat_periodictask_add",
        "django_celery_beat_crontabschedule_add",
        "scheduling_timeline",
    ],
)
def test_no_page_has_scripts_or_styles_of_its_own(admin_client: Client, page: str) -> None:
    html = admin_client.get(reverse(f"admin:{page}")).content.decode()

    scripts = re.findall(r"<script\b([^>]*)>", html)
    assert all("src=" in script or "application/json" in script for script in scripts)
    assert not re.search(r"<style\b|<[^>]+\son[a-z]+=|javascript:", html)
