import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import OuterRef, QuerySet, Subquery
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from scheduling.formatting import duration, printable, relative
from scheduling.models import Run
from scheduling.runs import nodes, queries, status
from scheduling.runs.status import ScheduleStatus
from scheduling.timing import TIMINGS

ROWS_PER_QUERY = 200  # schedules read at once, with their last runs
COLUMNS = "{:7} {:20} {:9} {:>6} {:>6} {:23} {}"  # only a terminal cuts the last
HEADINGS = COLUMNS.format("STATE", "NEXT", "LAST", "LATE", "TOOK", "WHEN", "SCHEDULE")


class Command(BaseCommand):
    help = "List the schedules: what runs next, and how the last runs went."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--overdue",
            action="store_true",
            help="only those whose run is not sent or not begun in time; exit 1 if there are any",
        )

    def handle(self, *args: Any, overdue: bool, **options: Any) -> None:
        now = timezone.now()
        width = shutil.get_terminal_size().columns if self.stdout.isatty() else None
        styles = {
            "overdue": self.style.ERROR,
            "failing": self.style.ERROR,
            "waiting": self.style.ERROR,
        }
        styles |= {"broken": self.style.ERROR, "paused": self.style.WARNING}
        failing, counts = queries.failing(), Counter[str]()
        self.stdout.write(f"beat: {_heartbeat(now)}\n{_cut(HEADINGS, width)}")
        rows = _overdue(now) if overdue else _rows().order_by("name").iterator(ROWS_PER_QUERY)
        for schedule in _statuses(rows, now):
            state = _state(schedule, schedule.row.name in failing)
            counts[state] += 1
            text = _cut(_line(schedule, state, now), width)
            self.stdout.write(styles[state](text) if state in styles else text)
        if overdue and counts:
            raise CommandError(f"Overdue: {counts.total()}")
        named = (f", {count} {state}" for state, count in sorted(counts.items()) if state)
        self.stdout.write(f"{counts.total()} schedules{''.join(named)}")


def _rows() -> QuerySet[PeriodicTask]:
    """All rows, each with the key of its last run; ``queries.last_runs`` is for few schedules."""
    last = Run.objects.filter(periodic_task=OuterRef("pk")).order_by("-scheduled_for")
    rows: QuerySet[PeriodicTask] = PeriodicTask.objects.annotate(
        last_run=Subquery(last.values("pk")[:1])
    )
    return rows.select_related(*TIMINGS)


def _overdue(now: datetime) -> Iterator[PeriodicTask]:
    """The overdue rows, the longest overdue first; then those whose runs wait for a worker."""
    waiting = queries.waiting(now).order_by("scheduled_for")
    found = dict.fromkeys([*status.overdue(now), *waiting.values_list("periodic_task", flat=True)])
    keys = iter(found)
    while chunk := list(islice(keys, ROWS_PER_QUERY)):
        rows = _rows().in_bulk(chunk)
        yield from (rows[key] for key in chunk if key in rows)


def _statuses(rows: Iterator[Any], now: datetime) -> Iterator[ScheduleStatus]:
    """The status of each row, with its last run only."""
    workers = list(nodes.living(is_worker=True, now=now))
    while chunk := list(islice(rows, ROWS_PER_QUERY)):
        keys = [row.last_run for row in chunk if row.last_run]
        runs = {run.pk: run for run in queries.summaries(Run.objects.filter(pk__in=keys))}
        for row in chunk:
            last = [runs[row.last_run]] if row.last_run in runs else []
            yield status.status_of(row, last, workers, now)


def _heartbeat(now: datetime) -> str:
    if not status.has_heartbeat():
        return "its scheduler has no heartbeat"
    if beats := nodes.shown_beats(now):
        ticked = (f"{printable(beat)} ticked {relative(at, now)}" for beat, at in beats.items())
        return ", ".join(ticked)
    last = nodes.last_heartbeat()
    return f"ticked {relative(last, now)}" if last else "never ticked"


def _state(schedule: ScheduleStatus, is_failing: bool) -> str:
    """A schedule's worst state; an empty text if all is well."""
    if not schedule.row.enabled and schedule.has_ended:
        return "ended"
    if schedule.has_expired:
        return "expired"
    if not schedule.row.enabled:
        return "paused"
    if schedule.problem:
        return "broken"
    if schedule.is_overdue:
        return "overdue"
    return "waiting" if schedule.waiting else "failing" if is_failing else ""


def _line(schedule: ScheduleStatus, state: str, now: datetime) -> str:
    last = late = took = None
    if schedule.runs:
        run = schedule.runs[0]
        last, late, took = run.kind, run.late, run.took
    if schedule.waiting:
        late = now - schedule.waiting.scheduled_for
    problem = schedule.problem or schedule.why_waiting
    return COLUMNS.format(
        state,
        _moment(schedule.due, now) if schedule.due and schedule.row.enabled else "",
        last or "",
        _length(late),
        _length(took),
        _cut(printable(status.in_words(schedule.row)), 23),
        printable(schedule.row.name + (f": {problem}" if problem else "")),
    )


def _moment(moment: datetime, now: datetime) -> str:
    """The time of day within a day, else the date."""
    form = "%H:%M" if abs(moment - now) < timedelta(days=1) else "%d %b"
    return f"{timezone.localtime(moment):{form}} {relative(moment, now)}"


def _length(length: timedelta | None) -> str:
    """A duration in one unit."""
    return "" if length is None else " ".join(duration(length).split()[:2])


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else f"{text[: width - 1]}…"
