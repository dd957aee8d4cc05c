"""Processes of a service: start them as a person does, wait for them, end them all."""

import contextlib
import fcntl
import os
import select
import signal
import socket
import subprocess
import termios
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.harness.project import INSTALLED, Project


def wait_for(condition: Callable[[], object], what: str, seconds: float = 90) -> None:
    """Return as soon as the condition is true; raise AssertionError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain for {what}"
        time.sleep(0.05)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def processes_below(folder: Path) -> list[str]:
    """The pid and command line of each process that works in a folder."""
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


class Live:
    """A service, its mails in a folder, and the terminals that were opened in it."""

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

    def move(self, folder: Path) -> None:
        """Go on in a copy of the service in another folder."""
        self.project = replace(self.project, path=folder)
        self.env["PYTHONPATH"] = str(self.project.engine)

    def start(self, *command: str, **env: str) -> Terminal:
        terminal = Terminal(self.project, *command, env=self.env | env)
        self.terminals.append(terminal)
        return terminal

    def start_dev(self) -> Terminal:
        terminal = self.start("make", "dev", INSTALLED, f"PORT={self.port}")
        terminal.wait_for("ready.")
        terminal.wait_for("beat: Starting...")
        terminal.wait_for("Starting development server")
        return terminal

    def celery(self, *arguments: str) -> Terminal:
        return self.start("celery", "-A", self.project.slug, *arguments)

    def python(self, code: str) -> str:
        return self.project.run("python", "manage.py", "shell", "-c", code, env=self.env).stdout

    def migrate(self) -> None:
        self.project.run("python", "manage.py", "migrate", env=self.env)

    def mailed_to(self, recipient: str) -> int:
        return sum(f"To: {recipient}" in mail.read_text() for mail in self.mails.glob("*"))

    def shorten_interval(self) -> None:
        self.project.edit("application/schedules.py", "minutes=10", "seconds=1")

    def pids(self, command: str) -> list[int]:
        found = processes_below(self.project.path)
        return [int(line.split()[0]) for line in found if command in line]

    def runs_once(self, command: str) -> bool:
        return len(self.pids(command)) == 1

    def end(self) -> None:
        running = [each.process for each in self.terminals if each.process.poll() is None]
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
        self.kill("-m scheduling.broker", signal.SIGTERM)  # else it waits for another client
        with contextlib.suppress(AssertionError):
            wait_for(lambda: not processes_below(self.project.path), "all processes to end", 60)
        self.kill("", signal.SIGKILL)
        for terminal in self.terminals:
            terminal.end()

    def kill(self, command: str, number: signal.Signals) -> None:
        """Send a signal to the service's processes whose command lines have a text in them."""
        for pid in self.pids(command):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
