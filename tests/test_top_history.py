"""How `pgque top` evaluates samples, without a screen: trends, states, sums, short figures."""

import pytest

from pgque.top.history import KEEP, History
from pgque.top.message import laid_out
from pgque.top.spark import spark
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
    good, late = consumer_now("q", "good"), consumer_now("q", "late", state="behind")
    assert state(after(sample([queue_now("q")], [good]))) == "ok"
    assert state(after(sample([queue_now("q")], [good, late]))) == "! behind"
    found = [good, late]
    for word in ("stuck", "silent", "crash loop"):
        found.append(late._replace(consumer=word, state=word))
        assert state(after(sample([queue_now("q")], found))) == f"!! {word}"
        assert state(after(sample([queue_now("q")], reversed(found)))) == f"!! {word}"


def test_the_state_of_a_queue_shows_a_missing_ticker_missing_readers_or_a_pause():
    reader = [consumer_now("q", "c")]
    assert state(after(sample([queue_now("q", state="no tick")], reader))) == "!! no tick"
    assert state(after(sample([queue_now("q", state="paused")], reader))) == "! paused"
    assert state(after(sample([queue_now("q")]))) == "no reader"


def test_members_are_counted_as_their_group():
    group = consumer_now("q", "g", rate=7.0, pending=3)
    members = [
        consumer_now("q", f"g.{n}", member=True, rate=None, holds_batch=True) for n in range(2)
    ]
    row = after(sample([queue_now("q")], [group, *members])).queues["q"]
    assert (row.out, row.consumers, row.in_flight) == (7.0, 1, 2)


def test_unknown_rates_are_gaps_in_the_trend():
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


def test_a_sparkline_ranges_from_zero_to_its_maximum():
    assert spark([None, 0.0, 4.0, 8.0], 6) == ["   ▁▄█"]
    assert spark([1.0, 0.0, 8.0], 2) == ["▁█"]
    assert spark([8.0, 16.0], 2, 2) == [" █", "██"]
    assert spark([0.0, 0.0], 2) == ["▁▁"]


def test_long_names_keep_both_ends():
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
def test_json_is_pretty_printed_without_changes(payload, text):
    found = laid_out(payload)
    if text is None:
        assert found.splitlines()[:3] == ["{", '  "a": 1.10,', '  "b": [],']
        assert "".join(found.split()) == payload
    else:
        assert found == text
