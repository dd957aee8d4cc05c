"""The generated service with real processes: brokers, beat, workers, terminals, a browser."""

import contextlib
import fcntl
import os
import select
import shutil
import signal
import subprocess
import termios
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from conftest import Project
from service import free_port

SUCCEEDED = "succeeded in"
SNIPPET = """
from django_celery_beat.models import PeriodicTask, IntervalSchedule

# Create interval schedule (every 10 minutes)
schedule, created = IntervalSchedule.objects.get_or_create(
    every=10,
    period=IntervalSchedule.MINUTES,
)

# Create periodic task
PeriodicTask.objects.create(
    interval=schedule,
    name='Send reminder emails',
    task='application.tasks.send_email_task',
    args='["user@example.com"]',
)
"""
SLOW_TASK = '''

@shared_task
def slow_task(folder: str) -> None:
    """Takes its time, and says when it started and when it was done."""
    Path(folder, "started").touch()
    time.sleep(5)
    Path(folder, "done").touch()
'''


def wait_for(condition: Callable[[], object], what: str, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.1)


def processes_below(folder: Path) -> list[str]:
    """The command lines of all processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(folder):
                command = (process / "cmdline").read_text().replace("\0", " ")
                if command:  # a zombie has none
                    found.append(f"{process.name} {command}")
    return found


class Terminal:
    """A command in a terminal of its own, as a person starts it."""

    def __init__(self, project: Project, *command: str, env: dict[str, str]) -> None:
        self.controller, terminal = os.openpty()
        self.output = ""
        self.closed = False
        self.process = subprocess.Popen(
            command,
            cwd=project.path,
            env=env,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(terminal)
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # how a terminal says that the last process has gone
            while not self.closed:
                if select.select([self.controller], [], [], 0.2)[0]:
                    self.output += os.read(self.controller, 65536).decode(errors="replace")

    def wait_for(self, text: str, count: int = 1) -> None:
        try:
            wait_for(lambda: self.output.count(text) >= count or self._ended(), repr(text))
            assert self.output.count(text) >= count, f"ended without {text!r}"
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}") from None

    def _ended(self) -> bool:
        return self.process.poll() is not None and not self.reader.is_alive()

    def press_ctrl_c(self) -> None:
        os.write(self.controller, b"\x03")

    def close_window(self) -> None:
        """The kernel sends SIGHUP to all in the foreground; writing fails from now on."""
        self.closed = True
        self.reader.join()
        os.close(self.controller)

    def exit_code(self) -> int:
        return self.process.wait(timeout=120)

    def end(self) -> None:
        self.exit_code()
        if not self.closed:
            self.close_window()


@pytest.fixture
def live(service: Project, tmp_path: Path) -> Iterator["Live"]:
    live = Live(service, tmp_path)
    yield live
    live.end()


class Live:
    """A baked service, its mails in a folder, and what was started in it."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project = project
        self.mails = folder / "mails"
        self.port = free_port()
        self.terminals: list[Terminal] = []
        self.env = project.environment(
            DEBUG="true",
            EMAIL_URL=f"file:///{self.mails}",
            CELERY_TASK_DEFAULT_QUEUE=f"test-{uuid.uuid4().hex}",
        )

    def start(self, *command: str, **env: str) -> Terminal:
        terminal = Terminal(self.project, *command, env=self.env | env)
        self.terminals.append(terminal)
        return terminal

    def start_dev(self) -> Terminal:
        terminal = self.start("make", "dev", f"PORT={self.port}")
        terminal.wait_for("ready.")
        terminal.wait_for("beat: Starting...")
        terminal.wait_for("Starting development server")
        return terminal

    def celery(self, *arguments: str) -> Terminal:
        return self.start("celery", "-A", self.project.slug, *arguments)

    def python(self, code: str) -> str:
        return self.project.run("python", "manage.py", "shell", "-c", code, env=self.env).stdout

    def mailed_to(self, recipient: str) -> int:
        return sum(f"To: {recipient}" in mail.read_text() for mail in self.mails.glob("*"))

    def shorten_interval(self) -> None:
        self.project.edit("application/schedules.py", "minutes=10", "seconds=1")

    def start_slow_task(self, folder: Path) -> None:
        self.python(f"from application.tasks import slow_task; slow_task.delay({str(folder)!r})")
        wait_for((folder / "started").exists, "the slow task to start")

    def pids(self, command: str) -> list[int]:
        found = processes_below(self.project.path)
        return [int(line.split()[0]) for line in found if command in line]

    def runs_once(self, command: str) -> bool:
        return len(self.pids(command)) == 1

    def end(self) -> None:
        for terminal in self.terminals:
            if terminal.process.poll() is None:
                os.killpg(terminal.process.pid, signal.SIGTERM)
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not processes_below(self.project.path), "all processes to end", 60)
        for pid in self.pids(""):
            os.kill(pid, signal.SIGKILL)
        for terminal in self.terminals:
            terminal.end()


def add_slow_task(live: Live) -> None:
    file = live.project.path / "application/tasks.py"
    file.write_text("import time\nfrom pathlib import Path\n" + file.read_text() + SLOW_TASK)


@pytest.fixture(params=["embedded", "redis", "rabbitmq"])
def on_broker(request: pytest.FixtureRequest, live: Live) -> Live:
    if request.param != "embedded":
        live.env["CELERY_BROKER_URL"] = request.getfixturevalue(f"{request.param}_url")
    return live


def test_the_documents_commands_send_a_mail_on_schedule(on_broker: Live) -> None:
    on_broker.shorten_interval()
    on_broker.project.run("python", "manage.py", "migrate", env=on_broker.env)

    worker = on_broker.celery("worker", "--loglevel=info")
    beat = on_broker.celery("beat", "--loglevel=info")

    beat.wait_for("Sending due task Send reminder emails")
    worker.wait_for(SUCCEEDED)
    wait_for(lambda: on_broker.mailed_to("user@example.com"), "a mail")


def test_worker_and_beat_run_in_one_command(live: Live) -> None:
    live.shorten_interval()
    live.project.run("python", "manage.py", "migrate", env=live.env)

    live.celery("worker", "--beat", "--loglevel=info").wait_for(SUCCEEDED)

    wait_for(lambda: live.mailed_to("user@example.com"), "a mail")


def test_the_documents_snippet_makes_a_schedule(live: Live) -> None:
    live.project.edit("application/schedules.py", '"Send reminder emails"', '"Another name"')
    live.project.run("python", "manage.py", "migrate", env=live.env)

    live.python(SNIPPET)

    row = "PeriodicTask.objects.get(name='Send reminder emails')"
    printed = live.python(
        f"from django_celery_beat.models import PeriodicTask; print({row}.schedule.run_every)"
    )
    assert "0:10:00" in printed


@pytest.mark.parametrize("way", ["Ctrl-C", "SIGTERM", "closed terminal"])
def test_make_dev_lets_a_task_finish_and_leaves_nothing(
    live: Live, tmp_path: Path, way: str
) -> None:
    add_slow_task(live)
    dev = live.start_dev()
    assert f"Admin: http://127.0.0.1:{live.port}/admin/" in dev.output
    assert "superuser admin, password admin" in dev.output
    assert "Next: Send reminder emails" in dev.output
    live.start_slow_task(tmp_path)

    match way:
        case "Ctrl-C":
            dev.press_ctrl_c()
        case "SIGTERM":
            os.kill(live.pids("python manage.py dev")[0], signal.SIGTERM)
        case "closed terminal":
            dev.close_window()

    dev.exit_code()
    wait_for(lambda: not processes_below(live.project.path), "all processes to end")
    assert (tmp_path / "done").exists()
    assert not list(live.project.path.rglob("*.sock"))


@pytest.mark.parametrize("part", ["celery -A {slug} beat", "celery -A {slug} worker", "runserver"])
def test_when_one_part_dies_all_stop_and_the_exit_code_says_so(live: Live, part: str) -> None:
    dev = live.start_dev()
    main = min(live.pids(part.format(slug=live.project.slug)))  # older than its pool

    os.kill(main, signal.SIGKILL)

    assert dev.exit_code() != 0
    assert "ended by itself" in dev.output
    wait_for(lambda: not processes_below(live.project.path), "all processes to end")


def test_code_changes_reach_the_worker_and_broken_code_does_not(live: Live) -> None:
    dev = live.start_dev()

    live.project.edit("application/tasks.py", "import smtplib", "import smtplib\nimport nonsense_")
    dev.wait_for("No module named 'nonsense_'")
    assert dev.output.count("ready.") == 1

    live.project.edit("application/tasks.py", "\nimport nonsense_", "")
    dev.wait_for("ready.", count=2)


def test_whatever_is_killed_the_embedded_broker_joins_or_is_replaced(live: Live) -> None:
    live.shorten_interval()
    live.project.run("python", "manage.py", "migrate", env=live.env)
    worker = live.celery("worker", "--loglevel=info", "--concurrency=2")
    live.celery("beat", "--loglevel=info")
    worker.wait_for(SUCCEEDED)

    for victim in ("unixsocket:", "-m scheduling.broker", "sh -c read"):
        before = worker.output.count(SUCCEEDED)
        # Those that came too late to start the server end at once.
        wait_for(partial(live.runs_once, victim), f"one {victim}")
        os.kill(live.pids(victim)[0], signal.SIGKILL)
        worker.wait_for(SUCCEEDED, count=before + 3)

    for pid in live.pids("celery"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not processes_below(live.project.path), "the broker to end", 15)


def test_a_production_shell_never_starts_the_embedded_broker(live: Live) -> None:
    result = live.project.run(
        "python", "manage.py", "check", env=live.env | {"DEBUG": "false"}, check=False
    )

    assert result.returncode != 0
    assert "CELERY_BROKER_URL: Environment variable not set." in result.stderr
    assert not (live.project.path / "var").exists()


def test_a_service_runs_from_a_path_that_is_long_and_odd(live: Live, tmp_path: Path) -> None:
    folder = tmp_path / "my project; 100% +é#?" / ("long" * 20)
    shutil.copytree(live.project.path, folder)
    live.project = Project(folder, live.project.slug, live.project.venv)
    live.shorten_interval()
    live.project.run("python", "manage.py", "migrate", env=live.env)

    live.celery("worker", "--beat", "--loglevel=info").wait_for(SUCCEEDED)
