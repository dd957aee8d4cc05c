"""Say in words what a seeding changes."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from django.core.management.color import Style

from scheduling.formatting import printable
from scheduling.sync.plan import Change, Difference, Removal, Update

MARKS = {"+": "added", "~": "changed", "!": "kept as an operator set it", "-": "deleted"}
Line = tuple[str, str]  # one of ``MARKS``, and the text


def report(changes: Iterable[Change], style: Style) -> str:
    """A plan as text: a line for each difference, then a summary."""
    changes = list(changes)
    styles = {"+": style.SUCCESS, "~": style.WARNING, "!": style.NOTICE, "-": style.ERROR}
    texts, counts = [], Counter[str]()
    for change in changes:
        found = lines(change)
        texts += [styles[mark](f"  {mark} {printable(text)}") for mark, text in found]
        counts.update({mark for mark, _ in found})
    summary = [f"{counts[mark]} {done}" for mark, done in MARKS.items() if counts[mark]]
    if not any(change.is_pending for change in changes):
        summary.insert(0, "nothing to do")
    return "\n".join(["Schedules:", *texts, f"  {', '.join(summary)}"])


def lines(change: Change) -> list[Line]:
    """The lines of one change; none if there is nothing to say."""
    if isinstance(change, Removal):
        return [("-", _removal(change))]
    name = change.schedule.name
    return [(mark, f"{name}: {text}") for mark, text in _update(change)]


def show(value: Any) -> str:
    """A value of ``stored_values`` for people to read."""
    return "none" if value is None else str(value) or '""'


def _update(update: Update) -> list[Line]:
    if update.row is None:
        again = "; added again after an operator deleted it" if update.declaration else ""
        values = update.schedule.values
        return [("+", f"{values['when']}, {values['task']}{again}")]
    found = [_difference(difference) for difference in update.differences]
    if update.declaration is None:
        found.insert(0, ("!", "adopted; an operator created it"))
    if update.is_pending and not found:
        found.append(("~", "the record of what code declares was out of date"))
    return found


def _difference(difference: Difference) -> Line:
    name, declared = difference.field, show(difference.declared)
    base, stored = show(difference.base), show(difference.stored)
    match difference.outcome:
        case "kept":
            return "!", f"{name} {stored} (code: {declared})"
        case "agreed":
            return "~", f"{name} {base} → {declared}; an operator had already set it"
        case "written":
            is_edited = difference.stored != difference.base
            both = f" (set by an operator; code had {base})" if is_edited else ""
            return "~", f"{name} {stored}{both} → {declared}"


def _removal(removal: Removal) -> str:
    values = removal.declaration.values
    text = f"{removal.name}: {values['when']}, {values['task']}"
    if removal.row is None:
        return f"{text}; its row was already gone"
    if not removal.edited:
        return text
    edited = ", ".join(f"{name} {show(theirs)}" for name, theirs in removal.edited.items())
    return f"{text}; an operator had set {edited}"
