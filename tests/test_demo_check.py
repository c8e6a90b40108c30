"""The demo's final check: it accepts a correct outcome and finds every fault."""

import csv
import dataclasses
from collections import Counter
from decimal import Decimal

import pytest

from pgque.demo.check import Outcome, compare, sum_up
from pgque.demo.report import report
from pgque.demo.tables import MAX_RETRIES

ROWS = """\
year,month,day,dep_time,dep_delay,carrier,flight,origin
2013,1,1,517,2,UA,1545,EWR
2013,1,1,533,5,UA,1714,LGA
2013,1,2,542,-4,HA,51,JFK
2013,1,2,NA,NA,UA,1,EWR
"""
FLIGHTS = ["2013-01-01 UA1545", "2013-01-01 UA1714", "2013-01-02 HA51", "2013-01-02 UA1"]


@pytest.fixture
def truth():
    return sum_up(csv.DictReader(ROWS.splitlines()))


@pytest.fixture
def outcome(truth):
    """A correct outcome."""
    return Outcome(
        sent=Counter(FLIGHTS),
        delays=Counter(FLIGHTS),
        gates=Counter(FLIGHTS),
        audit=Counter(FLIGHTS[:3]),
        dead=Counter(FLIGHTS[3:]),
        delay_table={"UA": (2, Decimal("3.50")), "HA": (1, Decimal("-4.00"))},
        gate_table={("EWR", 1): 1, ("LGA", 1): 1, ("JFK", 2): 1, ("EWR", 2): 1},
        dead_retries=frozenset({MAX_RETRIES}),
    )


def lines_of(verdict) -> str:
    return "\n".join(report(verdict, {"send": 2, "send_batch": 2}, retries=2))


def test_the_sums_of_the_rows_are_right(truth):
    assert truth.flights == set(FLIGHTS)
    assert truth.cancelled == {FLIGHTS[3]}
    assert truth.delays == {"UA": (2, Decimal("3.50")), "HA": (1, Decimal("-4.00"))}
    assert truth.gates == {("EWR", 1): 1, ("LGA", 1): 1, ("JFK", 2): 1, ("EWR", 2): 1}


def test_the_sums_of_the_file_are_right():
    truth = sum_up()
    assert len(truth.flights) == 6099
    assert len(truth.cancelled) == 35
    assert sum(departures for departures, _ in truth.delays.values()) == 6064
    assert sum(truth.gates.values()) == 6099


def test_means_are_rounded_the_way_postgresql_does(autoconn):
    rows = [
        {**dict.fromkeys(("year", "month", "day", "flight"), "1"), "carrier": "XX"}
        | {"origin": "EWR", "dep_time": "1", "dep_delay": delay}
        for delay in ("-1", *["0"] * 199)
    ]
    (_, mean) = sum_up(rows).delays["XX"]
    row = autoconn.execute("select round(-1::numeric / 200, 2)").fetchone()
    assert row == (mean,)


def test_a_correct_outcome_passes(truth, outcome):
    verdict = compare(truth, outcome)
    assert verdict.right
    assert lines_of(verdict).endswith("0 lost, 0 counted twice: the database and the file agree")


@pytest.mark.parametrize("consumer", ["sent", "delays", "gates", "audit", "dead"])
def test_a_lost_flight_is_found(truth, outcome, consumer):
    flight = getattr(outcome, consumer).popitem()[0]
    verdict = compare(truth, outcome)
    assert not verdict.right
    assert [count.lost for count in verdict.counts if not count.right] == [[flight]]
    assert f"lost: {flight}" in lines_of(verdict)
    assert "1 lost, 0 counted twice: the database and the file DIFFER" in lines_of(verdict)


@pytest.mark.parametrize("consumer", ["sent", "delays", "gates", "audit", "dead"])
def test_a_flight_counted_twice_is_found(truth, outcome, consumer):
    flight = next(iter(getattr(outcome, consumer)))
    getattr(outcome, consumer)[flight] += 1
    verdict = compare(truth, outcome)
    assert not verdict.right
    assert [count.twice for count in verdict.counts if not count.right] == [[flight]]
    assert f"counted twice: {flight}" in lines_of(verdict)
    assert "0 lost, 1 counted twice: the database and the file DIFFER" in lines_of(verdict)


def test_a_lost_and_a_doubled_flight_do_not_cancel_out(truth, outcome):
    outcome.gates[FLIGHTS[0]] -= 1
    del outcome.gates[FLIGHTS[0]]
    outcome.gates[FLIGHTS[1]] += 1
    (wrong,) = [count for count in compare(truth, outcome).counts if not count.right]
    assert wrong.flights == 4
    assert (wrong.lost, wrong.twice) == ([FLIGHTS[0]], [FLIGHTS[1]])


def test_an_unknown_flight_is_found(truth, outcome):
    outcome.audit[FLIGHTS[3]] += 1  # a cancelled flight, which audit must not accept
    verdict = compare(truth, outcome)
    assert not verdict.right
    assert f"audit: not expected: {FLIGHTS[3]}" in lines_of(verdict)


@pytest.mark.parametrize(
    "wrong",
    [
        {"delay_table": {"UA": (2, Decimal("3.51")), "HA": (1, Decimal("-4.00"))}},
        {"delay_table": {"UA": (2, Decimal("3.50"))}},
        {"gate_table": {("EWR", 1): 2, ("JFK", 2): 1, ("EWR", 2): 1}},
        {"dead_retries": frozenset({MAX_RETRIES, 0})},
    ],
)
def test_a_wrong_table_is_found(truth, outcome, wrong):
    verdict = compare(truth, dataclasses.replace(outcome, **wrong))
    assert verdict.differences
    assert not verdict.right
    assert "DIFFER" in lines_of(verdict)


def test_many_faults_are_counted_rather_than_listed():
    truth = sum_up()
    nothing = Outcome(*(Counter() for _ in range(5)), {}, {}, frozenset())
    text = lines_of(compare(truth, nothing))
    assert "... and 6,094 more" in text
    assert len(text.splitlines()) < 50
