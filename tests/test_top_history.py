"""What `pgque top` makes of samples, without a screen: trends, states, sums, short figures."""

import pytest

from pgque.top.history import KEEP, History
from pgque.top.message import laid_out
from pgque.top.spark import spark
from pgque.top.states import Level
from pgque.top.table import cut, shorten
from tests.fix_top import consumer_now, queue_now, sample


def after(*samples):
    history = History()
    for one in samples:
        history.add(one)
    return history


def state(history, queue="q"):
    return history.queues[queue].state.text


def test_a_queue_has_the_state_of_its_worst_consumer():
    good, late = consumer_now("q", "good"), consumer_now("q", "late", pending=1, lag=61.0)
    assert state(after(sample([queue_now("q")], [good]))) == "ok"
    assert state(after(sample([queue_now("q")], [good, late]))) == "! behind"
    stuck = late._replace(lag=601.0)
    assert state(after(sample([queue_now("q")], [good, late, stuck]))) == "!! stuck"
    silent = stuck._replace(last_seen=601.0)
    assert state(after(sample([queue_now("q")], [silent]))) == "!! silent"


def test_a_queue_says_when_it_is_not_ticked_not_read_or_paused():
    reader = [consumer_now("q", "c")]
    waits = queue_now("q", unticked=1, tick_age=11.0)
    assert state(after(sample([waits], reader))) == "!! no tick"
    assert state(after(sample([waits._replace(paused=True)], reader))) == "! paused"
    assert state(after(sample([queue_now("q")]))) == "no reader"


def test_an_old_position_is_no_lag_where_nothing_was_before_the_consumer():
    quiet = consumer_now("q", "c", lag=0.0, last_seen=3600.0)
    event = quiet._replace(pending=1, lag=3601.0, last_seen=3601.0)
    history = after(sample([queue_now("q")], [quiet]), sample([queue_now("q")], [event], at=1.0))
    row = history.consumers["q", "c"]
    assert (row.lag, row.state.level) == (1.0, Level.OK)
    history.add(sample([queue_now("q")], [event._replace(lag=3671.0)], at=71.0))
    assert history.consumers["q", "c"].state.text == "! behind"


def test_a_consumer_is_not_to_blame_for_what_it_cannot_get():
    queue = queue_now("q", paused=True, unticked=5)
    waits = consumer_now("q", "c", pending=5, lag=4000.0, last_seen=4000.0)
    history = after(sample([queue], [waits]))
    assert history.consumers["q", "c"].state.text == "ok"
    assert state(history) == "! paused"
    history = after(sample([queue], [waits._replace(pending=6)]))
    assert history.consumers["q", "c"].state.text == "!! silent"


def test_an_old_tick_is_no_fault_where_nothing_waited_for_one():
    reader = [consumer_now("q", "c")]
    fresh = queue_now("q", unticked=1, tick_age=3600.0)
    history = after(
        sample([queue_now("q", tick_age=3599.0)], reader), sample([fresh], reader, at=1)
    )
    assert state(history) == "ok"
    history.add(sample([fresh], reader, at=11.0))
    assert state(history) == "!! no tick"


def test_members_count_as_their_group():
    group = consumer_now("q", "g", rate=7.0, pending=3)
    members = [
        consumer_now("q", f"g.{n}", member=True, rate=None, holds_batch=True) for n in range(2)
    ]
    row = after(sample([queue_now("q")], [group, *members])).queues["q"]
    assert (row.out, row.consumers, row.in_flight) == (7.0, 1, 2)


def test_rates_that_are_not_known_yet_are_gaps_in_the_trend():
    history = after(
        sample([queue_now("sent", rate=None)]), sample([queue_now("sent", rate=4.0)], at=1)
    )
    assert history.queues["sent"].trend == (None, 4.0)
    assert history.totals.sent_trend == (None, 4.0)
    assert history.totals.done_trend == (None, None)


def test_a_trend_is_bounded_and_forgotten_with_its_queue():
    history = after(*(sample([queue_now("q", rate=float(n))], at=n) for n in range(KEEP + 5)))
    assert len(history.queues["q"].trend) == KEEP
    history.add(sample())
    history.add(sample([queue_now("q", rate=1.0)]))
    assert history.queues["q"].trend == (1.0,)


def test_a_sparkline_reaches_from_nothing_to_its_greatest_value():
    assert spark([None, 0.0, 4.0, 8.0], 6) == ["   ▁▄█"]
    assert spark([1.0, 0.0, 8.0], 2) == ["▁█"]
    assert spark([8.0, 16.0], 2, 2) == [" █", "██"]
    assert spark([0.0, 0.0], 2) == ["▁▁"]


def test_long_names_keep_both_their_ends():
    assert shorten("billing.invoices.created", 12) == "billin…eated"
    assert shorten("short", 12) == "short"
    assert cut("two\nlines of \x1b text", 12) == "two lines o…"


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        ('{"a":1.10,"b":[],"c":{"d":[1,"x,]"]}}', None),
        ("[1e400]", "[\n  1e400\n]"),
        ('"text"', '"text"'),
        ("{no json", "{no json"),
        ("{}", "{}"),
    ],
)
def test_json_is_laid_out_and_nothing_of_it_changed(payload, text):
    found = laid_out(payload)
    if text is None:
        assert found.splitlines()[:3] == ["{", '  "a": 1.10,', '  "b": [],']
        assert "".join(found.split()) == payload
    else:
        assert found == text
