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

from scheduling import history
from scheduling.due import TIMINGS
from scheduling.history import Overview
from scheduling.models import Run
from scheduling.words import duration, printable, relative

CHUNK = 200  # schedules that are read at once, with their last runs
COLUMNS = "{:7} {:20} {:7} {:>6} {:>6} {:23} {}"  # the last is cut by a terminal only
HEADINGS = COLUMNS.format("STATE", "NEXT", "LAST", "LATE", "TOOK", "WHEN", "SCHEDULE")


class Command(BaseCommand):
    help = "List the schedules: what runs next, and how the last runs went."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--overdue",
            action="store_true",
            help="only those whose run beat should have sent; exit 1 if there are any",
        )

    def handle(self, *args: Any, overdue: bool, **options: Any) -> None:
        now = timezone.now()
        width = shutil.get_terminal_size().columns if self.stdout.isatty() else None
        styles = {"overdue": self.style.ERROR, "failing": self.style.ERROR}
        styles |= {"broken": self.style.ERROR, "paused": self.style.WARNING}
        failing, counts = history.failing(), Counter[str]()
        self.stdout.write(f"beat: {_heartbeat(now)}\n{_cut(HEADINGS, width)}")
        rows = _overdue(now) if overdue else _rows().order_by("name").iterator(CHUNK)
        for view in _views(rows, now):
            state = _state(view, view.row.name in failing)
            counts[state] += 1
            text = _cut(_line(view, state, now), width)
            self.stdout.write(styles[state](text) if state in styles else text)
        if overdue and counts:
            raise CommandError(f"Overdue: {counts.total()}")
        named = (f", {count} {state}" for state, count in sorted(counts.items()) if state)
        self.stdout.write(f"{counts.total()} schedules{''.join(named)}")


def _rows() -> QuerySet[PeriodicTask]:
    """With the key of the last run of each: ``history.last_runs`` is for few schedules."""
    last = Run.objects.filter(schedule=OuterRef("name")).order_by("-scheduled_for", "-queued_at")
    rows: QuerySet[PeriodicTask] = PeriodicTask.objects.annotate(
        last_run=Subquery(last.values("pk")[:1])
    )
    return rows.select_related(*TIMINGS)


def _overdue(now: datetime) -> Iterator[PeriodicTask]:
    """Those that have been so for the longest first."""
    keys = iter(history.overdue(now))
    while chunk := list(islice(keys, CHUNK)):
        rows = _rows().in_bulk(chunk)
        yield from (rows[key] for key in chunk if key in rows)


def _views(rows: Iterator[Any], now: datetime) -> Iterator[Overview]:
    while chunk := list(islice(rows, CHUNK)):
        keys = [row.last_run for row in chunk if row.last_run]
        runs = {run.pk: run for run in history.read(Run.objects.filter(pk__in=keys))}
        for row in chunk:
            yield history.view_of(row, [runs[row.last_run]] if row.last_run in runs else [], now)


def _heartbeat(now: datetime) -> str:
    if not history.has_heartbeat():
        return "its scheduler has no heartbeat"
    if beats := history.heartbeats():
        ticked = (f"{printable(beat)} ticked {relative(at, now)}" for beat, at in beats.items())
        return ", ".join(ticked)
    last = history.last_heartbeat()
    return f"ticked {relative(last, now)}" if last else "never ticked"


def _state(view: Overview, is_failing: bool) -> str:
    """The worst that is to be said of a schedule."""
    row = view.row
    if not row.enabled:
        has_ended = (row.one_off or row.clocked_id) and row.total_run_count
        return "ended" if has_ended else "paused"
    if view.problem:
        return "broken"
    return "overdue" if view.is_overdue else "failing" if is_failing else ""


def _line(view: Overview, state: str, now: datetime) -> str:
    last = late = took = None
    if view.waits_since:
        last, late = "PENDING", now - view.waits_since
    elif view.runs:
        last, late, took = view.runs[0].state, view.runs[0].late, view.runs[0].took
    problem = f": {view.problem}" if view.problem else ""
    return COLUMNS.format(
        state,
        _moment(view.due, now) if view.due and view.row.enabled else "",
        last or "",
        _length(late),
        _length(took),
        _cut(history.in_words(view.row), 23),
        printable(view.row.name + problem),
    )


def _moment(moment: datetime, now: datetime) -> str:
    """The time of a day, or another day."""
    form = "%H:%M" if abs(moment - now) < timedelta(days=1) else "%d %b"
    return f"{timezone.localtime(moment):{form}} {relative(moment, now)}"


def _length(length: timedelta | None) -> str:
    """In one unit."""
    return "" if length is None else " ".join(duration(length).split()[:2])


def _cut(text: str, width: int | None) -> str:
    return text if width is None or len(text) <= width else f"{text[: width - 1]}…"
