"""Run everything that development needs in one terminal."""

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import current_app
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections, models
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.termcolors import make_style
from django_celery_beat.models import PeriodicTask

import scheduling
from scheduling import database, operations
from scheduling.broker import server as broker
from scheduling.declare import discovery
from scheduling.formatting import printable
from scheduling.models import Run
from scheduling.runs import status
from scheduling.timing import TIMINGS

if TYPE_CHECKING:
    from scheduling.management.supervisor import Supervisor

STYLES = {"web": "cyan", "worker": "green", "beat": "magenta", "dev": "yellow"}
PARTS = ("web", "worker", "beat")
EMAIL = "admin@example.com"


class Command(BaseCommand):
    help = "Migrate, seed, and run the web server, a worker and beat until Ctrl-C."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("address", nargs="?", default="127.0.0.1:8000")
        parser.add_argument(
            "--without",
            action="append",
            choices=PARTS,
            default=[],
            help="leave one out, to run it alone in another terminal; may be repeated",
        )

    def handle(self, *args: Any, address: str, without: list[str], **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("dev is for development: set DEBUG=true, as .env.example does.")
        if lacking := list(what_is_lacking()):
            raise CommandError("\n  ".join(["dev needs", *lacking]))
        os.umask(0o077)  # what development writes, mails too, is nobody else's
        supervisor = self.make_supervisor(address, without)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, supervisor.on_signal)
        migrate()
        is_first_start = self.make_superuser() and not Run.objects.exists()
        with suppress(NoReverseMatch):
            self.say(f"Admin: http://{address}{reverse('admin:index')}")
        self.say_what_runs_next()
        with embedded_broker():
            if is_first_start:
                self.run_first_schedule()
            connections.close_all()
            try:
                ended = supervisor.run()
            finally:
                supervisor.stop()
        if ended:
            raise CommandError(f"{ended} ended by itself, so dev stopped the others.")

    def make_supervisor(self, address: str, without: list[str]) -> "Supervisor":
        from scheduling.management.supervisor import Supervisor

        celery = [sys.executable, "-m", "celery", "-A", current_app.main]
        commands = {
            "web": [sys.executable, "manage.py", "runserver", address],
            "worker": [*celery, "worker", "--loglevel=info", "--concurrency=2", "--without-mingle"],
            "beat": [*celery, "beat", "--loglevel=info"],
        }
        return Supervisor(
            {name: command for name, command in commands.items() if name not in without},
            directory=Path(settings.BASE_DIR),
            say=self.say,
            terminal=self.stdout.fileno(),
        )

    def make_superuser(self) -> bool:
        """Create a user for the admin if there is no user at all. Returns whether there was none.

        Its name is "admin", or an e-mail address where that is the name.
        """
        model: Any = get_user_model()
        if model._default_manager.exists():
            return False
        is_email = isinstance(model._meta.get_field(model.USERNAME_FIELD), models.EmailField)
        fields = {
            name: EMAIL for name in model.REQUIRED_FIELDS if name == model.get_email_field_name()
        }
        fields |= {model.USERNAME_FIELD: EMAIL if is_email else "admin", "password": "admin"}
        try:
            user = model._default_manager.create_superuser(**fields)
        except Exception as error:  # a team's own user model may want more, and says so as it likes
            self.say(f"Made no superuser ({error}): run python manage.py createsuperuser")
            return True
        self.say(f"Made the superuser {user.get_username()}, password admin (development only)")
        return True

    def run_first_schedule(self) -> None:
        """Send the first run of a schedule of the project now, instead of when it is due."""
        row = first_schedule()
        if row is None:
            return
        if reason := operations.run_now([row])[row]:
            self.say(f"{row.name} was not sent: {reason}")
        else:
            again = shlex.join([python(), "manage.py", "run_schedule", row.name])
            self.say(f"First start: {row.name} runs once now. Again: {again}")
        pool: Any = current_app.pool
        pool.force_close_all()  # the embedded broker ends when its clients have gone

    def say_what_runs_next(self) -> None:
        now = timezone.now()
        upcoming: list[tuple[datetime, str]] = []
        for row in PeriodicTask.objects.filter(enabled=True).select_related(*TIMINGS):
            with suppress(Exception):  # the admin says what is wrong with a row
                if first := next(status.upcoming(row, now), None):
                    upcoming.append((first, row.name))
        if upcoming:
            due, name = min(upcoming)
            self.say(f"Next: {name}, at {timezone.localtime(max(due, now)):%H:%M:%S}")

    def say(self, line: str, name: str = "dev") -> None:
        style = make_style(fg=STYLES[name]) if self.stdout.isatty() else str
        with suppress(OSError):  # the terminal may be closed
            self.stdout.write(f"{style(f'{name:6} |')} {printable(line.expandtabs())}")
            self.stdout.flush()


def migrate() -> None:
    """Migrate all databases that the engine needs."""
    for alias in database.aliases():
        call_command("migrate", interactive=False, database=alias)


def what_is_lacking() -> Iterator[str]:
    """What dev needs and a project lacks, each with what to do."""
    if not find_spec("watchfiles"):
        yield "watchfiles: install django-celery-scheduling[dev]"
    directory = getattr(settings, "BASE_DIR", None)
    if directory is None:
        yield "BASE_DIR in the settings: the folder of manage.py"
    elif not Path(directory, "manage.py").is_file():
        yield f"manage.py in BASE_DIR, which is {directory}"
    if current_app.main in (None, "default"):  # the second is Celery's own, without one
        yield "the project's Celery app: import it in the __init__.py beside settings.py"
    if not getattr(settings, "CELERY_BROKER_URL", None):
        yield "CELERY_BROKER_URL in the settings: redis://, rediss://, amqp:// or amqps://"


def first_schedule() -> Any:
    """The first enabled schedule of the project's own apps that runs every so often.

    Not one for a time of the day: it may do what nobody expects at another time.
    """
    engine = Path(scheduling.__file__).parent
    for file, schedule in discovery.by_file():
        is_own = not Path(file).is_relative_to(engine) and "site-packages" not in file
        if is_own and isinstance(schedule.when, timedelta):
            if row := PeriodicTask.objects.filter(name=schedule.name, enabled=True).first():
                return row
    return None


def python() -> str:
    """This Python, as it is called from the current directory."""
    path = os.path.relpath(sys.executable)
    return sys.executable if path.startswith(os.pardir) else path


@contextmanager
def embedded_broker() -> Iterator[None]:
    """Run the embedded broker, if the settings name it. It stays while worker and beat restart."""
    directory = broker.embedded_directory(settings.CELERY_BROKER_URL)
    if directory is None:
        yield
        return
    try:
        broker.start(directory)  # the worker would start it too; here an error shows at once
        with broker.connect(broker.socket_path(directory)) as client:
            client.ping()  # a client now, which the broker counts
            yield
    finally:
        broker.stop_if_idle(directory)
