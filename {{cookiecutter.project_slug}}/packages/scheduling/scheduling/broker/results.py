"""Where the results of a team's own tasks go; runs of schedules leave none."""

from urllib.parse import quote, urlsplit

from scheduling.broker import server


def result_backend(broker_url: str) -> str:
    """The CELERY_RESULT_BACKEND beside a broker: its Redis, embedded too; else the database."""
    if directory := server.embedded_directory(broker_url):
        return f"redis+socket://{quote(str(server.socket_path(directory)))}"
    return broker_url if urlsplit(broker_url).scheme in ("redis", "rediss") else "django-db"
