"""Everything that development needs, in one terminal."""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any

from celery import current_app
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection
from django.utils import timezone
from django.utils.termcolors import make_style
from watchfiles import PythonFilter, watch

from scheduling import broker
from scheduling.heap import Heap

GRACE_SECONDS = 60  # for running tasks; Ctrl-C a second time does not wait
STYLES = {"web": "cyan", "worker": "green", "beat": "magenta", "dev": "yellow"}


class Command(BaseCommand):
    help = "Migrate, seed, and run the web server, a worker and beat until Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("address", nargs="?", default="127.0.0.1:8000")

    def handle(self, *args: Any, address: str, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("dev is for development: set DEBUG=true, as .env.example does.")
        self.stopping, self.hurry = threading.Event(), threading.Event()
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self.readers: list[threading.Thread] = []
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.on_signal)
        call_command("migrate", interactive=False)
        self.make_superuser()
        self.say(f"Admin: http://{address}/admin/")
        self.say_what_runs_next()
        connection.close()

        celery = [sys.executable, "-m", "celery", "-A", current_app.main]
        self.commands = {
            "web": [sys.executable, "manage.py", "runserver", "--noreload", address],
            "worker": [*celery, "worker", "--loglevel=info", "--concurrency=2"],
            "beat": [*celery, "beat", "--loglevel=info"],
        }
        embedded = broker.embedded_directory(settings.CELERY_BROKER_URL)
        try:
            if embedded:  # the worker would start it too; here an error shows at once
                broker.start(embedded)
            self.start()
            died = self.supervise()
        finally:
            self.stop()
            if embedded:
                broker.stop_if_idle(embedded)
        if died:
            raise CommandError(f"{died} ended by itself, so all were stopped.")

    def on_signal(self, number: int, frame: Any) -> None:
        if self.stopping.is_set() and number == signal.SIGINT:
            self.hurry.set()
        self.stopping.set()

    def make_superuser(self) -> None:
        """A user for the admin, only where there is none at all."""
        users = get_user_model()._default_manager
        if not users.exists():
            users.create_superuser("admin", "admin@localhost", "admin")
            self.say("Made the superuser admin, password admin (development only)")

    def say_what_runs_next(self) -> None:
        heap = Heap(deadline=None)
        heap.look()
        for waiting in sorted(heap.waiting.values(), key=attrgetter("due"))[:1]:
            at = timezone.localtime(max(waiting.due, timezone.now()))
            self.say(f"Next: {waiting.name}, at {at:%H:%M:%S}")

    def start(self) -> None:
        for name, command in self.commands.items():
            self.processes[name] = process = subprocess.Popen(  # noqa: S603
                command,
                cwd=settings.BASE_DIR,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this process; it stops them in order
                text=True,
                errors="replace",
            )
            reader = threading.Thread(target=self.copy_output, args=(name, process), daemon=True)
            reader.start()
            self.readers.append(reader)

    def supervise(self) -> str | None:
        """Restart all on a change of code. Returns who ended unasked, None at a signal."""
        changes = watch(
            settings.BASE_DIR,
            watch_filter=PythonFilter(extra_extensions=(".html", ".env")),
            stop_event=self.stopping,
            rust_timeout=500,
            yield_on_timeout=True,
        )
        terminal = select.poll()
        terminal.register(self.stdout.fileno(), 0)  # asks for nothing but a hang-up or an error
        for changed in changes:
            if terminal.poll(0):  # closed; SIGHUP goes to a shell's jobs, not to a shell's child
                return None
            if died := next((n for n, p in self.processes.items() if p.poll() is not None), None):
                return None if self.stopping.is_set() else died
            if changed:
                names = sorted({Path(path).name for _, path in changed})
                self.say(f"{', '.join(names)} changed")
                # Also the test whether the code works: with an error in it, the old code runs on.
                if not subprocess.run([sys.executable, "manage.py", "seed_schedules"]).returncode:  # noqa: S603
                    self.stop()
                    self.start()
        return None

    def stop(self) -> None:
        """End what makes work, then what does it. Signals go to main processes only."""
        for names in (("beat", "web"), ("worker",)):
            group = [self.processes[name] for name in names if name in self.processes]
            for process in group:
                process.terminate()
            deadline = time.monotonic() + GRACE_SECONDS
            for process in group:
                while process.poll() is None and not self.hurry.is_set():
                    if time.monotonic() > deadline:
                        break
                    time.sleep(0.1)
                with suppress(ProcessLookupError):  # whatever is left of it, its children too
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for reader in self.readers:
            reader.join()
        self.readers.clear()

    def copy_output(self, name: str, process: "subprocess.Popen[str]") -> None:
        assert process.stdout  # noqa: S101
        for line in process.stdout:
            self.say(line.rstrip("\n"), name)

    def say(self, line: str, name: str = "dev") -> None:
        style = make_style(fg=STYLES[name]) if self.stdout.isatty() else str
        with suppress(OSError):  # the terminal may be closed
            self.stdout.write(f"{style(f'{name:6} |')} {line}")
            self.stdout.flush()
