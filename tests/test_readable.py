"""Values formatted for people (pgque/watching/readable.py)."""

from datetime import datetime, timedelta, timezone

import pytest

from pgque.watching.readable import compact, duration, printable, readable


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0, "0 s"),
        (0.00002, "0 s"),
        (0.00123, "1.2 ms"),
        (0.0123, "12 ms"),
        (0.9996, "1 s"),
        (1.25, "1.2 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (5400, "1.5 h"),
        (86400, "24 h"),
        (200_000, "2.3 d"),
        (864_000, "10 d"),
        (-90, "-1.5 min"),
        (timedelta(hours=2), "2 h"),
    ],
)
def test_durations_have_two_digits_and_a_unit(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.44, "0.4"),
        (9.96, "10"),
        (999, "999"),
        (999.6, "1k"),
        (1240, "1.2k"),
        (99_500, "100k"),
        (12_345_678, "12M"),
        (4e12, "4T"),
    ],
)
def test_numbers_are_compact(number, text):
    assert compact(number) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (True, "yes"),
        (1234567, "1,234,567"),
        (1234.56, "1,234.6"),
        (timedelta(minutes=5), "5 min"),
        ("a\x1b[2J\nb", "a\\x1b[2J\\nb"),
    ],
)
def test_any_value_can_be_formatted(value, text):
    assert readable(value) == text


def test_times_are_local():
    at = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=timezone.utc)
    assert datetime.fromisoformat(readable(at)) == at.replace(microsecond=0)


def test_control_characters_are_escaped():
    assert printable("ü日\u202e\r") == "ü日\\u202e\\r"
