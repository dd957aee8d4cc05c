"""What the service reads from its environment and from .env; .env.example explains each variable.

DEBUG is off unless the environment says otherwise. With it off, the variables that have no safe
default are required. One message names all that are missing or wrong.
"""

import sys
from importlib.util import find_spec
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, quote, urlsplit

import dj_email_url
from django.core.exceptions import ImproperlyConfigured
from environs import Env, EnvValidationError, ValidationError, validate
from scheduling import defaults
from scheduling.conf import Conf

BASE_DIR = Path(__file__).resolve().parent.parent
PACKAGE = __name__.partition(".")[0]
MAINTAINER = {{ cookiecutter.__quoted_email }}

env = Env(eager=False)  # collects what is wrong; seal() below raises all of it
env.read_env(BASE_DIR / ".env", recurse=False)

DEBUG = env.bool("DEBUG", default=False)
REQUIRED: Any = ...  # what environs takes for "no default"
not_empty = validate.Length(min=0 if DEBUG else 1, error="Must not be empty.")


def not_under_gunicorn(debug: bool) -> None:
    """Refuse what a .env of development brings beside production's variables."""
    if debug and "gunicorn" in sys.modules:
        raise ValidationError("Must be off under gunicorn. Look into .env, too.")


def not_guessable(key: str) -> None:
    """Refuse what `manage.py check --deploy` only warns of."""
    if not DEBUG and (len(key) < 50 or len(set(key)) < 5 or key.startswith("django-insecure-")):
        raise ValidationError("Must be random, and have 50 characters or more.")


def scheme_of(url: str) -> str:
    """The scheme of a URL. urllib's own message may quote a password that is not encoded."""
    try:
        urlsplit(url).port  # noqa: B018
        return urlsplit(url).scheme
    except ValueError:
        text = "Cannot be read. In a password, write / ? # [ ] as %2F %3F %23 %5B %5D."
        raise ValidationError(text) from None


def is_mail_server(url: str) -> None:
    scheme = scheme_of(url)
    if scheme not in dj_email_url.SCHEMES:
        raise ValidationError("Must be a URL such as smtp://, submission:// or dummy://.")
    if not DEBUG and scheme == "console":
        raise ValidationError("console:// only prints mails. Name a mail server, or use dummy://.")


def is_broker(url: str) -> None:
    """Refuse brokers that Celery takes, but with which it cannot keep the engine's promises."""
    scheme = scheme_of(url).partition("+")[0]
    if scheme not in ("redis", "rediss", "amqp", "amqps") and (url or not DEBUG):
        raise ValidationError("Must be a URL: redis://, rediss://, amqp:// or amqps://.")


def needs_sentry(dsn: str) -> None:
    """Refuse to drop errors silently."""
    scheme_of(dsn)
    if dsn and not find_spec("sentry_sdk"):
        raise ValidationError("Needs the extra: uv sync --no-dev --all-extras.")


def are_networks(texts: list[str]) -> None:
    try:
        for text in texts:
            ip_network(text)
    except ValueError as error:
        raise ValidationError(f"{error}.") from None


def redis_database(url: str) -> tuple[str | None, int, str] | None:
    """Host, port and number of the Redis database that a URL names; None for other URLs."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss"):
        return None
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
    number = parse_qs(parts.query).get("db", [parts.path.strip("/").partition("/")[0] or "0"])[0]
    return host, parts.port or 6379, number


# Django
env.bool("DEBUG", default=False, validate=not_under_gunicorn)
SECRET_KEY = env.str(
    "SECRET_KEY", default="development-only" if DEBUG else REQUIRED, validate=not_guessable
)
ALLOWED_HOSTS: list[str] = env.list(
    "ALLOWED_HOSTS", subcast=str.strip, default=[] if DEBUG else REQUIRED, validate=not_empty
)
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", subcast=str.strip, default=[])
database = env.dj_db_url(
    "DATABASE_URL",
    default="sqlite:///" + quote(str(BASE_DIR / "db.sqlite3")) if DEBUG else REQUIRED,
    conn_max_age=60,  # beat and the web reuse connections ...
    conn_health_checks=True,  # ... and survive a restart of the database
)
env.str("CACHE_URL", default="", validate=scheme_of)  # whose message is the one that is shown
cache = env.dj_cache_url("CACHE_URL", default="locmem://")
env.str("EMAIL_URL", default="", validate=is_mail_server)
email = env.dj_email_url("EMAIL_URL", default="console://" if DEBUG else "smtp://localhost:25")
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default=MAINTAINER)
BEHIND_PROXY = env.bool("BEHIND_PROXY", default=False)
SECURE_SSL_REDIRECT = env.bool("SECURE_SSL_REDIRECT", default=not DEBUG)
SECURE_HSTS_SECONDS = env.int("SECURE_HSTS_SECONDS", default=0 if DEBUG else 30 * 24 * 3600)
LOG_LEVEL = env.str("LOG_LEVEL", default="INFO")
LOG_FORMAT = env.str(
    "LOG_FORMAT",
    default="plain" if DEBUG else "json",
    validate=validate.OneOf(["json", "plain"], error="Must be json or plain."),
)
SENTRY_DSN = env.str("SENTRY_DSN", default="", validate=needs_sentry)

# Celery
CELERY_BROKER_URL = env.str(
    "CELERY_BROKER_URL", default="" if DEBUG else REQUIRED, validate=is_broker
)
CELERY_BEAT_SCHEDULER = env.str("CELERY_BEAT_SCHEDULER", default=defaults.CELERY_BEAT_SCHEDULER)
CELERY_BEAT_CRON_STARTING_DEADLINE = env.int(
    "CELERY_BEAT_CRON_STARTING_DEADLINE", default=defaults.CELERY_BEAT_CRON_STARTING_DEADLINE
)
# A queue of its own: services that share a broker do not take each other's tasks.
CELERY_TASK_DEFAULT_QUEUE = env.str("CELERY_TASK_DEFAULT_QUEUE", default=PACKAGE)

# The engine
LATE_AFTER = env.int("LATE_AFTER", default=Conf.LATE_AFTER)
RUN_HISTORY_DAYS = env.int("RUN_HISTORY_DAYS", default=Conf.RUN_HISTORY_DAYS)
HEALTH_BEAT_MAX_AGE = env.int("HEALTH_BEAT_MAX_AGE", default=Conf.HEALTH_BEAT_MAX_AGE)
HEALTH_MAX_OVERDUE = env.int("HEALTH_MAX_OVERDUE", default=Conf.HEALTH_MAX_OVERDUE)
HEALTH_MAX_WAITING = env.int("HEALTH_MAX_WAITING", default=Conf.HEALTH_MAX_WAITING)
HEALTH_MAX_FAILING = env.int("HEALTH_MAX_FAILING", default=Conf.HEALTH_MAX_FAILING)
HEALTH_FAILING_AFTER = env.int(
    "HEALTH_FAILING_AFTER", default=Conf.HEALTH_FAILING_AFTER, validate=validate.Range(min=1)
)
METRICS_TOKEN = env.str("METRICS_TOKEN", default=Conf.METRICS_TOKEN)
METRICS_NETWORKS: list[str] = env.list(
    "METRICS_NETWORKS", subcast=str.strip, default=Conf.METRICS_NETWORKS, validate=are_networks
)
SEED_SCHEDULES_ON_MIGRATE = env.bool(
    "SEED_SCHEDULES_ON_MIGRATE", default=Conf.SEED_SCHEDULES_ON_MIGRATE
)

try:
    env.seal()
except EnvValidationError as error:
    found = cast("dict[str, list[str]]", error.error_messages)
    problems = [f"  {name}: {messages[0]}" for name, messages in found.items()]
    raise ImproperlyConfigured(
        "\n".join(
            [
                f"These environment variables are missing or wrong (DEBUG={DEBUG}):",
                *problems,
                "Set them as .env.example explains; the environment wins over .env. "
                "For development: make .env",
            ]
        )
    ) from None

broker_database = redis_database(CELERY_BROKER_URL)
if broker_database and broker_database == redis_database(cache["LOCATION"]):
    raise ImproperlyConfigured(
        "CACHE_URL and CELERY_BROKER_URL name the same Redis database: clearing the cache would "
        "delete the queue. Give them different numbers, such as /1 and /0."
    )

if not CELERY_BROKER_URL:  # in development: the embedded broker
    from scheduling.broker import server

    CELERY_BROKER_URL = server.url(BASE_DIR / "var" / "broker")
