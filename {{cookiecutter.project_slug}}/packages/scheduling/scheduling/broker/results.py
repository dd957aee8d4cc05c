"""Where the results of a team's own tasks go; runs of schedules leave none."""

from urllib.parse import urlsplit

SCHEMES = {"redis": "redis", "rediss": "rediss"} | {
    "embedded+socket": "scheduling.broker.embedded:ResultBackend+socket"
}


def result_backend(broker_url: str) -> str:
    """The CELERY_RESULT_BACKEND beside a broker: its Redis, embedded too; else the database."""
    scheme = urlsplit(broker_url).scheme
    return broker_url.replace(scheme, SCHEMES[scheme], 1) if scheme in SCHEMES else "django-db"
