"""The lists of `pgque top` (pgque/top/browser.py), on a real database."""

import pytest

from pgque.errors import PgqueQueueNotFound
from pgque.top.browser import AT_MOST, BEGINNING, Browser
from tests.fix_engine import ack, configure, drain, nack, receive, send, send_many, tick, value


@pytest.fixture
def browser(autoconn):
    return Browser(autoconn)


def whole_of(browser, queue, number):
    [event] = [event for event in browser.messages(queue) if event.id == number]
    return browser.message(queue, event.txid, event.id)


def test_the_newest_events_come_first_and_not_all_of_them(browser, autoconn, queue):
    sent = send_many(autoconn, queue, AT_MOST + 5)
    sent.append(send(autoconn, queue, "x" * 10_000))
    found = browser.messages(queue)
    assert [event.id for event in found] == sent[: -AT_MOST - 1 : -1]
    assert len(found[0].payload) == BEGINNING
    assert whole_of(browser, queue, sent[-1]).payload == "x" * 10_000


def test_looking_consumes_nothing(browser, autoconn, queue, consumer):
    sent = send_many(autoconn, queue, 3)
    whole_of(browser, queue, sent[0])
    assert [message.msg_id for message in drain(autoconn, queue, consumer)] == sent


def test_an_event_says_where_each_consumer_stands(browser, autoconn, queue, consumer):
    value(autoconn, "select pgque.subscribe(%s, 'other')", queue)
    sent = send_many(autoconn, queue, 4)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer, 3)
    nack(autoconn, batch[0], "1 hour")
    configure(autoconn, queue, max_retries=0)
    nack(autoconn, batch[1])
    ack(autoconn, batch)

    def standing(number):
        facts = dict(whole_of(browser, queue, number).facts)
        assert facts["other"] == "has it before it"
        return facts[consumer]

    assert standing(sent[0]).startswith("waits for retry 1, due ")
    assert standing(sent[1]).startswith("dead letter ")
    assert standing(sent[2]) == "has passed it"  # the batch ended inside its window
    assert standing(sent[3]) == "has it before it"
    ack(autoconn, receive(autoconn, queue, consumer))
    assert standing(sent[3]) == "has passed it"


def test_retries_come_as_they_are_due_with_whose_they_are(browser, autoconn, queue, consumer):
    value(autoconn, "select pgque.subscribe(%s, 'other')", queue)
    first, second = send_many(autoconn, queue, 2)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    nack(autoconn, batch[0], "2 hours")
    nack(autoconn, batch[1], "1 hour")
    found = browser.retries(queue)
    assert [(retry.id, retry.consumer) for retry in found] == [
        (second, consumer),
        (first, consumer),
    ]
    assert browser.retries(queue, "other") == []
    whole = browser.retry(found[1])
    assert (whole.payload, dict(whole.facts)["waits for"]) == ("1", consumer)


def test_dead_letters_of_a_queue_and_of_a_consumer(browser, autoconn, queue, consumer):
    configure(autoconn, queue, max_retries=0)
    sent = send_many(autoconn, queue, 2)
    tick(autoconn, queue)
    for message in receive(autoconn, queue, consumer):
        nack(autoconn, message, reason=f"no {message.payload}")
    found = browser.letters(queue)
    assert [letter.reason for letter in found] == ["no 2", "no 1"]
    assert browser.letters(queue, consumer) == found
    assert browser.letters(queue, "other") == []
    whole = browser.letter(found[1].id)
    assert (whole.payload, dict(whole.facts)["event"]) == ("1", sent[0])


def test_what_is_gone_is_none(browser, autoconn, queue, consumer):
    event = send(autoconn, queue)
    [listed] = browser.messages(queue)
    assert browser.message(queue, listed.txid, event + 1) is None
    assert browser.letter(1) is None
    assert browser.settings("no such queue") == []
    with pytest.raises(PgqueQueueNotFound):
        browser.messages("no such queue")


def test_settings_have_the_names_that_the_command_takes(browser, autoconn, queue):
    for name, setting in browser.settings(queue):
        value(autoconn, "select pgque.set_queue_config(%s, %s, %s)", queue, name, str(setting))
