"""Browsing messages, retries and dead letters (pgque/watching/browse.py)."""

from datetime import timedelta

import pytest
from psycopg import sql

from pgque.errors import PgqueQueueNotFound, PgqueReadOnly
from pgque.watching import browse
from pgque.watching.browse import Browser, Wanted
from tests.fix_engine import (
    ack,
    let_die,
    nack,
    receive,
    receive_coop,
    rotate,
    send,
    send_event,
    send_many,
    subscribe,
    tick,
    value,
)


@pytest.fixture
def browser(autoconn):
    return Browser(autoconn)


def listed(page):
    return [row.payload for row in page.rows]


def test_messages_are_paged_newest_first(browser, autoconn, queue):
    send_many(autoconn, queue, 3)
    rotate(autoconn, queue)
    for number in (4, 5):
        send(autoconn, queue, number)
    first = browser.messages(queue, limit=2)
    second = browser.messages(queue, limit=2, after=first.more)
    last = browser.messages(queue, limit=2, after=second.more)
    assert [listed(page) for page in (first, second, last)] == [["5", "4"], ["3", "2"], ["1"]]
    assert last.more is None


def test_browsing_consumes_nothing(browser, autoconn, queue, consumer):
    send_many(autoconn, queue, 2)
    tick(autoconn, queue)
    assert len(browser.messages(queue).rows) == 2
    assert len(receive(autoconn, queue, consumer)) == 2


def test_uncommitted_messages_and_retries_are_not_shown(
    browser, autoconn, connect, queue, consumer
):
    send(connect(), queue, "open")
    send(autoconn, queue, "x")
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    nack(autoconn, batch[0], "0")
    ack(autoconn, batch)
    autoconn.execute("select pgque.maint_retry_events()")
    assert listed(browser.messages(queue)) == ["x"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Wanted(type="placed"), ["100% of Ada", "Grace"]),
        (Wanted(key="k"), ["Grace"]),
        (Wanted(text="ADA"), ["100% of Ada"]),
        (Wanted(text="0% o"), ["100% of Ada"]),
        (Wanted(text="_"), []),
        (Wanted(type="placed", text="grace", key="k"), ["Grace"]),
        (Wanted(type="place"), []),
        (Wanted(text="' or true --"), []),
    ],
)
def test_messages_are_searched_by_type_key_and_text(browser, autoconn, queue, wanted, found):
    send_event(autoconn, queue, "paid", None)
    send_event(autoconn, queue, "placed", "Grace", "k")
    send_event(autoconn, queue, "placed", "100% of Ada")
    assert listed(browser.messages(queue, wanted)) == found


def test_a_consumer_filter_does_not_apply_to_messages(browser, autoconn, queue):
    send(autoconn, queue, "a")
    assert listed(browser.messages(queue, Wanted(consumer="c"))) == ["a"]


def test_a_message_is_found_by_its_id(browser, autoconn, queue):
    number = send(autoconn, queue, "a")
    send(autoconn, queue, "b")
    assert listed(browser.messages(queue, Wanted(text=f" {number} "))) == ["a"]


def test_a_search_reads_a_limited_number_and_says_where_it_stopped(
    browser, autoconn, queue, monkeypatch
):
    monkeypatch.setattr(browse, "LOOKED_AT", 10)
    send_many(autoconn, queue, 25)
    page = browser.messages(queue, Wanted(text="no such thing"))
    assert (page.rows, page.looked_at) == ([], 10)
    page = browser.messages(queue, Wanted(text="3"), after=page.more)
    assert (listed(page), page.looked_at) == (["13"], 10)
    page = browser.messages(queue, Wanted(text="3"), after=page.more)
    assert (listed(page), page.more, page.looked_at) == (["3"], None, None)


def test_p7_a_page_costs_the_same_for_any_size_of_log(browser, autoconn, queue, monkeypatch):
    send_many(autoconn, queue, 20_000)
    plans = []

    def explain(query, values=()):
        if "ev_data" in query:
            explained = f"explain (analyze, buffers, format json) {query}".encode()
            plans.append(autoconn.execute(explained, values).fetchone()[0][0]["Plan"])
        return Browser._times(browser, query, values)

    monkeypatch.setattr(browser, "_times", explain)
    assert len(browser.messages(queue).rows) == browse.PAGE
    [plan] = plans
    assert plan["Actual Rows"] == browse.PAGE
    assert plan["Shared Hit Blocks"] + plan["Shared Read Blocks"] < 60


def test_messages_until_a_time_are_shown(browser, autoconn, queue):
    send(autoconn, queue, "a")
    tick(autoconn, queue)
    between = value(autoconn, "select clock_timestamp()")
    send(autoconn, queue, "b")
    tick(autoconn, queue)
    send(autoconn, queue, "c")
    found = listed(browser.messages(queue, until=between))
    assert found == ["b", "a"] or found == ["a"]  # up to the tick after that time
    assert "c" in listed(browser.messages(queue, until=between + timedelta(hours=1)))


def test_long_payloads_are_cut_in_lists_and_shown_in_full_alone(browser, autoconn, queue):
    send(autoconn, queue, "x" * 5000)
    [row] = browser.messages(queue).rows
    assert (len(row.payload), row.length) == (browse.SHORT, 5000)
    whole = browser.message(queue, row.place)
    assert whole.payload == "x" * 5000
    assert browser.message(queue, (1, 1)) is None


def test_large_ids_stay_exact(browser, autoconn, queue):
    sequence = value(
        autoconn, "select queue_event_seq from pgque.queue where queue_name = %s", queue
    )
    autoconn.execute("select setval(%s, 9007199254740993)", [sequence])
    send(autoconn, queue)
    assert browser.messages(queue).rows[0].id == 9007199254740994


def test_dead_letters_are_listed_with_consumer_and_reason(browser, autoconn, queue, consumer):
    subscribe(autoconn, queue, "other")
    for payload in ("a", "b"):
        send_event(autoconn, queue, "placed", payload)
    let_die(autoconn, queue, consumer)
    let_die(autoconn, queue, "other", "too late")
    page = browser.dead_letters(queue, limit=3)
    assert [(row.consumer, row.reason) for row in page.rows] == [
        ("other", "too late"),
        ("other", "too late"),
        (consumer, "no such address"),
    ]
    assert listed(browser.dead_letters(queue, after=page.more)) == ["a"]
    assert listed(browser.dead_letters(queue, Wanted(consumer="other", text="B"))) == ["b"]
    assert len(browser.dead_letters(queue, Wanted(text="LATE")).rows) == 2
    letter = browser.dead_letter(page.rows[0].letter)
    assert (letter.payload, letter.type, letter.retries) == ("b", "placed", 0)


def test_a_missing_row_is_none(browser, queue):
    assert browser.message(queue, (1, 1)) is None
    assert browser.retry((1, 1)) is None
    assert browser.dead_letter(77) is None


def test_retries_are_listed_with_their_consumer(browser, autoconn, queue, consumer):
    send_many(autoconn, queue, 2)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    nack(autoconn, batch[0], "1 hour")
    nack(autoconn, batch[1], "1 minute")
    ack(autoconn, batch)
    page = browser.retries(queue)
    assert [(row.consumer, row.payload, row.retries) for row in page.rows] == [
        (consumer, "2", 1),
        (consumer, "1", 1),
    ]
    assert listed(browser.retries(queue, Wanted(text="1"))) == ["1"]
    assert browser.retries(queue, Wanted(consumer="nobody")).rows == []
    assert browser.retry(page.rows[0].place).payload == "2"


def test_an_event_nacked_by_two_consumers_is_two_retries(browser, autoconn, queue, consumer):
    subscribe(autoconn, queue, "other")
    send(autoconn, queue)
    tick(autoconn, queue)
    for name in (consumer, "other"):
        nack(autoconn, receive(autoconn, queue, name)[0], "1 hour")
    first, second = browser.retries(queue).rows
    assert first.id == second.id
    assert {browser.retry(one.place).consumer for one in (first, second)} == {consumer, "other"}


def test_a_search_of_retries_says_how_many_it_read(browser, autoconn, queue, consumer, monkeypatch):
    monkeypatch.setattr(browse, "LOOKED_AT", 2)
    send_many(autoconn, queue, 3)
    tick(autoconn, queue)
    for number, message in enumerate(receive(autoconn, queue, consumer), 1):
        nack(autoconn, message, f"{number} hours")
    page = browser.retries(queue, Wanted(text="3"))
    assert (page.rows, page.more, page.looked_at) == ([], None, 2)
    page = browser.retries(queue, Wanted(text="2"), limit=1)
    assert (listed(page), page.looked_at) == (["2"], None)


def test_retries_of_a_group_are_listed_under_the_group(browser, autoconn, queue):
    send(autoconn, queue)
    tick(autoconn, queue)
    receive_coop(autoconn, queue, "crew", "one")
    send(autoconn, queue)
    tick(autoconn, queue)
    [message] = receive_coop(autoconn, queue, "crew", "one")
    nack(autoconn, message, "1 hour")
    assert [row.consumer for row in browser.retries(queue).rows] == ["crew"]


def test_the_error_names_an_unknown_queue(browser):
    for look in (browser.messages, browser.dead_letters, browser.retries):
        with pytest.raises(PgqueQueueNotFound, match="nobody"):
            look("nobody")


def test_a_browser_cannot_write(browser):
    with pytest.raises(PgqueReadOnly):
        browser.read(sql.SQL("create table pgque.mine ()"), ())
    assert browser.read(sql.SQL("select 1"), ()) == [(1,)]
