"""What a team does to a service in its first week, and what must go on working."""

import pytest

from tests.harness.processes import Live
from tests.harness.project import INSTALLED, Project

FAILING_TEST = """from django.test import TestCase


class BillTest(TestCase):
    def test_a_bill_is_paid(self) -> None:
        self.fail("not yet")
"""
EMAIL_USER = '''from typing import Any

from django.contrib.auth.models import AbstractUser, UserManager
from django.db import models


class EmailUserManager(UserManager["User"]):
    """Makes users by their e-mail addresses."""

    def create_superuser(self, email: str, password: str, **fields: Any) -> "User":  # type: ignore[override]
        user = self.model(email=email, is_staff=True, is_superuser=True, **fields)
        user.set_password(password)
        user.save()
        return user


class User(AbstractUser):
    """A user of this service, known by an e-mail address."""

    username = None  # type: ignore[assignment]
    email = models.EmailField(unique=True)

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS = []

    objects = EmailUserManager()
'''
EMAIL_ADMIN = """from django.contrib import admin

from accounts.models import User

admin.site.register(User)
"""
PAGES = """
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse
from django_celery_beat.models import PeriodicTask
client = Client(headers={"host": "localhost"})
client.force_login(get_user_model().objects.get())
list_, row = "admin:django_celery_beat_periodictask_changelist", PeriodicTask.objects.first()
pause = {"action": "pause", "_selected_action": row.pk, "confirmed": "yes"}
print(client.get(reverse(list_)).status_code, client.post(reverse(list_), pause).status_code)
page = client.get(reverse("admin:django_celery_beat_periodictask_change", args=[row.pk]))
print("admin@example.com: Paused." in page.text)
"""


def test_the_tests_of_a_new_app_are_run(service: Project) -> None:
    service.run("python", "manage.py", "startapp", "billing")
    (service.path / "billing/tests.py").write_text(FAILING_TEST)

    done = service.run("make", "test", INSTALLED, check=False)

    assert done.returncode != 0
    assert "FAILED billing/tests.py::BillTest::test_a_bill_is_paid" in done.stdout


@pytest.fixture
def by_email(live: Live) -> Live:
    """A service whose users log in by e-mail address, as Django's documentation makes them."""
    (live.project.path / "accounts/models.py").write_text(EMAIL_USER)
    (live.project.path / "accounts/admin.py").write_text(EMAIL_ADMIN)
    (live.project.path / "accounts/migrations/0001_initial.py").unlink()
    live.project.run("python", "manage.py", "makemigrations", "accounts")
    return live


def test_users_may_log_in_by_email_address(by_email: Live) -> None:
    by_email.project.run("make", "test", INSTALLED)
    dev = by_email.start_dev()

    assert "Made the superuser admin@example.com, password admin" in dev.output
    assert by_email.python(PAGES).splitlines()[-2:] == ["200 302", "True"]
