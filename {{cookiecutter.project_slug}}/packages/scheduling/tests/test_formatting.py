from datetime import UTC, datetime, timedelta

import pytest

from scheduling.formatting import duration, printable, printable_lines, relative

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)

DURATIONS = [
    (0, "0 s"),
    (0.04, "0 s"),
    (0.2, "0.2 s"),
    (9.94, "9.9 s"),
    (9.96, "10 s"),
    (59.4, "59 s"),
    (59.6, "1 min"),
    (185, "3 min 5 s"),
    (3_600, "1 h"),
    (7_830, "2 h 10 min"),
    (3 * 86_400 + 4 * 3_600 + 59, "3 d 4 h"),
    (-5, "5 s"),
]


@pytest.mark.parametrize(("seconds", "words"), DURATIONS)
def test_a_duration_is_said_in_two_units(seconds: float, words: str) -> None:
    assert duration(timedelta(seconds=seconds)) == words


MOMENTS = [
    (0.5, "now"),
    (-0.5, "now"),
    (5, "in 5 s"),
    (45.7, "in 45 s"),
    (-45.7, "45 s ago"),
    (599, "in 9 min"),
    (-180, "3 min ago"),
    (26 * 3_600 + 59, "in 1 d 2 h"),
]


@pytest.mark.parametrize(("seconds", "words"), MOMENTS)
def test_a_moment_is_said_as_seen_from_now(seconds: float, words: str) -> None:
    assert relative(NOON + timedelta(seconds=seconds), NOON) == words


def test_no_character_of_a_name_steers_a_terminal() -> None:
    assert printable("Café 🚀 \x1b[31m\n\u202e") == "Café 🚀 \\x1b[31m\\n\\u202e"


def test_further_lines_of_a_text_are_indented() -> None:
    assert printable_lines("one\n\ttwo \x1b[2J\r\n") == "one\n            two \\x1b[2J\\r\n    "
