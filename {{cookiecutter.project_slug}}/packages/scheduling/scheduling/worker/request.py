"""Celery's Request, where the ledger needs it to be more exact, and broken messages stricter."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from celery.exceptions import InvalidTaskError
from celery.utils.log import get_logger
from celery.worker import request

from scheduling.messages import nests_too_deep
from scheduling.worker import ledger

logger = get_logger(__name__)

LONGEST_LIMIT = 2**31  # seconds
# What a worker's main process takes these to be, in the headers or beside the arguments, unless
# they are None. What only a task's process reads is not here: there, the run fails.
KINDS: dict[str, tuple[type, ...]] = {
    "id": (str, int),
    "task": (str,),
    "shadow": (str,),
    "argsrepr": (str,),
    "kwargsrepr": (str,),
    "periodic_task_name": (str,),
    "retries": (int,),
    "stamps": (dict,),
}
SIGNATURES = ("callbacks", "errbacks", "chain")  # lists of them


class Request(request.Request):
    """A message at a worker."""

    _context: Any  # celery-types lacks these
    _already_cancelled: bool

    def __init__(self, message: Any, **options: Any) -> None:
        headers = message.headers if options.get("headers") is None else options["headers"]
        body = options["body"] if options.get("decoded") else message.payload
        check_headers(headers)
        check_body(body)
        if any(map(nests_too_deep, (headers, *body))):
            raise InvalidTaskError("it nests too deep")
        super().__init__(message, **options)

    def maybe_expire(self) -> Literal[True] | None:
        """Expire only what has not begun.

        Celery drops an expired message even if it is the next try of a run that has begun, or a
        redelivery after the death of its worker.
        """
        begun = self.request_dict.get("retries") or self.delivery_info["redelivered"]
        if begun and "scheduled_for" in self.request_dict:
            return None
        return super().maybe_expire()

    def _announce_cancelled(self, *args: Any, **kwargs: Any) -> None:
        """Let the message come back also if the result backend has gone with the broker.

        Celery would take the end of the task for a revocation, and acknowledge the message.
        """
        try:
            super()._announce_cancelled(*args, **kwargs)  # type: ignore[misc]  # no types
        except Exception as error:  # whatever backends raise
            logger.error(
                "The result backend does not know that %s was cancelled: %s", self.id, error
            )
        self._already_cancelled = True
        ledger.release(self._context)

    def on_failure(self, *args: Any, **kwargs: Any) -> Any:
        with self.as_current():
            return super().on_failure(*args, **kwargs)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        with self.as_current():
            super().on_timeout(soft, timeout)

    @contextmanager
    def as_current(self) -> Iterator[None]:
        """Let handlers of ``task_failure`` see the request, as in the task's own process."""
        self.task.request_stack.push(self._context)
        try:
            yield
        finally:
            self.task.request_stack.pop()

    def reject(self, requeue: bool = False) -> None:
        """Let the message that comes back begin its run."""
        if requeue:
            ledger.release(self._context)
        super().reject(requeue)


def check_headers(headers: Mapping[str, Any]) -> None:
    """Raise ``InvalidTaskError`` for a header of another kind than Celery takes it to be."""
    for name, kinds in KINDS.items():
        value = headers.get(name)
        if value is not None and not isinstance(value, kinds):
            raise InvalidTaskError(f"{name} is of the type {type(value).__name__}")
    if not is_list(headers.get("stamped_headers"), lambda stamp: isinstance(stamp, str)):
        raise InvalidTaskError("stamped_headers is not a list of texts")
    for name in SIGNATURES:
        if not is_list(headers.get(name), is_signature):
            raise InvalidTaskError(f"{name} is not a list of signatures")
    if headers.get("chord") and not is_signature(headers["chord"]):
        raise InvalidTaskError("chord is not a signature")
    limits = headers.get("timelimit") or (None, None)
    if not is_list(limits, is_limit) or len(limits) != 2:
        raise InvalidTaskError("timelimit is not a pair of seconds")


def check_body(body: Any) -> None:
    """Raise ``InvalidTaskError`` unless it is of arguments, keywords, and what is to follow."""
    match body:
        case [_, _, dict() | None as embed]:
            if embed and any(value is not None for value in embed.values()):
                check_headers(embed)
        case _:
            raise InvalidTaskError("the body is not a list of args, kwargs and embed")


def is_list(values: Any, is_sound: Callable[[Any], bool]) -> bool:
    """Whether it is a list of sound values; None stands for an empty one."""
    if values is None:
        return True
    return isinstance(values, list | tuple) and all(is_sound(value) for value in values)


def is_signature(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("task"), str)


def is_limit(limit: Any) -> bool:
    return limit is None or (isinstance(limit, int | float) and 0 <= limit < LONGEST_LIMIT)
