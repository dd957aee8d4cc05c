"""A team works while `make dev` runs: it reloads, and nothing is away that need not be."""

import os
import re
import shlex
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest

from tests.harness.processes import Live, Terminal, processes_below, wait_for
from tests.harness.project import INSTALLED

SUCCEEDED = "succeeded in"
SERVES = "Starting development server"
READY = "ready."
SLOW_TASK = '''

@shared_task
def slow_task(folder: str) -> None:
    """Takes its time, until somebody says that it is enough."""
    Path(folder, "started").touch()
    while not Path(folder, "enough").exists():
        time.sleep(0.1)
    Path(folder, "done").touch()
'''
PAGE = """
from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import render


def page(request):
    return render(request, "page.html")


def late(request):
    return HttpResponse(str(settings.LATE_AFTER))


def debugged(request):
    answer = 42
    breakpoint()
    return HttpResponse(str(answer))


urlpatterns += [path("page", page), path("late", late), path("debugged", debugged)]
"""
DEBUGGED_TASK = """

@shared_task
def debugged() -> int:
    answer = 42
    breakpoint()
    return answer
"""
SECOND_QUEUE = """
schedules += [
    Schedule("To a second queue", send_email_task, timedelta(seconds=1), args=["b@example.com"], queue="second"),
]
"""


def append(live: Live, path: str, text: str, at_top: str = "") -> None:
    file = live.project.path / path
    file.parent.mkdir(exist_ok=True)
    file.write_text(at_top + (file.read_text() if file.exists() else "") + text)


def get(live: Live, path: str) -> str:
    url = f"http://127.0.0.1:{live.port}/{path}"
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def main_of(live: Live, part: str) -> int:
    """The process id of a part's main process, the oldest of its command line."""
    return min(live.pids(part))


@contextmanager
def longest_outage(live: Live) -> Iterator[list[float]]:
    """A list that has, afterwards, the most seconds for which the web server did not answer."""
    longest, answered, is_over = [0.0], time.monotonic(), Event()

    def watch() -> None:
        nonlocal answered
        while not is_over.wait(0.05):
            try:
                get(live, "health/live")
            except OSError:
                continue
            finally:
                longest[0] = max(longest[0], time.monotonic() - answered)
            answered = time.monotonic()

    thread = Thread(target=watch)
    thread.start()
    yield longest
    is_over.set()
    thread.join()


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def is_private(path: Path) -> bool:
    return path.stat().st_mode & 0o077 == 0


def test_other_users_cannot_read_a_database_that_a_command_makes(
    live: Live, no_umask: None
) -> None:
    live.migrate()

    assert is_private(live.project.path / "db.sqlite3")


def test_a_fresh_service_shows_a_task_done_and_how_to_do_it_again(
    live: Live, no_umask: None
) -> None:
    live.project.run("make", "install", INSTALLED)
    assert not (live.project.path / ".env").exists()  # which would switch DEBUG on in production
    del live.env["DEBUG"]

    dev = live.start_dev()

    assert "cp .env.example .env" in dev.output
    dev.wait_for(SUCCEEDED)  # the schedule itself is due after ten minutes
    assert live.mailed_to("user@example.com") == 1
    assert is_private(live.mails)
    assert is_private(live.project.path / "db.sqlite3")
    assert is_private(live.project.path / "var/broker")
    said = re.search(r"First start: Send reminder emails runs once now. Again: (.+)", dev.output)
    assert said
    again = shlex.split(said[1].strip())
    assert again[1:] == ["manage.py", "run_schedule", "Send reminder emails"]
    done = live.project.run(*again, env=live.env)
    assert done.stdout.startswith("Sent 'Send reminder emails': application.tasks.send_email_task")
    dev.wait_for(SUCCEEDED, count=2)

    dev.press_ctrl_c()
    dev.exit_code()
    wait_for(lambda: not processes_below(live.project.path), "all processes to end")
    assert "First start" not in live.start_dev().output


def test_the_web_server_reloads_by_itself_while_a_task_runs(live: Live, tmp_path: Path) -> None:
    append(live, "application/tasks.py", SLOW_TASK, "import time\nfrom pathlib import Path\n")
    append(live, f"{live.project.slug}/urls.py", PAGE)
    append(live, "application/templates/page.html", "before")
    dev = live.start_dev()
    web, worker, beat = (main_of(live, part) for part in ("runserver", " worker ", " beat "))
    broker = live.pids("unixsocket:")
    assert get(live, "page") == "before"

    append(live, "application/templates/page.html", " and after")
    wait_for(lambda: get(live, "page") == "before and after", "the template", 5)
    append(live, "application/tests/test_more.py", "nonsense = 1 / 0\n")
    append(live, "application/tests.py", "nonsense = 1 / 0\n")

    live.python(f"from application.tasks import slow_task; slow_task.delay({str(tmp_path)!r})")
    wait_for((tmp_path / "started").exists, "the slow task to start")
    with longest_outage(live) as outage:
        append(live, "application/tasks.py", "# changed\n")
        dev.wait_for("tasks.py changed: restarting worker, beat")
        dev.wait_for(SERVES, count=2)
        dev.wait_for(READY, count=2)  # a new worker, while the old one finishes its task
        get(live, "page")
    assert outage[0] < 10
    assert not (tmp_path / "done").exists()
    assert worker in live.pids(" worker ")
    (tmp_path / "enough").touch()
    wait_for((tmp_path / "done").exists, "the slow task to end")
    wait_for(lambda: worker not in live.pids(" worker "), "the old worker to end")

    assert main_of(live, "runserver") == web
    assert beat not in live.pids(" beat ")
    assert live.pids("unixsocket:") == broker
    assert dev.output.count(" changed: ") == 1  # no test and no template is code
    assert "Traceback" not in dev.output


def test_the_task_of_an_old_worker_is_finished_at_ctrl_c(live: Live, tmp_path: Path) -> None:
    append(live, "application/tasks.py", SLOW_TASK, "import time\nfrom pathlib import Path\n")
    dev = live.start_dev()
    live.python(f"from application.tasks import slow_task; slow_task.delay({str(tmp_path)!r})")
    wait_for((tmp_path / "started").exists, "the slow task to start")
    append(live, "application/tasks.py", "# changed\n")
    dev.wait_for(READY, count=2)

    dev.press_ctrl_c()
    wait_for(lambda: not live.pids("runserver"), "the web server to end")
    assert live.pids(" worker ")
    (tmp_path / "enough").touch()

    dev.exit_code()
    wait_for(lambda: not processes_below(live.project.path), "all processes to end")
    assert (tmp_path / "done").exists()


def test_of_an_error_dev_says_that_the_old_code_runs_on(live: Live) -> None:
    live.shorten_interval()
    dev = live.start_dev()
    tasks = live.project.path / "application/tasks.py"
    code = tasks.read_text()

    tasks.write_text(f"{code}\ndef (\n")
    dev.wait_for("tasks.py changed, and the code does not work: the error is above.")
    assert "dev    | SyntaxError: invalid syntax" in re.sub(r"\x1b\[[\d;]*m", "", dev.output)
    dev.wait_for("The old code runs on in worker and beat.")
    before = dev.output.count(SUCCEEDED)
    dev.wait_for(SUCCEEDED, count=before + 3)
    assert dev.output.count(READY) == 1

    tasks.write_text(code)
    dev.wait_for("tasks.py changed and the code works again: restarting worker, beat")
    dev.wait_for(READY, count=2)
    wait_for(lambda: "ok" in health(live), "the web server")


def health(live: Live) -> str:
    try:
        return get(live, "health/live")
    except OSError:
        return ""


def test_what_env_says_reaches_all_processes(live: Live) -> None:
    append(live, f"{live.project.slug}/urls.py", PAGE)
    append(live, ".env", "\nLATE_AFTER=61\n", (live.project.path / ".env.example").read_text())
    dev = live.start_dev()
    assert get(live, "late") == "61"

    live.project.edit(".env", "LATE_AFTER=61", "LATE_AFTER=62")

    dev.wait_for(".env changed: restarting worker, beat, web")
    dev.wait_for(READY, count=2)
    dev.wait_for(SERVES, count=2)
    assert get(live, "late") == "62"


def test_dev_consumes_a_second_queue_and_check_names_it(live: Live) -> None:
    dev = live.start_dev()
    assert ".> second" not in dev.output

    append(live, "application/schedules.py", SECOND_QUEUE)

    dev.wait_for(".> second")
    wait_for(lambda: live.mailed_to("b@example.com"), "a mail from the second queue")
    checked = live.project.run("python", "manage.py", "check", env=live.env)
    assert "(scheduling.W007) Only a worker with -Q second consumes" in checked.stderr
    queues = 'CELERY_TASK_QUEUES = {CELERY_TASK_DEFAULT_QUEUE: {}, "second": {}}\n'
    append(live, f"{live.project.slug}/settings.py", queues)
    assert "W007" not in live.project.run("python", "manage.py", "check", env=live.env).stderr


def debug(terminal: Terminal) -> None:
    """Look at a variable in the debugger, and let the code go on."""
    terminal.wait_for("(Pdb)")
    for keys, answer in (("p answer * 2\n", "84"), ("c\n", "")):
        os.write(terminal.controller, keys.encode())
        terminal.wait_for(answer)


@pytest.mark.parametrize("part", ["web", "worker"])
def test_a_breakpoint_works_in_a_process_alone_in_its_terminal(live: Live, part: str) -> None:
    append(live, f"{live.project.slug}/urls.py", PAGE)
    append(live, "application/tasks.py", DEBUGGED_TASK)
    dev = live.start("make", "dev", INSTALLED, f"PORT={live.port}", f"WITHOUT={part}")
    dev.wait_for("beat: Starting...")
    dev.wait_for(READY if part == "web" else SERVES)
    alone = live.start("make", part, INSTALLED, f"PORT={live.port}")
    alone.wait_for(SERVES if part == "web" else READY)

    if part == "web":
        answers: list[str] = []
        thread = Thread(target=lambda: answers.append(get(live, "debugged")))
        thread.start()
        debug(alone)
        thread.join()
        assert answers == ["42"]
    else:
        live.python("from application.tasks import debugged; debugged.delay()")
        debug(alone)
        alone.wait_for(": 42")

    alone.press_ctrl_c()
    alone.exit_code()
    dev.press_ctrl_c()
    dev.exit_code()
    assert f"{part:6} |" not in dev.output
    wait_for(lambda: not processes_below(live.project.path), "all processes to end")


def test_beat_runs_alone_in_its_terminal(live: Live) -> None:
    live.shorten_interval()
    dev = live.start("make", "dev", INSTALLED, f"PORT={live.port}", "WITHOUT=beat")
    dev.wait_for(READY)

    live.start("make", "beat", INSTALLED).wait_for("Sending due task Send reminder emails")

    dev.wait_for(SUCCEEDED, count=2)
    assert "beat   |" not in dev.output


def test_a_breakpoint_under_dev_says_where_it_works(live: Live) -> None:
    append(live, f"{live.project.slug}/urls.py", PAGE)
    append(live, "application/tasks.py", DEBUGGED_TASK)
    dev = live.start_dev()

    assert get(live, "debugged") == "42"
    live.python("from application.tasks import debugged; debugged.delay()")

    dev.wait_for(": 42")
    dev.wait_for("breakpoint() needs a terminal", count=2)
    assert "BdbQuit" not in dev.output
