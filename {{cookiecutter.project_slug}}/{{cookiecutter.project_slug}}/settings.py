"""The service's settings. What the environment says comes from environment.py."""

import ssl
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from csp.constants import NONE, SELF
from scheduling.broker.results import result_backend
from scheduling.defaults import *  # Celery's settings that keep the promises; override them below

from .environment import *

PROJECT_NAME = {{ cookiecutter.__python_name }}

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
    "accounts",
    "application",
]
MIDDLEWARE = [
    "scheduling.monitoring.health.Middleware",  # first: probes know no host name
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
AUTH_USER_MODEL = "accounts.User"
LOGIN_URL = "admin:login"
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
if BEHIND_PROXY:  # only then is the header the proxy's; gunicorn.conf.py ignores it, too
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# Logins: https://django-axes.readthedocs.io/en/latest/4_configuration.html
# Failures are counted in the database: processes share them, and a restart does not forget them.

AXES_USERNAME_FORM_FIELD = "username"  # as in Django's form, also for users known by e-mail
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False  # further tries do not extend a lock
AXES_CLIENT_IP_CALLABLE = "accounts.apps.client_address"
# By both, so that nobody can lock out another user, or everyone at one address.
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
        "plain": {"()": "scheduling.logs.PlainFormatter"},
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "filters": ["run"],
            "formatter": LOG_FORMAT,
        },
    },
    "root": {"handlers": ["console"], "level": LOG_LEVEL},
    "loggers": {  # no handlers of their own, so each line appears once, in one format
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

CELERY_TIMEZONE = TIME_ZONE  # crontabs mean local time
CELERY_TASK_SOFT_TIME_LIMIT = 5 * 60  # seconds; a hanging task must not hold its worker ...
CELERY_TASK_TIME_LIMIT = CELERY_TASK_SOFT_TIME_LIMIT + 60  # ... and gets a minute to clean up
CELERY_WORKER_REDIRECT_STDOUTS_LEVEL = "INFO"  # a printed mail is not a warning
CELERY_RESULT_BACKEND = result_backend(CELERY_BROKER_URL)  # of tasks; runs have the ledger
CELERY_BROKER_USE_SSL: dict[str, Any] | None = None
match urlsplit(CELERY_BROKER_URL).scheme:
    case "rediss":  # kombu's default does not verify
        CELERY_BROKER_USE_SSL = {"ssl_cert_reqs": ssl.CERT_REQUIRED}
        CELERY_REDIS_BACKEND_USE_SSL = CELERY_BROKER_USE_SSL
    case "amqps":  # nor does py-amqp's; None is the host name of the URL
        CELERY_BROKER_USE_SSL = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}
