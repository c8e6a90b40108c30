"""Samples of queues and consumers, and their rates (pgque/watching/live.py)."""

import pytest

from pgque import Ticker
from pgque.watching.live import Live
from tests.fix_engine import ack, receive, send_many, tick
from tests.running import eventually, running


@pytest.fixture
def live(autoconn):
    return Live(autoconn)


def test_a_sample_shows_the_state_of_queue_and_consumer(live, autoconn, queue, consumer):
    send_many(autoconn, queue, 5)
    tick(autoconn, queue)
    receive(autoconn, queue, consumer)
    sample = live.look()
    [q] = [q for q in sample.queues if q.queue == queue]
    [c] = [c for c in sample.consumers if c.queue == queue]
    assert (q.sent, q.unticked, q.paused, q.retries, q.dead) == (5, 0, False, 0, 0)
    assert (c.consumer, c.pending, c.holds_batch) == (consumer, 5, True)
    assert q.rate is None
    assert c.rate is None


def test_rates_are_differences_between_samples(live, autoconn, queue, consumer):
    before = live.look()
    send_many(autoconn, queue, 10)
    tick(autoconn, queue)
    ack(autoconn, receive(autoconn, queue, consumer))
    after = live.look()
    seconds = after.at - before.at
    assert [q.rate for q in after.queues if q.queue == queue] == [pytest.approx(10 / seconds)]
    assert [c.rate for c in after.consumers if c.queue == queue] == [pytest.approx(10 / seconds)]


def test_a_new_queue_has_no_rate_yet(live, autoconn):
    live.look()
    autoconn.execute("select pgque.create_queue('new')")
    assert [q.rate for q in live.look().queues if q.queue == "new"] == [None]


def test_members_of_a_group_have_no_separate_rate(live, autoconn, queue):
    autoconn.execute("select pgque.subscribe_subconsumer(%s, 'g', 'a')", [queue])
    live.look()
    send_many(autoconn, queue, 10)
    found = {c.consumer: (c.member, c.rate is None) for c in live.look().consumers}
    assert found == {"g": (False, False), "g.a": (True, True)}


def test_a_leading_ticker_is_shown(live, direct_dsn):
    assert not live.look().ticking
    with running(Ticker(direct_dsn)):
        eventually(lambda: live.look().ticking)
    eventually(lambda: not live.look().ticking)
