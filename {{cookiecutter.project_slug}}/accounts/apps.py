import re
from ipaddress import ip_address

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Warning, register
from django.http import HttpRequest


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        register(check_proxy, deploy=True)


def client_address(request: HttpRequest) -> str:
    """The address that failed logins are counted by; "::" if none is known: the name alone counts.

    Behind a proxy it is the last one, which the proxy adds: a client can write those before it.
    """
    found: str = request.META.get("REMOTE_ADDR") or ""  # a Unix socket has none
    if settings.BEHIND_PROXY:
        found = request.META.get("HTTP_X_FORWARDED_FOR") or found
    last = re.sub(r"^\[(.+)\](:\d+)?$|^([\d.]+):\d+$", r"\1\3", found.rpartition(",")[2].strip())
    try:
        return str(ip_address(last.partition("%")[0]))
    except ValueError:
        return "::"


def check_proxy(**options: object) -> list[CheckMessage]:
    """Ask at `check --deploy` what no setting can know."""
    text = "BEHIND_PROXY is off. Behind a proxy, anybody's failures then lock a name out for all."
    hint = "Set BEHIND_PROXY=true, or silence accounts.W001 if there is no proxy."
    return [] if settings.BEHIND_PROXY else [Warning(text, hint=hint, id="accounts.W001")]
