"""Times and intervals beyond Python's range: settings refuse them, and every reader copes."""

import json
from datetime import datetime, timedelta, timezone

import pytest

import pgque
from pgque.doctor import examine
from pgque.metrics import Reader
from pgque.top import facts
from pgque.watching.browse import Browser
from pgque.watching.readable import readable
from tests.fix_cli import cli
from tests.fix_engine import ack, let_die, nack, receive, refused, send, tick

SETTINGS = ("rotation_period", "ticker_max_lag", "ticker_idle_period")
LATEST = datetime.max.replace(tzinfo=timezone.utc)


@pytest.fixture
def client(dsn):
    with pgque.connect(dsn, autocommit=True) as client:
        yield client


@pytest.fixture
def endless(autoconn, queue, consumer):
    """A queue with infinite settings, which older versions allowed."""
    endless = "infinity" if autoconn.info.server_version >= 170000 else "170000000 years"
    for name in SETTINGS:
        autoconn.execute(f"update pgque.queue set queue_{name} = '{endless}'".encode())
    return queue


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("value", ["infinity", "-infinity", "2000 years", "170000000 years"])
def test_p10_an_infinite_setting_is_refused(autoconn, queue, setting, value):
    with refused("22023", setting):
        autoconn.execute("select pgque.set_queue_config(%s, %s, %s)", [queue, setting, value])


def test_infinite_settings_can_be_read(endless, client, dsn, autoconn):
    [info] = client.queue_info()
    assert info.queue_rotation_period == timedelta.max
    assert readable(info.queue_rotation_period) == "forever"
    assert client.queue_wait()[0].state == "ok"
    [listed] = json.loads(cli("queue", "list", "--json", PGQUE_DSN=dsn).stdout)
    assert listed["queue"] == endless
    for call in (["queue", "list"], ["queue", "show", endless], ["consumer", "list"]):
        done = cli(*call, PGQUE_DSN=dsn)
        assert done.returncode == 0, done.stderr
    settings = dict(facts.of_settings(Browser(autoconn), endless))
    assert settings["rotation_period"] == timedelta.max
    assert Reader(autoconn).queues()
    assert not [one for one in examine(dsn) if "could not be made" in (one.mend or "")]


def test_ticks_and_rotations_work_with_infinite_settings(endless, client, autoconn):
    send(autoconn, endless)
    autoconn.execute("select pgque.ticker()")
    autoconn.execute("select pgque.maint()")
    assert client.consumer_wait()[0].pending_events == 1


def test_retries_and_dead_letters_beyond_all_times_are_listed(
    client, queue, consumer, dsn, autoconn
):
    send(autoconn, queue)
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    nack(autoconn, batch[0], "200000 years")
    ack(autoconn, batch)
    [waits] = Browser(autoconn).retries(queue).rows
    assert waits.due == LATEST
    assert readable(waits.due) == "infinity"
    assert Browser(autoconn).retry(waits.place).due == LATEST
    send(autoconn, queue)
    let_die(autoconn, queue, consumer, "cannot")
    for moment, loaded in (("infinity", LATEST), ("20000-01-01", LATEST)):
        autoconn.execute(f"update pgque.dead_letter set dl_time = '{moment}'".encode())
        [letter] = client.dead_letters(queue)
        assert letter.dl_time == client.dead_letter(letter.dl_id).dl_time == loaded
        for call in (["dead", "list", queue], ["dead", "show", str(letter.dl_id)]):
            for form in ([], ["--json"]):
                done = cli(*call, *form, PGQUE_DSN=dsn)
                assert done.returncode == 0, done.stderr
