"""What a worker reads of a message before anything runs."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from celery import current_app
from celery.exceptions import InvalidTaskError
from kombu.utils.imports import symbol_by_name

from tests.project.tasks import remind


def deep(levels: int) -> Any:
    return json.loads("[" * levels + "]" * levels)


def read(headers: dict[str, Any], body: Any = None) -> Any:
    """The request of a task's message, with other headers and another body."""
    sent = current_app.amqp.as_task_v2("an-id", remind.name, ("x",), {})
    message = SimpleNamespace(
        headers=sent.headers | headers,
        payload=json.loads(json.dumps(sent.body)) if body is None else body,
        body=b"",
        content_type="application/json",
        content_encoding="utf-8",
        properties=sent.properties,
        delivery_info={},
    )
    request: Any = symbol_by_name(remind.Request)
    return request(message, app=current_app, task=remind)


BROKEN_HEADERS: list[dict[str, Any]] = [
    *({"id": ["a"]}, {"id": {"a": 1}}, {"task": {"a": 1}}, {"task": 5}, {"shadow": ["a"]}),
    *({"timelimit": wrong} for wrong in ("x", 5, ["x", 5], [5, "x"], [5], [1, 2, 3], {"a": 1})),
    *({"timelimit": [wrong, None]} for wrong in (-1, float("nan"), float("inf"), 10**400, "5")),
    *({"stamped_headers": wrong} for wrong in (5, "x", [["a"]], {"a": 1})),
    *({"stamps": wrong} for wrong in (5, "x", ["a"])),
    *({"retries": wrong} for wrong in ("x", [1], 1.5)),
    *({"argsrepr": 5}, {"kwargsrepr": ["a"]}, {"periodic_task_name": {}}),
    *({"eta": "x"}, {"eta": 5}, {"expires": ["a"]}),
    {"x": deep(301)},
]
BROKEN_BODIES: list[Any] = [
    *("text", 5, {}, {"args": []}, [], [[], {}], [[], {}, {}, {}], [[], {}, 5], [[], {}, ["a"]]),
    *([[], {}, {"chain": wrong}] for wrong in (5, "x", ["x"], [{"a": 1}], {"task": "x"})),
    *([[], {}, {"errbacks": wrong}] for wrong in (5, [5])),
    *([[], {}, {"chord": 5}], [[], {}, {"chord": {"a": 1}}], [[], {}, {"retries": "x"}]),
    *([deep(301), {}, {}], [[], {"a": deep(301)}, {}]),
]


@pytest.mark.parametrize("headers", BROKEN_HEADERS, ids=lambda headers: str(headers)[:40])
def test_a_header_that_would_end_a_worker_is_refused(headers: dict[str, Any]) -> None:
    with pytest.raises(InvalidTaskError):
        read(headers)


@pytest.mark.parametrize("body", BROKEN_BODIES, ids=lambda body: str(body)[:40])
def test_a_body_that_would_end_a_worker_is_refused(body: Any) -> None:
    with pytest.raises(InvalidTaskError):
        read({}, body)


SIGNATURE: dict[str, Any] = {
    "task": "x",
    "args": [],
    "kwargs": {},
    "options": {},
    "subtask_type": None,
}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"id": 5},
        {"timelimit": [None, 2.5]},
        {"timelimit": None},
        {"stamped_headers": ["x"], "stamps": {"x": [1]}, "x": [1]},
        {"retries": 3, "shadow": "another name", "lang": "go"},
        {"eta": "2026-06-01T12:00:00", "expires": "2026-06-01T12:00:00+00:00"},
        {"customer": {"any": [1, None, {}]}},
        {"x": deep(299)},
    ],
    ids=lambda headers: str(headers)[:40],
)
def test_what_celery_reads_is_read(headers: dict[str, Any]) -> None:
    embed = {"callbacks": [SIGNATURE], "errbacks": [], "chain": None, "chord": SIGNATURE}

    assert read(headers).args == ["x"]
    assert read(headers, [[deep(299)], {"a": 1}, embed]).kwargs == {"a": 1}
    assert read(headers, [(), {}, None]).args == ()
