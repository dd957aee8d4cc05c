from difflib import get_close_matches
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django_celery_beat.models import PeriodicTask

from scheduling import operations
from scheduling.formatting import printable


class Command(BaseCommand):
    help = "Send a run of a schedule now, as the admin's 'run now' does."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="the schedule's name, in quotes")

    def handle(self, *args: Any, name: str, **options: Any) -> None:
        row = PeriodicTask.objects.filter(name=name).first()
        if row is None:
            names = PeriodicTask.objects.order_by("name").values_list("name", flat=True)
            near = " or ".join(map(repr, get_close_matches(name, names)))
            hint = f"Did you mean {near}?" if near else "manage.py schedules lists the names."
            raise CommandError(f"There is no schedule {name!r}. {hint}", returncode=2)
        if reason := operations.run_now([row])[row]:
            raise CommandError(printable(f"{name!r} was not sent: {reason}"))
        kwargs = f", kwargs {row.kwargs}" if row.kwargs != "{}" else ""
        queue = f", to the queue {row.queue!r}" if row.queue else ""
        what = f"{row.task}, args {row.args}{kwargs}{queue}"
        self.stdout.write(printable(f"Sent {name!r}: {what}. A worker runs it."))
