"""Runs as inline SVG: no script, no other host, and no colour without a shape.

Classes say how a run went (``history.KINDS``); schedules.css gives them colours, light and dark.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from scheduling.history import KINDS, Overview, Ran, late_after, upcoming
from scheduling.words import duration

# Around the middle of a mark, 8 wide: a disc, a triangle, a cross, a ring, a square and a dash.
SHAPES = {
    "succeeded": "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
    "late": "M0-4L4 3.5H-4z",
    "failed": "M-3.5-3.5L3.5 3.5M-3.5 3.5L3.5-3.5",
    "running": "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
    "retrying": "M-3-3H3V3H-3z",
    "revoked": "M-4 0H4",
}
MARK = 10  # from one mark to the next
HALF_A_DAY = timedelta(hours=12)
WIDTH, ROW = 720, 20  # of the timeline, and the height of a row of it
MANY = 72  # times to come in half a day: more of them are a band


def sentence(run: Ran) -> str:
    """How a run went, when it was due, how late it was, and how long it took."""
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
    return " · ".join(parts)


def summary(runs: Iterable[Ran]) -> str:
    """Such as "20 runs: 18 succeeded, 2 failed"."""
    counts = Counter(run.kind for run in runs)
    total = counts.total()
    parts = ", ".join(f"{counts[name]} {name}" for name in KINDS if counts[name])
    return f"{total} {'run' if total == 1 else 'runs'}{': ' if parts else ''}{parts}"


def strip(runs: Sequence[Ran]) -> SafeString:
    """The last runs as small marks, the newest at the right; each says more when pointed at."""
    marks = ((x, 7, run) for x, run in zip(_places(len(runs)), reversed(runs), strict=True))
    return format_html(
        '<svg class="runs" role="img" aria-label="{}" width="{}" height="14">{}</svg>',
        *(summary(runs), max(1, len(runs)) * MARK, _marks(marks)),
    )


def _places(count: int) -> list[int]:
    return [number * MARK + MARK // 2 for number in range(count)]


def _marks(marks: Iterable[tuple[int, int, Ran]]) -> SafeString:
    return format_html_join(
        "",
        '<path class="run {}" transform="translate({} {})" d="{}"><title>{}</title></path>',
        ((run.kind, x, y, SHAPES[run.kind], sentence(run)) for x, y, run in marks),
    )


def legend(name: str) -> SafeString:
    """A mark by itself, for those who read how it is to be read."""
    return format_html(
        '<svg class="runs" aria-hidden="true" width="{}" height="14">'
        '<path class="run {}" transform="translate(5 7)" d="{}"/></svg>',
        *(MARK, name, SHAPES[name]),
    )


# Chart


def chart(runs: Sequence[Ran]) -> SafeString:
    """How late runs were started, and how long they took: a bar each, the newest at the right."""
    oldest_first = list(reversed(runs))
    width = max(1, len(runs)) * MARK
    bottom = 190
    late = _bars(oldest_first, "Late", lambda run: run.late, top=0, limit=late_after())
    took = _bars(oldest_first, "Took", lambda run: run.took, top=90)
    marks = _marks(
        (x, bottom, run) for x, run in zip(_places(len(runs)), oldest_first, strict=True)
    )
    return format_html(
        '<svg class="chart" role="img" aria-label="Lateness and duration of the last {}" '
        'width="{}" height="{}" viewBox="-110 0 {} {}">{}{}{}</svg>',
        *(summary(runs), width + 110, bottom + 10, width + 110, bottom + 10, late, took, marks),
    )


def _bars(
    runs: Sequence[Ran],
    label: str,
    length: Callable[[Ran], timedelta | None],
    top: int,
    limit: timedelta | None = None,
) -> SafeString:
    """A panel, 80 high, whose scale ends at the longest; a line marks the limit if it is near."""
    lengths = [length(run) or timedelta() for run in runs]
    longest = max([*lengths, timedelta(milliseconds=100)])
    base, width = top + 80, max(1, len(runs)) * MARK
    bars = (
        (run.kind, x - 3, base - height, height, sentence(run))
        for x, run, its in zip(_places(len(runs)), runs, lengths, strict=True)
        if (height := max(1, round(its / longest * 64)))
    )
    line = ""
    if limit and limit <= longest:
        y = base - round(limit / longest * 64)
        line = format_html('<path class="limit" d="M0 {}H{}"/>', y, width)
    return format_html(
        '<text x="-108" y="{}">{}</text><text x="-8" y="{}" text-anchor="end">{}</text>'
        '<text x="-8" y="{}" text-anchor="end">0</text><path class="axis" d="M0 {}H{}"/>{}{}',
        *(top + 22, label, top + 22, duration(longest), base, base, width),
        format_html_join(
            "",
            '<rect class="run {}" x="{}" y="{}" width="6" height="{}"><title>{}</title></rect>',
            bars,
        ),
        line,
    )


# Timeline


@dataclass(frozen=True)
class Axis:
    """Half a day before and after a moment, as places on a line."""

    now: datetime

    def x(self, moment: datetime) -> float:
        place = (moment - self.now + HALF_A_DAY) / (2 * HALF_A_DAY) * WIDTH
        return round(min(max(place, 0), WIDTH), 1)

    def hours(self) -> list[tuple[float, str]]:
        """The full hours, every third of them with its text."""
        start = timezone.localtime(self.now - HALF_A_DAY)
        first = start.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        moments = [timezone.localtime(first + timedelta(hours=number)) for number in range(24)]
        return [(self.x(at), f"{at:%H:%M}" if at.hour % 3 == 0 else "") for at in moments]


def timeline_row(view: Overview, runs: Sequence[Ran], axis: Axis) -> SafeString:
    """A schedule's runs as bars, and what comes as outlines: a path for each kind."""
    by_kind: dict[str, list[Ran]] = {}
    for run in runs:
        by_kind.setdefault(run.kind, []).append(run)
    parts = [
        (kind, "".join(_bar(run, axis) for run in by_kind[kind]), _times(by_kind[kind]))
        for kind in KINDS
        if kind in by_kind
    ]
    if view.row.enabled and not view.problem:
        parts.append(("coming", *_coming(view, axis)))
    return format_html(
        '<svg class="row" role="img" aria-label="{}" width="{}" height="{}">{}</svg>',
        *(summary(runs), WIDTH, ROW),
        format_html_join("", '<path class="{}" d="{}"><title>{}</title></path>', parts),
    )


def _bar(run: Ran, axis: Axis) -> str:
    """From its start to its end: low if it succeeded; what did not is high, and has its shape."""
    start = run.started_at or run.scheduled_for
    left = axis.x(start)
    right = max(axis.x(run.finished_at or axis.now), left + 2)
    bar = f"M{left} 7H{right}V13H{left}z"
    match run.kind:
        case "late":  # with a line from when it was due, and a triangle
            return f"M{axis.x(run.scheduled_for)} 10H{left}{bar}M{left + 1} 1l3 5h-6z"
        case "failed":
            return f"{bar}M{right - 6} 1l8 6m0-6l-8 6"
        case "revoked":
            return f"M{left - 3} 10h6"
        case _:
            return bar


def _times(runs: Sequence[Ran]) -> str:
    """What a path says when pointed at: the last ones by their times."""
    if len(runs) == 1:
        return sentence(runs[0])
    times = [f"{timezone.localtime(run.scheduled_for):%H:%M:%S}" for run in runs[:8]]
    more = f" and {len(runs) - 8} before" if len(runs) > 8 else ""
    return f"{len(runs)} {runs[0].kind}: {', '.join(times)}{more}"


def _coming(view: Overview, axis: Axis) -> tuple[str, str]:
    """The next runs as outlines; very many of them as one band."""
    end, places = axis.now + HALF_A_DAY, []
    for due in upcoming(view.row, axis.now):
        if due > end:
            break
        if due >= axis.now:
            places.append(axis.x(due))
        if len(places) > MANY:
            return f"M{places[0]} 7.5H{WIDTH}V12.5H{places[0]}z", "many runs to come"
    path = "".join(f"M{x} 7.5h3v5h-3z" for x in places)
    return path, f"{len(places)} {'run' if len(places) == 1 else 'runs'} to come"
