"""Settings of the service, read from the environment and from .env.

.env.example explains each variable. DEBUG is off unless the environment says otherwise;
with it off, the variables that have no safe default are required, and what is missing or
wrong is said in one message.
"""

import ssl
from datetime import timedelta
from importlib.util import find_spec
from ipaddress import ip_network
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, quote, urlsplit

import dj_email_url
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from environs import Env, EnvValidationError, ValidationError, validate

BASE_DIR = Path(__file__).resolve().parent.parent
PROJECT_NAME = {{ cookiecutter.__python_name }}
PACKAGE = __name__.partition(".")[0]
MAINTAINER = {{ cookiecutter.__quoted_email }}

env = Env(eager=False)  # collects what is wrong; seal() below says all of it
env.read_env(BASE_DIR / ".env", recurse=False)

DEBUG = env.bool("DEBUG", default=False)
REQUIRED: Any = ...  # what environs takes for "no default"
not_empty = validate.Length(min=0 if DEBUG else 1, error="Must not be empty.")


def not_guessable(key: str) -> None:
    """Refuse what `manage.py check --deploy` only warns of."""
    if not DEBUG and (len(key) < 50 or len(set(key)) < 5 or key.startswith("django-insecure-")):
        raise ValidationError("Must be random, and have 50 characters or more.")


def is_mail_server(url: str) -> None:
    scheme = urlsplit(url).scheme
    if scheme not in dj_email_url.SCHEMES:
        raise ValidationError("Must be a URL such as smtp://, submission:// or dummy://.")
    if not DEBUG and scheme == "console":
        raise ValidationError("Would only print mails: name a mail server, or dummy://.")


def is_broker(url: str) -> None:
    """Refuse what Celery would take, and then keep no promise with."""
    parts = urlsplit(url)
    scheme = parts.scheme.partition("+")[0]
    if scheme not in ("redis", "rediss", "amqp", "amqps") and (url or not DEBUG):
        raise ValidationError("Must be a URL: redis://, rediss://, amqp:// or amqps://.")
    try:
        parts.port  # noqa: B018
    except ValueError as error:
        raise ValidationError(f"{error}.") from None


def needs_sentry(dsn: str) -> None:
    """Refuse to drop errors silently."""
    if dsn and not find_spec("sentry_sdk"):
        raise ValidationError("Needs the extra: uv sync --no-dev --all-extras.")


def are_networks(texts: list[str]) -> None:
    try:
        for text in texts:
            ip_network(text)
    except ValueError as error:
        raise ValidationError(f"{error}.") from None


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
CELERY_BROKER_URL = env.str(
    "CELERY_BROKER_URL", default="" if DEBUG else REQUIRED, validate=is_broker
)
CELERY_BEAT_SCHEDULER = env.str(
    "CELERY_BEAT_SCHEDULER", default="scheduling.scheduler:DatabaseScheduler"
)
# Seconds; a run that was missed for longer, as beat was away or paused, is skipped with a warning.
CELERY_BEAT_CRON_STARTING_DEADLINE = env.int("CELERY_BEAT_CRON_STARTING_DEADLINE", default=3600)
# Seconds; a run that starts later is logged, and a schedule whose run is not sent is overdue.
LATE_AFTER = env.int("LATE_AFTER", default=60)
RUN_HISTORY_DAYS = env.int("RUN_HISTORY_DAYS", default=14)
HEALTH_BEAT_MAX_AGE = env.int("HEALTH_BEAT_MAX_AGE", default=60)  # seconds
HEALTH_MAX_OVERDUE = env.int("HEALTH_MAX_OVERDUE", default=0)
HEALTH_MAX_FAILING = env.int("HEALTH_MAX_FAILING", default=0)
HEALTH_FAILING_AFTER = env.int("HEALTH_FAILING_AFTER", default=2, validate=validate.Range(min=1))
METRICS_TOKEN = env.str("METRICS_TOKEN", default="")
METRICS_NETWORKS: list[str] = env.list(
    "METRICS_NETWORKS", subcast=str.strip, default=[], validate=are_networks
)
SEED_SCHEDULES_ON_MIGRATE = env.bool("SEED_SCHEDULES_ON_MIGRATE", default=True)
# A queue of its own: services that share a broker do not take each other's tasks.
CELERY_TASK_DEFAULT_QUEUE = env.str("CELERY_TASK_DEFAULT_QUEUE", default=PACKAGE)

try:
    env.seal()
except EnvValidationError as error:
    found = cast("dict[str, list[str]]", error.error_messages)
    problems = [f"  {name}: {' '.join(messages)}" for name, messages in found.items()]
    raise ImproperlyConfigured(
        "\n".join(
            [
                f"These environment variables are missing or wrong (DEBUG={DEBUG}):",
                *problems,
                "Set them as .env.example explains. For development: cp .env.example .env",
            ]
        )
    ) from None

# Django

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "axes",
    "django_celery_beat",
    "django_celery_results",
    "scheduling",
    "application",
]
MIDDLEWARE = [
    "scheduling.health.Middleware",  # first: it answers probes, who know no host name
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "axes.middleware.AxesMiddleware",
]
ROOT_URLCONF = f"{PACKAGE}.urls"
WSGI_APPLICATION = f"{PACKAGE}.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]
AUTHENTICATION_BACKENDS = [
    "axes.backends.AxesStandaloneBackend",
    "django.contrib.auth.backends.ModelBackend",
]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{validator}"}
    for validator in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

if database["ENGINE"] == "django.db.backends.sqlite3":
    database["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",  # wait for the one writer instead of failing later
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",  # readers go on
        "timeout": 20,  # seconds
    }
elif not DEBUG and database["HOST"] not in ("", "localhost", "127.0.0.1", "::1"):
    tls = database.setdefault("OPTIONS", {})
    if "sslmode" not in tls:  # libpq's default takes any certificate, and none at all
        database["OPTIONS"] = {"sslrootcert": "system"} | tls | {"sslmode": "verify-full"}
DATABASES = {"default": database}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
CACHES = {"default": cache}

EMAIL_BACKEND = email["EMAIL_BACKEND"]
EMAIL_FILE_PATH = email["EMAIL_FILE_PATH"]
EMAIL_HOST = email["EMAIL_HOST"]
EMAIL_PORT = email["EMAIL_PORT"]
EMAIL_HOST_USER = email["EMAIL_HOST_USER"]
EMAIL_HOST_PASSWORD = email["EMAIL_HOST_PASSWORD"]
EMAIL_USE_TLS = email["EMAIL_USE_TLS"]
EMAIL_USE_SSL = email["EMAIL_USE_SSL"]
EMAIL_TIMEOUT = email["EMAIL_TIMEOUT"] or 10  # seconds; Django's default waits for ever

LANGUAGE_CODE = "en-us"
TIME_ZONE = {{ cookiecutter.__quoted_timezone }}
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
if not DEBUG:
    STORAGES = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
    }

SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not DEBUG
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "base-uri": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "object-src": [NONE],
    }
}


def client_address(request: HttpRequest) -> str:
    """Whom the proxy saw: it adds that to what a client claims."""
    addresses: str = request.META.get("HTTP_X_FORWARDED_FOR") or request.META.get("REMOTE_ADDR", "")
    return addresses.rpartition(",")[2].strip()


if BEHIND_PROXY:  # only then may a request say by which scheme and from whom it came
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    AXES_CLIENT_IP_CALLABLE = client_address

# Logins: https://django-axes.readthedocs.io/en/latest/4_configuration.html
# Failures are counted in the database: processes share them, and a restart does not forget them.

AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False  # who tries on is not locked for ever
# Nobody can lock out another by failing on purpose, nor all who share an address.
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True  # by default, failures add up for ever
AXES_DISABLE_ACCESS_LOG = True  # a table that nobody cleans; Django keeps the last login
AXES_VERBOSE = False  # a line at each start of each process

# Subdomains and browsers' preload lists are for the owner of the domain to decide.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W021"]

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"run": {"()": "scheduling.logs.RunFilter"}},
    "formatters": {
        "json": {"()": "scheduling.logs.Formatter"},
        "plain": {"format": "%(asctime)s %(levelname)s %(name)s: %(message)s"},
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "filters": ["run"],
            "formatter": LOG_FORMAT,
        },
    },
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {  # without handlers of their own: each line comes once, and like the others
        "django": {},
        "gunicorn.access": {"propagate": True},
        "gunicorn.error": {"propagate": True},
    },
}

if SENTRY_DSN:  # the SDK itself reads SENTRY_ENVIRONMENT and SENTRY_RELEASE
    import sentry_sdk
    from sentry_sdk.integrations.celery import CeleryIntegration

    sentry_sdk.init(
        SENTRY_DSN,
        integrations=[CeleryIntegration(monitor_beat_tasks=True)],
        # Addresses of mails and what people type stay here.
        send_default_pii=False,
        include_local_variables=False,
        max_request_body_size="never",
    )

# Celery: https://docs.celeryq.dev/en/stable/userguide/configuration.html

if not CELERY_BROKER_URL:
    from scheduling import broker

    CELERY_BROKER_URL = broker.url(BASE_DIR / "var" / "broker")

CELERY_TIMEZONE = TIME_ZONE  # crontabs mean local time
CELERY_ACCEPT_CONTENT = ["json"]  # a message can never run code, as a pickle can
CELERY_TASK_SERIALIZER = "json"
CELERY_RESULT_BACKEND = "scheduling.results.DatabaseBackend"  # the run history
CELERY_TASK_IGNORE_RESULT = True  # of what is no run; tasks whose result is read say False
CELERY_TASK_TRACK_STARTED = True  # when a run was started, and which are running
CELERY_RESULT_EXTENDED = True  # its schedule, task, arguments and worker
CELERY_RESULT_EXPIRES = None  # clean_up_history deletes in batches, not all at once
# Acknowledged when done: if a worker is stopped or dies, the queue has its tasks again, which may
# run twice. What ends its process is tried max_retries times, every default_retry_delay.
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_RETRY_ON_WORKER_LOST = True
CELERY_TASK_ANNOTATIONS = {"*": {"Request": "scheduling.worker:Request"}}  # when a run expires
CELERY_TASK_SOFT_TIME_LIMIT = 5 * 60  # seconds; a hanging task must not hold its worker ...
CELERY_TASK_TIME_LIMIT = CELERY_TASK_SOFT_TIME_LIMIT + 60  # ... and gets a minute to clean up
CELERY_WORKER_PREFETCH_MULTIPLIER = 1  # a long task does not hold back the ones behind it
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT = 30  # seconds for running tasks at a cold shutdown
# A lost connection means that the broker delivers running tasks again: end them.
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = True
CELERY_WORKER_REDIRECT_STDOUTS_LEVEL = "INFO"  # a printed mail is no warning
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True  # wait for the broker instead of ending
CELERY_BEAT_ENABLE_REMOTE_CONTROL = True  # celery inspect ping -d celerybeat@HOST: does it tick?
CELERY_DB_REUSE_MAX = 2**31  # celery.py decides when a worker's database connection is replaced

BROKER_SCHEME = urlsplit(CELERY_BROKER_URL).scheme
if BROKER_SCHEME.startswith(("redis", "embedded")):
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        # Seconds until a task that no worker acknowledged is delivered again: longer than any
        # task may run, and than any retry may wait, or tasks would run twice.
        "visibility_timeout": 3600,
        # Look for them every 5 s, not every 100 s.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        # A connection that hangs fails, and is made again.
        "socket_timeout": 30,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 25,
    }
else:
    CELERY_BROKER_TRANSPORT_OPTIONS = {
        "confirm_publish": True,  # RabbitMQ says that it has the message before we go on
    }
CELERY_BROKER_USE_SSL: dict[str, Any] | None = None
if BROKER_SCHEME == "rediss":  # kombu's default checks nothing
    CELERY_BROKER_USE_SSL = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
elif BROKER_SCHEME == "amqps":  # None: the URL's, which py-amqp's default does not check
    CELERY_BROKER_USE_SSL = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}


def redis_database(url: str) -> tuple[str | None, int, str] | None:
    """Host, port and number of the Redis database that a URL names, None for other URLs."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss"):
        return None
    host = "127.0.0.1" if parts.hostname == "localhost" else parts.hostname
    number = parse_qs(parts.query).get("db", [parts.path.strip("/").partition("/")[0] or "0"])[0]
    return host, parts.port or 6379, number


broker_database = redis_database(CELERY_BROKER_URL)
if broker_database and broker_database == redis_database(cache["LOCATION"]):
    raise ImproperlyConfigured(
        "CACHE_URL and CELERY_BROKER_URL name the same Redis database: clearing the cache would "
        "delete the queue. Give them different numbers, such as /1 and /0."
    )
