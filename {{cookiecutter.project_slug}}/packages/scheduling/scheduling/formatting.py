"""Format times, durations and names for people."""

from datetime import datetime, timedelta

UNITS = {"d": 86_400, "h": 3_600, "min": 60, "s": 1}  # in seconds


def duration(length: timedelta) -> str:
    """A length without its sign: "0.2 s", "12 s", "3 min 5 s", "2 h 10 min", "3 d 4 h"."""
    seconds = abs(length.total_seconds())
    if seconds < 9.95:
        return f"{seconds:.1f} s".replace(".0", "")
    left, parts = round(seconds), []
    for unit, size in UNITS.items():
        count, left = divmod(left, size)
        parts.append((count, unit))
    while not parts[0][0]:
        del parts[0]
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count)


def relative(moment: datetime, now: datetime) -> str:
    """A moment as seen from now: "in 9 min", "3 min ago", "now". From a minute on, no seconds."""
    length = abs(moment - now)
    unit = timedelta(minutes=1) if length >= timedelta(minutes=1) else timedelta(seconds=1)
    if length < unit:
        return "now"
    text = duration(length // unit * unit)
    return f"in {text}" if moment > now else f"{text} ago"


def printable(text: str) -> str:
    """Escape line breaks and control characters, so that no name steers a terminal or a report."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def printable_lines(text: str) -> str:
    """The same for a text of lines: further ones are indented, so that none passes for a first."""
    return "\n    ".join(map(printable, text.expandtabs().split("\n")))
