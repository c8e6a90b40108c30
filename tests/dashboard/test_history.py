"""The points of the plots (pgque/dashboard/history.py)."""

import pytest

from pgque.dashboard.history import History, Key

RATE = Key("q", "rate", "")
LAG = Key("q", "lag", "c")


@pytest.fixture
def history():
    return History(slots=4, seconds=10)


def test_an_empty_history_has_no_points(history):
    assert history.read("q") == ([], {})


def test_a_point_is_the_mean_rate_and_the_greatest_lag(history):
    history.record(100, {RATE: 10, LAG: 3})
    history.record(105, {RATE: 30, LAG: 1})
    history.record(109, {RATE: None, LAG: None})
    history.record(110, {RATE: 5, LAG: 0})
    assert history.read("q") == ([100, 110], {RATE: [20, 5], LAG: [3, 0]})


def test_the_oldest_points_are_dropped(history):
    for number in range(10):
        history.record(100 + 10 * number, {RATE: number})
    assert history.read("q") == ([160, 170, 180, 190], {RATE: [6, 7, 8, 9]})


def test_a_pause_is_a_gap(history):
    history.record(100, {RATE: 1})
    history.record(130, {RATE: 2})
    assert history.read("q") == ([100, 110, 120, 130], {RATE: [1, None, None, 2]})
    history.record(140, {RATE: 3})
    history.record(170, {RATE: 4})
    assert history.read("q") == ([140, 150, 160, 170], {RATE: [3, None, None, 4]})
    history.record(500, {RATE: 3})
    assert history.read("q") == ([500], {RATE: [3]})


def test_the_history_restarts_if_the_clock_is_set_back(history):
    history.record(500, {RATE: 1})
    history.record(100, {RATE: 2})
    assert history.read("q") == ([100], {RATE: [2]})


def test_only_the_lines_of_the_queue_are_returned(history):
    other = Key(None, "rate", "")
    history.record(100, {RATE: 1, other: 2})
    assert history.read("q")[1] == {RATE: [1]}
    assert history.read(None)[1] == {other: [2]}


def test_lines_of_dropped_queues_are_forgotten(history):
    history.record(0, {RATE: 1})
    for number in range(1, 61):
        history.record(10 * number, {LAG: 1})
    assert [*history.read("q")[1]] == [LAG]
