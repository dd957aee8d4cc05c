"""Runs as inline SVG: no script, no other host, and no colour without a shape.

The class of each mark is the run's kind (``scheduling.runs.queries.KINDS``). ``schedules.css``
gives each kind a colour in the light and the dark theme.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from scheduling.formatting import duration
from scheduling.runs.queries import KINDS, RunSummary, late_after
from scheduling.runs.status import ScheduleStatus, upcoming

# Paths around the centre of a mark, 8 pixels wide.
SHAPES = {
    "succeeded": "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
    "late": "M0-4L4 3.5H-4z",
    "failed": "M-3.5-3.5L3.5 3.5M-3.5 3.5L3.5-3.5",
    "lost": "M-3.5-3.5H3.5V3.5H-3.5zM-3.5-3.5L3.5 3.5",
    "expired": "M-4 0H4",
    "skipped": "M-4-2H4M-4 2H4",
    "cancelled": "M-4 4L4-4",
    "waiting": "M-1 0a1 1 0 1 0 2 0a1 1 0 1 0-2 0z",
    "running": "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
    "retrying": "M-3-3H3V3H-3z",
}
# Lengths in pixels.
MARK = 10  # from one mark to the next
LABELS = 110  # the chart's labels, left of its bars
PANEL, LONGEST_BAR = 80, 64  # heights in the chart
TIMELINE, ROW = 720, 20  # the timeline's width, and the height of one of its rows

HALF_A_DAY = timedelta(hours=12)
MAX_OUTLINES = 72  # upcoming runs in half a day; the timeline draws more of them as one band
MAX_TIMES = 8  # due times in a title


def sentence(run: RunSummary) -> str:
    """How a run went, when it was due, how late it started, and how long it took."""
    parts = [
        KINDS[run.kind].capitalize(),
        f"due {timezone.localtime(run.scheduled_for):%d %b %H:%M:%S}",
    ]
    if run.late is not None:
        parts.append(f"{duration(run.late)} late")
    if run.took is not None:
        parts.append(f"took {duration(run.took)}")
    if run.retries:
        parts.append(f"{run.retries} {'retry' if run.retries == 1 else 'retries'}")
    if run.due_times > 1:
        parts.append(f"{run.due_times} due times")
    if run.reason:
        parts.append(run.reason)
    return " · ".join(parts)


def summary(runs: Iterable[RunSummary]) -> str:
    """Count runs by kind, such as "20 runs: 18 succeeded, 2 failed"."""
    counts = Counter(run.kind for run in runs)
    total = counts.total()
    parts = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS if counts[kind])
    return f"{total} {'run' if total == 1 else 'runs'}{': ' if parts else ''}{parts}"


def strip(runs: Sequence[RunSummary]) -> SafeString:
    """Draw runs, given newest first, as small marks with the newest at the right."""
    return format_html(
        '<svg class="runs" role="img" aria-label="{}" width="{}" height="14">{}</svg>',
        summary(runs),
        _width(runs),
        _marks(reversed(runs), y=7),
    )


def legend(kind: str) -> SafeString:
    """Draw a kind's mark without a run."""
    return format_html(
        '<svg class="runs" aria-hidden="true" width="{}" height="14">'
        '<path class="run {}" transform="translate(5 7)" d="{}"/></svg>',
        MARK,
        kind,
        SHAPES[kind],
    )


def _width(runs: Sequence[RunSummary]) -> int:
    return max(1, len(runs)) * MARK


def _centre(position: int) -> int:
    return position * MARK + MARK // 2


def _marks(oldest_first: Iterable[RunSummary], y: int) -> SafeString:
    marks = (
        (run.kind, _centre(position), y, SHAPES[run.kind], sentence(run))
        for position, run in enumerate(oldest_first)
    )
    return format_html_join(
        "",
        '<path class="run {}" transform="translate({} {})" d="{}"><title>{}</title></path>',
        marks,
    )


# Chart


def chart(runs: Sequence[RunSummary]) -> SafeString:
    """Draw how late runs started and how long they took, as bars with the newest at the right."""
    oldest_first = list(reversed(runs))
    return format_html(
        '<svg class="chart" role="img" aria-label="Lateness and duration of the last {summary}" '
        'width="{width}" height="200" viewBox="-{labels} 0 {width} 200">{late}{took}{marks}</svg>',
        summary=summary(runs),
        width=_width(runs) + LABELS,
        labels=LABELS,
        late=_panel(oldest_first, "Late", lambda run: run.late, top=0, limit=late_after()),
        took=_panel(oldest_first, "Took", lambda run: run.took, top=PANEL + 10),
        marks=_marks(oldest_first, y=190),
    )


def _panel(
    runs: Sequence[RunSummary],
    label: str,
    length: Callable[[RunSummary], timedelta | None],
    top: int,
    limit: timedelta | None = None,
) -> SafeString:
    """Draw a bar for each run, scaled to the longest, and a line at the limit if it is in range."""
    lengths = [length(run) or timedelta() for run in runs]
    longest = max([*lengths, timedelta(milliseconds=100)])
    base = top + PANEL
    line = SafeString()
    if limit and limit <= longest:
        y = base - round(limit / longest * LONGEST_BAR)
        line = format_html('<path class="limit" d="M0 {}H{}"/>', y, _width(runs))
    return format_html(
        '<text x="-108" y="{top}">{label}</text>'
        '<text x="-8" y="{top}" text-anchor="end">{longest}</text>'
        '<text x="-8" y="{base}" text-anchor="end">0</text>'
        '<path class="axis" d="M0 {base}H{width}"/>{bars}{line}',
        top=top + 22,
        label=label,
        longest=duration(longest),
        base=base,
        width=_width(runs),
        bars=_bars(runs, [its / longest for its in lengths], base),
        line=line,
    )


def _bars(runs: Sequence[RunSummary], shares: Sequence[float], base: int) -> SafeString:
    """Draw each run's share of the longest bar, upwards from the base."""
    bars = []
    for position, (run, share) in enumerate(zip(runs, shares, strict=True)):
        height = max(1, round(share * LONGEST_BAR))
        bars.append((run.kind, _centre(position) - 3, base - height, height, sentence(run)))
    return format_html_join(
        "",
        '<rect class="run {}" x="{}" y="{}" width="6" height="{}"><title>{}</title></rect>',
        bars,
    )


# Timeline


@dataclass(frozen=True)
class Axis:
    """The half day before and the half day after a moment, as pixels from the left."""

    now: datetime

    def x(self, moment: datetime) -> float:
        place = (moment - self.now + HALF_A_DAY) / (2 * HALF_A_DAY) * TIMELINE
        return round(min(max(place, 0), TIMELINE), 1)

    def hours(self) -> list[tuple[float, str]]:
        """The place of each full hour, and a text for every third."""
        start = timezone.localtime(self.now - HALF_A_DAY)
        first = start.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        moments = [timezone.localtime(first + timedelta(hours=number)) for number in range(24)]
        return [(self.x(at), f"{at:%H:%M}" if at.hour % 3 == 0 else "") for at in moments]


def timeline_row(status: ScheduleStatus, runs: Sequence[RunSummary], axis: Axis) -> SafeString:
    """Draw a schedule's runs as bars and its upcoming runs as outlines, with a path per kind."""
    by_kind: dict[str, list[RunSummary]] = {}
    for run in runs:
        by_kind.setdefault(run.kind, []).append(run)
    paths = [
        (kind, "".join(_bar(run, axis) for run in by_kind[kind]), _title(by_kind[kind]))
        for kind in KINDS
        if kind in by_kind
    ]
    if status.row.enabled and not status.problem:
        paths.append(("coming", *_outlines(status, axis)))
    return format_html(
        '<svg class="row" role="img" aria-label="{}" width="{}" height="{}">{}</svg>',
        summary(runs),
        TIMELINE,
        ROW,
        format_html_join("", '<path class="{}" d="{}"><title>{}</title></path>', paths),
    )


def _bar(run: RunSummary, axis: Axis) -> str:
    """A path from a run's start to its end, with a shape for each kind that is not a success."""
    start = run.started_at or run.scheduled_for
    left = axis.x(start)
    right = max(axis.x(run.finished_at or axis.now), left + 2)
    bar = f"M{left} 7H{right}V13H{left}z"
    match run.kind:
        case "late":  # a line from the due time, and a triangle
            return f"M{axis.x(run.scheduled_for)} 10H{left}{bar}M{left + 1} 1l3 5h-6z"
        case "failed":
            return f"{bar}M{right - 6} 1l8 6m0-6l-8 6"
        case "expired" | "skipped" | "cancelled" | "waiting":
            return f"M{left - 3} 10h6"
        case _:
            return bar


def _title(runs: Sequence[RunSummary]) -> str:
    """Describe runs of one kind, given newest first; of many only the newest by their times."""
    if len(runs) == 1:
        return sentence(runs[0])
    times = [f"{timezone.localtime(run.scheduled_for):%H:%M:%S}" for run in runs[:MAX_TIMES]]
    more = f" and {len(runs) - MAX_TIMES} before" if len(runs) > MAX_TIMES else ""
    return f"{len(runs)} {runs[0].kind}: {', '.join(times)}{more}"


def _outlines(status: ScheduleStatus, axis: Axis) -> tuple[str, str]:
    """The path and the title of the upcoming runs."""
    end, places = axis.now + HALF_A_DAY, []
    for due in upcoming(status.row, axis.now):
        if due > end:
            break
        if due >= axis.now:
            places.append(axis.x(due))
        if len(places) > MAX_OUTLINES:
            return f"M{places[0]} 7.5H{TIMELINE}V12.5H{places[0]}z", "many upcoming runs"
    path = "".join(f"M{x} 7.5h3v5h-3z" for x in places)
    return path, f"{len(places)} upcoming {'run' if len(places) == 1 else 'runs'}"
