"""What the list and a schedule's page say of a row, as text or HTML.

The rows come with ``row.status``, a ``ScheduleStatus``, and ``row.file``, the file that declares
them or None.
"""

from datetime import datetime
from itertools import islice
from typing import Any

from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from scheduling.formatting import duration, relative
from scheduling.runs.status import upcoming
from scheduling.sync.plan import stored_values
from scheduling.sync.report import show


def show_time(moment: datetime, now: datetime) -> SafeString:
    """A moment by the service's clock, and how far it is from now."""
    try:
        local = timezone.localtime(moment)
    except OverflowError:  # on the last day of the year 9999
        local = moment
    same_day = local.date() == timezone.localtime(now).date()
    return format_html(
        '<time datetime="{}" title="{}">{}</time> <span class="quiet">{}</span>',
        local.isoformat(timespec="seconds"),
        f"{local:%Y-%m-%d %H:%M:%S %Z}",
        f"{local:%H:%M:%S}" if same_day else f"{local:%d %b %H:%M:%S}",
        relative(moment, now),
    )


def show_upcoming(row: Any, now: datetime, count: int) -> list[SafeString]:
    """A row's next due times. Raises what Celery raises for a schedule that cannot work."""
    return [show_time(due, now) for due in islice(upcoming(row, now), count)]


def next_run(row: Any, now: datetime) -> str:
    """When a row runs next, or why it does not."""
    status = row.status
    if status.problem:
        return format_html('<strong class="bad">Cannot run</strong>: {}', status.problem)
    if not row.enabled and status.has_ended:
        return "Done: it runs once"
    if status.has_expired:
        return format_html("Expired {}", show_time(row.expires, now))
    if not row.enabled:
        return "Paused, with all" if hasattr(row, "pause") else "Paused"
    if not status.due:
        return "Never"
    text = show_time(status.due, now)
    if status.is_overdue:
        text = format_html('<strong class="bad">Overdue</strong> since {}', text)
    if status.missed:
        text = format_html("{}<br>Missed {}", text, show_time(status.missed, now))
    return text


def last_run(row: Any, now: datetime) -> str:
    """How a row's last run went, or that no worker has taken up what beat sent."""
    status = row.status
    if status.waiting:
        return format_html(
            '<strong class="bad">Waits</strong> since {}: {}',
            show_time(status.waiting.queued_at, now),
            status.why_waiting,
        )
    if not status.runs:
        return "None"
    run = status.runs[0]
    parts = [show_time(run.started_at or run.scheduled_for, now)]
    if run.late is not None:
        parts.append(format_html('<span class="whole">{} late</span>', duration(run.late)))
    if run.took is not None:
        parts.append(format_html('<span class="whole">took {}</span>', duration(run.took)))
    if run.due_times > 1:
        parts.append(format_html('<span class="whole">{} times</span>', run.due_times))
    if run.reason:
        parts.append(format_html('<span class="whole">{}</span>', run.reason))
    return format_html(
        '<strong class="{}">{}</strong> {}',
        "bad" if run.kind in ("failed", "expired", "lost", "skipped") else run.kind,
        run.kind.capitalize(),
        format_html_join(", ", "{}", ((part,) for part in parts)),
    )


def origin(row: Any) -> str:
    """Which file declares a row, and what an operator has changed since."""
    declaration = getattr(row, "declaration", None)
    if not row.file or not declaration:
        return "Made by an operator"
    changed = [
        f"{what} {show(declaration.values[what])} → {show(theirs)}"
        for what, theirs in stored_values(row).items()
        if what != "enabled" and theirs != declaration.values.get(what, theirs)
    ]
    text = format_html('<span class="badge">declared in {}</span>', row.file)
    if changed:
        text += format_html(
            ' <span class="badge changed">changed by an operator: {}</span>', "; ".join(changed)
        )
    return text
