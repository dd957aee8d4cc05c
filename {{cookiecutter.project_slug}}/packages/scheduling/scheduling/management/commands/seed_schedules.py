from difflib import get_close_matches
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from scheduling.declare import discovery
from scheduling.sync.apply import seed
from scheduling.sync.plan import plan, stored
from scheduling.sync.report import report


class Command(BaseCommand):
    help = "Merge the schedules that the apps' schedules.py declare into the database."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="print the plan, write nothing")
        parser.add_argument(
            "--check", action="store_true", help="like --dry-run; exit 1 if there is anything to do"
        )
        parser.add_argument(
            "--reset", metavar="NAME", help="give only this schedule all of code's values"
        )

    def handle(
        self, *args: Any, dry_run: bool, check: bool, reset: str | None, **options: Any
    ) -> None:
        declared = discovery.declared()
        names = [schedule.name for schedule in declared]
        if reset is not None and reset not in names:
            near = " or ".join(map(repr, get_close_matches(reset, names))) or "one of its names"
            raise CommandError(
                f"No schedules.py declares a schedule {reset!r}. Did you mean {near}?",
                returncode=2,
            )
        if dry_run or check:
            changes = plan(declared, *stored(declared), reset=reset)
        else:
            changes = seed(declared, reset=reset)
        if options["verbosity"]:
            self.stdout.write(report(changes, self.style))
        if check and any(change.is_pending for change in changes):
            raise CommandError("The database differs from what code declares: run seed_schedules.")
