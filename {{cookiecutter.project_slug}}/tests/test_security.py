"""What a browser is told to refuse, and who is refused by the admin's login."""

from datetime import timedelta

import pytest
import time_machine
from axes.helpers import get_client_ip_address
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.checks import run_checks
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone
from pytest_django import Settings

pytestmark = pytest.mark.django_db
LOGIN = "admin:login"
USERS = get_user_model()


@pytest.fixture(autouse=True)
def quick_passwords(request: pytest.FixtureRequest) -> None:
    hashers = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    request.getfixturevalue("settings").PASSWORD_HASHERS = hashers


def policy(client: Client, path: str) -> dict[str, set[str]]:
    """The Content-Security-Policy of a page: the sources of each directive."""
    header = client.get(path).headers["Content-Security-Policy"]
    return {name: set(sources) for name, *sources in map(str.split, header.split(";"))}


def test_a_page_takes_scripts_and_styles_from_here_only(client: Client) -> None:
    found = policy(client, reverse(LOGIN))

    assert found["default-src"] == {"'self'"}
    assert found["base-uri"] == found["form-action"] == {"'self'"}
    assert found["frame-ancestors"] == found["object-src"] == {"'none'"}
    assert not any("'unsafe-inline'" in allowed for allowed in found.values())
    assert not any("'unsafe-eval'" in sources for sources in found.values())


@pytest.fixture
def ada() -> str:
    for name in ("ada", "bob"):
        USERS._default_manager.create_superuser(**{USERS.USERNAME_FIELD: name, "password": "right"})
    return "ada"


def log_in(client: Client, name: str, password: str, address: str = "192.0.2.1") -> int:
    """The status code: 200 is the form again, 302 the way in, 429 too many failures."""
    form = {"username": name, "password": password}
    return client.post(reverse(LOGIN), form, REMOTE_ADDR=address).status_code


def lock_out(client: Client, name: str) -> None:
    for _ in range(settings.AXES_FAILURE_LIMIT - 1):
        assert log_in(client, name, "wrong") == 200
    assert log_in(client, name, "wrong") == 429


def test_too_many_failures_lock_out_also_with_the_right_password(client: Client, ada: str) -> None:
    lock_out(client, ada)

    assert log_in(client, ada, "right") == 429
    assert log_in(Client(headers={"user-agent": "another"}), ada, "right") == 429


def test_a_lock_ends_after_the_cool_off_whoever_tries_meanwhile(client: Client, ada: str) -> None:
    lock_out(client, ada)

    with time_machine.travel(timezone.now() + settings.AXES_COOLOFF_TIME / 2):
        assert log_in(client, ada, "wrong") == 429
    with time_machine.travel(timezone.now() + settings.AXES_COOLOFF_TIME - timedelta(seconds=9)):
        assert client.get(reverse(LOGIN)).status_code == 200  # the form itself is for everybody
    with time_machine.travel(timezone.now() + settings.AXES_COOLOFF_TIME + timedelta(seconds=9)):
        assert log_in(client, ada, "right") == 302


def test_nobody_else_is_locked_out(client: Client, ada: str) -> None:
    lock_out(client, ada)

    assert log_in(Client(), "bob", "right") == 302  # at the same address
    assert log_in(Client(), ada, "right", address="192.0.2.2") == 302  # herself, elsewhere


def test_where_no_address_is_known_the_name_alone_is_counted(client: Client, ada: str) -> None:
    failures = [log_in(client, ada, "wrong", address="") for _ in range(9)]  # by a Unix socket

    assert failures == 4 * [200] + 5 * [429]
    assert log_in(client, ada, "right", address="") == 429


@pytest.mark.parametrize(
    ("behind_proxy", "header", "expected"),
    [
        (True, "198.51.100.1", "198.51.100.1"),
        (True, "203.0.113.9, 198.51.100.1", "198.51.100.1"),  # the first is a claim
        (True, "198.51.100.1:4711", "198.51.100.1"),
        (True, "[2001:db8::1]:4711", "2001:db8::1"),
        (True, "[fe80::1%eth0]", "fe80::1"),
        (True, "198.51.100.1, ", "::"),
        (True, "", "192.0.2.1"),
        (False, "198.51.100.1", "192.0.2.1"),
    ],
)
def test_a_client_is_who_the_proxy_saw(
    settings: Settings, behind_proxy: bool, header: str, expected: str
) -> None:
    settings.BEHIND_PROXY = behind_proxy
    request = RequestFactory().get("/", REMOTE_ADDR="192.0.2.1", HTTP_X_FORWARDED_FOR=header)

    assert get_client_ip_address(request) == expected
    found = [message.id for message in run_checks(include_deployment_checks=True)]
    assert ("accounts.W001" in found) is not behind_proxy


def test_a_success_forgets_failures(client: Client, ada: str) -> None:
    for _ in range(2):
        for _ in range(settings.AXES_FAILURE_LIMIT - 1):
            assert log_in(client, ada, "wrong") == 200
        assert log_in(client, ada, "right") == 302
