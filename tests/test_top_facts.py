"""The facts that `pgque top` shows about an event and a queue, from a real database."""

import pytest

from pgque.top import facts
from pgque.top.message import LONGEST, described
from pgque.watching.browse import LONG, Browser
from tests.fix_engine import ack, configure, let_die, nack, receive, send, send_many, tick, value


@pytest.fixture
def browser(autoconn):
    return Browser(autoconn)


def whole_of(browser, queue, number):
    [event] = [event for event in browser.messages(queue).rows if event.id == number]
    return facts.of_message(browser, queue, event.place)


def test_an_event_lists_the_state_of_each_consumer(browser, autoconn, queue, consumer):
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
        assert facts["other"] == "pending"
        return facts[consumer]

    assert standing(sent[0]).startswith("waiting for retry 1, due ")
    assert standing(sent[1]).startswith("dead letter ")
    assert standing(sent[2]) == "passed"  # the batch ended inside its window
    assert standing(sent[3]) == "pending"
    ack(autoconn, receive(autoconn, queue, consumer))
    assert standing(sent[3]) == "passed"


def test_a_retry_names_its_consumer(browser, autoconn, queue, consumer):
    number = send(autoconn, queue, "x")
    tick(autoconn, queue)
    nack(autoconn, receive(autoconn, queue, consumer)[0], "1 hour")
    [listed] = browser.retries(queue).rows
    found = facts.of_retry(browser, listed.place)
    known = dict(found.facts)
    assert (found.payload, known["waiting for"], known["event"]) == ("x", consumer, number)
    assert known["retries"] == 1


def test_a_dead_letter_names_its_consumer_and_the_reason(browser, autoconn, queue, consumer):
    number = send(autoconn, queue, "x")
    let_die(autoconn, queue, consumer)
    [listed] = browser.dead_letters(queue).rows
    found = facts.of_letter(browser, listed.letter)
    known = dict(found.facts)
    assert (found.payload, known["consumer"], known["event"]) == ("x", consumer, number)
    assert known["reason"] == "no such address"


def test_a_long_payload_is_cut_and_its_length_shown(browser, autoconn, queue):
    sent = send(autoconn, queue, "x" * (LONG + 1))
    whole = whole_of(browser, queue, sent)
    assert (len(whole.payload), whole.length) == (LONG, LONG + 1)
    assert described(whole).plain.endswith(f"… and {LONG + 1 - LONGEST:,} more characters\n")


def test_a_missing_row_is_none(browser, queue):
    assert facts.of_message(browser, queue, (1, 1)) is None
    assert facts.of_retry(browser, (1, 1)) is None
    assert facts.of_letter(browser, 1) is None
    assert facts.of_settings(browser, "no such queue") == []


def test_settings_have_the_names_that_the_command_accepts(browser, autoconn, queue):
    for name, setting in facts.of_settings(browser, queue):
        value(autoconn, "select pgque.set_queue_config(%s, %s, %s)", queue, name, str(setting))
