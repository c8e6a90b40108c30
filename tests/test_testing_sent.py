"""The test kit: the list of sent events, and messages of failed assertions about it."""

from dataclasses import dataclass
from unittest.mock import ANY

import pytest

from pgque import Consumer, PgqueQueueNotFound
from pgque.testing import Kit


@pytest.fixture
def client(kit):
    return kit.client


def test_sent_lists_the_log_including_handled_events(kit, client):
    client.send("orders", {"n": 1}, type="placed", key="k", headers={"h": 1})
    kit.tick()
    client.ack(client.receive("orders", "shipping")[0].batch_id)
    client.send("orders", "text")
    first, second = kit.sent("orders")
    assert (first.type, first.json(), first.key, first.headers) == (
        "placed",
        {"n": 1},
        "k",
        {"h": 1},
    )
    assert (second.payload, second.batch_id, second.created_at.tzinfo is None) == ("text", 0, False)


def test_retries_do_not_count_as_sent_again(kit, client):
    client.send("orders", 1)
    consumer = Consumer(kit.dsn, queue="orders", name="shipping", retry_after=0)
    consumer.on("default")(lambda message: 1 / message.retry_count)
    kit.drain(consumer, raise_errors=False)
    assert len(kit.sent("orders")) == 1


def test_uncommitted_events_are_visible_only_on_their_own_connection(kit, conn):
    with Kit(conn) as own:
        own.client.send("orders", 1)
        own.assert_sent("orders", 1)
        kit.assert_not_sent("orders")


@dataclass
class Order:
    number: int


@pytest.mark.parametrize(
    ("payload", "fits"),
    [
        ({"number": 1}, True),
        ({"number": 2}, False),
        ({"number": ANY}, True),
        ({"number": 1, "more": ANY}, False),
        (Order(1), True),
        (Order(2), False),
        ('{"number":1}', True),
        ('{"number": 1}', False),  # a str is compared as text
        (None, False),
        (object(), False),
        (ANY, True),
    ],
)
def test_a_str_is_compared_as_text_and_other_payloads_as_json(kit, client, payload, fits):
    client.send("orders", {"number": 1})
    if fits:
        [found] = kit.assert_sent("orders", payload)
        assert found.json() == {"number": 1}
    else:
        kit.assert_not_sent("orders", payload)


def test_a_payload_that_is_not_json_does_not_match_json(kit, client):
    client.send("orders", "plain text")
    kit.assert_not_sent("orders", {"number": 1})
    kit.assert_sent("orders", "plain text")


@pytest.mark.parametrize(
    "pattern", [{"type": "paid"}, {"key": "other"}, {"headers": {"h": 2}}, {"key": None}]
)
def test_all_given_fields_must_match(kit, client, pattern):
    client.send("orders", 1, type="placed", key="k", headers={"h": 1})
    kit.assert_sent("orders", 1, type="placed", key="k", headers={"h": ANY})
    with pytest.raises(AssertionError, match="no event in queue 'orders' is like this"):
        kit.assert_sent("orders", **pattern)


def test_extra2_with_other_content_is_not_a_header(kit, autoconn):
    insert = "select pgque.insert_event('orders', 't', 'd', null, 'not json', null, null)"
    autoconn.execute(insert)
    kit.assert_sent("orders")
    kit.assert_not_sent("orders", headers={"h": 1})


def test_a_failure_lists_sent_events_and_the_difference_to_the_nearest(kit, client):
    client.send("orders", {"n": 1, "city": "Oslo"}, type="placed")
    client.send("orders", {"n": 7}, type="placed")
    client.send("orders", {"n": 1, "city": "Porto"}, type="paid")
    with pytest.raises(AssertionError) as caught:
        kit.assert_sent("orders", {"n": 1, "city": "Porto"}, type="placed")
    assert str(caught.value) == (
        "no event in queue 'orders' is like this: "
        "type='placed', payload={'n': 1, 'city': 'Porto'}\n"
        "what was sent:\n"
        '    1 placed {"n":1,"city":"Oslo"}\n'
        '    2 placed {"n":7}\n'
        '    3 paid {"n":1,"city":"Porto"}\n'
        "the payload of 1 (-) and the one that is wanted (+):\n"
        "      {\n"
        '    -   "city": "Oslo",\n'
        '    +   "city": "Porto",\n'
        '        "n": 1\n'
        "      }"
    )


def test_a_failure_about_the_count_marks_the_matching_events(kit, client):
    client.send_batch("orders", "placed", [1, 2, 1])
    assert len(kit.assert_sent("orders", 1, times=2)) == 2
    with pytest.raises(AssertionError) as caught:
        kit.assert_sent("orders", 1, times=1)
    assert str(caught.value).splitlines() == [
        "1 event in queue 'orders' should be like this, not 2: payload=1",
        "what was sent:",
        "  * 1 placed 1",
        "    2 placed 2",
        "  * 3 placed 1",
    ]


def test_a_failure_with_many_events_shows_the_last_ones(kit, client):
    client.send_batch("orders", "t", range(30))
    with pytest.raises(AssertionError) as caught:
        kit.assert_not_sent("orders")
    lines = str(caught.value).splitlines()
    assert lines[2] == "    (10 earlier ones)"
    assert lines[-1] == "  * 30 t 29"


def test_a_failure_mentions_uncommitted_transactions_of_other_sessions(kit, conn):
    Kit(conn).client.send("orders", 1)
    with pytest.raises(AssertionError, match="nothing was sent to it\nanother session may have"):
        kit.assert_sent("orders")
    conn.commit()
    kit.assert_sent("orders")


def test_the_error_names_a_missing_queue(kit):
    with pytest.raises(PgqueQueueNotFound, match="nothing"):
        kit.assert_sent("nothing")
