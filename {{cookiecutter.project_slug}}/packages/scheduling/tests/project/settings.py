"""What a Django project has that installs the engine; DATABASE_URL names another database."""

import tempfile
from pathlib import Path

import dj_database_url

from scheduling.broker import server
from scheduling.defaults import *

BASE_DIR = Path(__file__).resolve().parents[2]
DEBUG = True
SECRET_KEY = "for-tests-only"
ALLOWED_HOSTS = ["testserver"]
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_celery_beat",
    "scheduling",
    "tests.project",
]
MIDDLEWARE = [
    "scheduling.monitoring.health.Middleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "tests.project.urls"
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
default = dj_database_url.config(default="sqlite://:memory:")
# The second is for test_database.py: without a router, nobody uses it.
DATABASES = {"default": default, "second": default | {"NAME": f"{default['NAME']}_second"}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
STATIC_URL = "static/"
TIME_ZONE = "UTC"
USE_TZ = True

CELERY_BROKER_URL = server.url(Path(tempfile.gettempdir()) / "scheduling-tests-broker")
CELERY_TIMEZONE = TIME_ZONE
CELERY_RESULT_BACKEND = "cache+memory://"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # quick
