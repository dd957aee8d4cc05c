"""gunicorn as production runs it: by gunicorn.conf.py, which the service brings."""

import http.client
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from urllib.parse import urlencode

import psycopg

from tests.harness.deployment import VARIABLES
from tests.harness.processes import Live, Terminal

PRODUCTION = VARIABLES | {
    "DEBUG": "false",
    "CELERY_BROKER_URL": "redis://127.0.0.1:9/0",
    "WEB_CONCURRENCY": "1",
}
BY_PROXY = {"Host": "portal.example.com", "X-Forwarded-Proto": "https"}
POST = b"POST /admin/login/ HTTP/1.1\r\nHost: portal.example.com\r\n"
# What clients have sent when they stop. Referer and scheme let Django read the body.
STALLED = {
    "nothing": b"",
    "half of the headers": POST,
    "half of the body": POST
    + b"X-Forwarded-Proto: https\r\nReferer: https://portal.example.com/\r\n"
    + b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 99\r\n\r\nusername=",
}


def start(live: Live, *arguments: str, **env: str) -> Terminal:
    """gunicorn in a service that is ready for it, at ``live.port`` or where an argument says."""
    live.env |= PRODUCTION | {"DATABASE_URL": f"sqlite:///{live.project.path}/db.sqlite3"} | env
    live.migrate()
    bind = f"--bind=127.0.0.1:{live.port}"
    web = live.start("gunicorn", f"{live.project.slug}.wsgi", bind, *arguments)
    web.wait_for("Booting worker")
    return web


def visit(live: Live, path: str) -> int:
    """The status of an answer, which comes within seconds."""
    with closing(http.client.HTTPConnection("127.0.0.1", live.port, timeout=9)) as connection:
        connection.request("GET", path, headers=BY_PROXY)
        return connection.getresponse().status


def test_slow_clients_hold_nobody_up_and_are_dropped(live: Live) -> None:
    start(live, "--timeout=5", BEHIND_PROXY="true")

    with ExitStack() as clients:
        connections = []
        for text in 20 * list(STALLED.values()):
            connection = socket.create_connection(("127.0.0.1", live.port), timeout=60)
            connections.append(clients.enter_context(connection))
            connection.sendall(text)

        assert (visit(live, "/health/live"), visit(live, "/")) == (200, 302)
        assert not any(connection.recv(1) for connection in connections)  # it has ended each


def test_many_visitors_share_few_database_connections(live: Live, postgres_url: str) -> None:
    start(live, DATABASE_URL=postgres_url)

    with ThreadPoolExecutor(20) as visitors:
        found = visitors.map(lambda _: visit(live, "/health/schedules"), range(60))
        assert set(found) == {503}  # no beat has ticked

    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    with psycopg.connect(postgres_url) as connection:
        row = connection.execute(f"{count} AND pid <> pg_backend_pid()").fetchone()
    assert row and 0 < row[0] <= 4


class UnixConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self.host)


def test_on_a_unix_socket_no_header_is_believed_and_each_name_has_five_tries(live: Live) -> None:
    socket_path = str(live.mails.with_name("web.sock"))
    start(live, f"--bind=unix:{socket_path}", SECURE_SSL_REDIRECT="false")
    live.project.run("python", "manage.py", "collectstatic", "--noinput", env=live.env)

    def ask(method: str, path: str, body: str = "", **headers: str) -> http.client.HTTPResponse:
        with closing(UnixConnection(socket_path, timeout=60)) as connection:
            connection.request(method, path, body, BY_PROXY | headers)
            return connection.getresponse()

    assert "Strict-Transport-Security" not in ask("GET", "/health/live").headers  # plain HTTP
    assert ask("GET", "/hidden/health/live", SCRIPT_NAME="/hidden").status == 404
    form = {"username": "ada", "password": "wrong", "csrfmiddlewaretoken": 32 * "x"}
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Cookie": f"csrftoken={32 * 'x'}",
    }
    tries = [ask("POST", "/admin/login/", urlencode(form), **headers).status for _ in range(6)]
    assert tries == [200, 200, 200, 200, 429, 429]


def test_gunicorn_refuses_the_dot_env_of_development_beside_productions_variables(
    live: Live,
) -> None:
    live.project.run("make", ".env")
    live.env |= PRODUCTION | {"DATABASE_URL": "sqlite://:memory:"}
    del live.env["DEBUG"]

    web = live.start("gunicorn", f"{live.project.slug}.wsgi", f"--bind=127.0.0.1:{live.port}")

    assert web.exit_code() != 0
    web.wait_for("  DEBUG: Must be off under gunicorn. Look into .env, too.")
