"""What containers and load balancers ask of the web: is it alive, is it ready?"""

import logging
import time
from collections.abc import Callable
from threading import Thread

from celery import current_app
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.urls import path, resolve
from django.utils.deprecation import MiddlewareMixin
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

SECONDS = 3.0  # for an answer, whatever hangs
logger = logging.getLogger(__name__)


class NotReadyError(Exception):
    """What is missing, in words that anybody may read."""


def database() -> None:
    """Raise unless the database answers, and has all migrations of this code."""
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        raise NotReadyError(f"migrations not applied: {len(missing)}")


def broker() -> None:
    """Raise unless the broker takes a new connection."""
    with current_app.connection_for_write() as connected:
        connected.ensure_connection(
            max_retries=1, interval_start=0, interval_step=0, reraise_as_library_errors=False
        )


class Look(Thread):
    """A check that runs, in a thread, as not all that may hang can be given a time limit.
    ``answer`` is "ok", or why not without names of hosts and users, which
    ``error`` may have."""

    def __init__(self, check: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.check = check
        self.answer = self.error = f"no answer within {SECONDS:g} s"
        self.start()

    def run(self) -> None:
        try:
            self.check()
            self.answer = "ok"
        except NotReadyError as error:
            self.answer = self.error = str(error)
        except Exception as error:
            self.answer, self.error = type(error).__name__, str(error)
        finally:
            connection.close()  # this thread's


looks: dict[str, Look] = {}  # the last of each; one that hangs is not joined by more


@never_cache
@require_safe
def live(request: HttpRequest) -> HttpResponse:
    """200 as long as this process answers."""
    return JsonResponse({"process": "ok"})


@never_cache
@require_safe
def ready(request: HttpRequest) -> HttpResponse:
    """200 if the database and the broker can be used, else 503, within ``SECONDS``."""
    deadline = time.monotonic() + SECONDS
    for check in (database, broker):
        name = check.__name__
        if name not in looks or not looks[name].is_alive():
            looks[name] = Look(check)
    answers = {}
    for name, look in looks.items():
        look.join(max(0, deadline - time.monotonic()))
        answers[name] = look.answer
        if answers[name] != "ok":
            logger.warning("health: %s: %s", name, look.error)
    return JsonResponse(answers, status=200 if set(answers.values()) == {"ok"} else 503)


urlpatterns = [path("live", live), path("ready", ready)]


class Middleware(MiddlewareMixin):
    """Put first, it answers /health/ before all others: probes come by IP address and plain HTTP,
    which ALLOWED_HOSTS and the redirect to HTTPS refuse, and need no session."""

    def process_request(self, request: HttpRequest) -> HttpResponse | None:
        if not request.path_info.startswith("/health/"):
            return None
        view, args, kwargs = resolve(request.path_info)
        response: HttpResponse = view(request, *args, **kwargs)
        return response
