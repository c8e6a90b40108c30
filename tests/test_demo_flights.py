"""The demo's data, and the rate at which it is sent."""

import gzip
import hashlib
import threading
import time
from collections import Counter

import pytest

from pgque.demo import parse_rate
from pgque.demo.flights import CANCELLED, DATA, DEPARTED, load
from pgque.demo.producer import LARGEST_WAVE, pace

# A hash of the text, because the compressed bytes differ between versions of zlib.
SHA256 = "4631a44b72462da4bd0e1e643d9722f4238a8d24dd05daef2896f306f5bc3d4e"


def test_the_file_is_the_output_of_its_script():
    with gzip.open(DATA) as file:
        assert hashlib.sha256(file.read()).hexdigest() == SHA256
    assert DATA.stat().st_size < 200_000


def test_the_week_has_6099_flights_and_35_of_them_never_left():
    flights = load()
    assert Counter(flight.type for flight in flights) == {DEPARTED: 6064, CANCELLED: 35}
    assert len({flight.payload["id"] for flight in flights}) == 6099


def test_flights_are_in_the_order_of_the_schedule():
    schedule = [(f.payload["day"], f.payload["sched_dep_time"]) for f in load()]
    assert schedule == sorted(schedule)


def test_a_payload_contains_numbers_texts_and_nulls():
    cancelled = next(flight for flight in load() if flight.type == CANCELLED)
    assert cancelled.payload["dep_time"] is None
    assert cancelled.payload["day"] == 1
    assert isinstance(cancelled.payload["carrier"], str)


@pytest.mark.parametrize(
    ("text", "rate"), [("250", 250), ("0.5", 0.5), ("max", 0), ("MAX", 0), ("0", 0), ("inf", 0)]
)
def test_a_rate_is_a_number_or_max(text, rate):
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["-1", "nan", "fast", ""])
def test_any_other_rate_is_refused(text):
    with pytest.raises(ValueError, match="not a rate"):
        parse_rate(text)


@pytest.mark.parametrize("rate", [0, 100_000])
def test_every_flight_is_in_one_wave_in_order(rate):
    flights = load()
    waves = list(pace(flights, rate, threading.Event()))
    assert [flight for wave in waves for flight in wave] == flights
    assert all(1 <= len(wave) <= LARGEST_WAVE for wave in waves)


def test_the_rate_is_kept():
    began = time.monotonic()
    sent = sum(len(wave) for wave in pace(load()[:100], 200, threading.Event()))
    assert sent == 100
    assert time.monotonic() - began > 0.4


def test_stopping_ends_the_sending():
    stop = threading.Event()
    waves = pace(load(), 1000, stop)
    next(waves)
    stop.set()
    assert list(waves) == []
