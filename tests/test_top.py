"""`pgque top` on a real database, operated by its keys."""

import asyncio

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgque.top.message import MessageScreen
from pgque.top.overview import OverviewScreen
from pgque.top.queue import QueueScreen
from pgque.top.source import Source
from tests.fix_engine import ack, drain, nack, receive, send, send_many, tick, value
from tests.fix_top import (
    FakeSource,
    consumer_now,
    looked,
    play,
    press,
    queue_now,
    sample,
    seen,
    send_key,
    settled,
    shown,
    text_of,
    until,
)

OFTEN = 0.05


@pytest.fixture
def source(dsn):
    source = Source(dsn)
    yield source
    source.close()


def let_die(conn, queue, consumer, *payloads):
    """Make dead letters with the given payloads."""
    value(conn, "select pgque.set_queue_config(%s, 'max_retries', '0')", queue)
    for payload in payloads:
        send(conn, queue, payload)
    tick(conn, queue)
    batch = receive(conn, queue, consumer)
    for message in batch:
        nack(conn, message, reason=f"cannot {message.payload}")
    ack(conn, batch)


def dead(conn):
    return value(conn, "select count(*) from pgque.dead_letter")


def test_figures_follow_the_queue(source, autoconn, queue, consumer):
    async def steps():
        async with shown(source, interval=OFTEN) as pilot:
            send_many(autoconn, queue, 41)
            tick(autoconn, queue)
            row = lambda: pilot.app.history.queues[queue]  # noqa: E731
            await until(pilot, lambda: row().pending == 41, "41 pending")
            line = lambda: next(x for x in text_of(pilot).splitlines() if queue in x)  # noqa: E731
            await until(pilot, lambda: " 41 " in line(), "41 on the screen")
            drain(autoconn, queue, consumer)
            await until(pilot, lambda: row().pending == 0, "nothing pending")
            assert max(rate for rate in row().trend if rate is not None) > 0

    play(steps())


def test_keys_lead_from_all_queues_to_a_message_and_back(source, autoconn, queue, consumer):
    send(autoconn, queue, '{"order": 77}')

    async def steps():
        async with shown(source) as pilot:
            await press(pilot, "enter")
            await seen(pilot, consumer)
            await press(pilot, "2")
            await seen(pilot, '{"order": 77}')
            await press(pilot, "enter")
            await until(pilot, lambda: isinstance(pilot.app.screen, MessageScreen), "the screen")
            await seen(pilot, '\n   "order": 77\n')
            await seen(pilot, f"{consumer}  pending")
            await press(pilot, "escape")
            await until(pilot, lambda: isinstance(pilot.app.screen, QueueScreen), "the screen")
            await press(pilot, "1", "enter")
            await seen(pilot, f"{consumer} of {queue}")
            await press(pilot, "escape", "escape")
            await until(pilot, lambda: isinstance(pilot.app.screen, OverviewScreen), "the screen")
            await press(pilot, "escape")
            await until(pilot, lambda: isinstance(pilot.app.screen, OverviewScreen), "the screen")

    play(steps())
    assert [m.payload for m in drain(autoconn, queue, consumer)] == ['{"order": 77}']


def test_a_dead_letter_is_replayed_after_confirmation(source, autoconn, queue, consumer):
    let_die(autoconn, queue, consumer, "first", "second")

    async def steps():
        async with shown(source, queue=queue) as pilot:
            await press(pilot, "4")
            await seen(pilot, "cannot second")
            await press(pilot, "r", "n")
            assert dead(autoconn) == 2
            await press(pilot, "r", "enter")  # no is the default
            await settled(pilot)
            assert dead(autoconn) == 2
            await press(pilot, "r", "y")
            await seen(pilot, "was sent again as event")
            left = pilot.app.screen.page.listing
            await until(
                pilot,
                lambda: [x.reason for x in left.shown] == ["cannot first"],
                "the remaining one",
            )

    play(steps())
    assert [m.payload for m in drain(autoconn, queue, consumer)] == ["second"]


def test_a_dead_letter_is_replayed_from_its_own_screen(source, autoconn, queue, consumer):
    let_die(autoconn, queue, consumer, "only")

    async def steps():
        async with shown(source, queue=queue) as pilot:
            await press(pilot, "4")
            await seen(pilot, "cannot only")
            await press(pilot, "enter")
            await until(pilot, lambda: isinstance(pilot.app.screen, MessageScreen), "the screen")
            await press(pilot, "r")
            await press(pilot, "y")
            await until(pilot, lambda: "was sent again" in text_of(pilot), "word of it")
            await until(pilot, lambda: "No dead letters" in text_of(pilot), "an empty list")

    play(steps())
    assert dead(autoconn) == 0


def test_all_dead_letters_are_replayed_or_deleted(source, autoconn, queue, consumer):
    let_die(autoconn, queue, consumer, "first", "second")

    async def steps():
        async with shown(source, queue=queue) as pilot:
            await press(pilot, "4")
            await press(pilot, "R", "y")
            await until(pilot, lambda: "2 sent again, 0 failed" in text_of(pilot), "both replays")
            let_die(autoconn, queue, consumer, "third")
            assert dead(autoconn) == 3
            await press(pilot, "x", "enter", "y")
            await until(pilot, lambda: "0 deleted" in text_of(pilot), "the empty purge")
            await press(pilot, "x", "backspace", "backspace", "0", "enter")
            await seen(pilot, "Permanently delete")
            await press(pilot, "y")
            await until(pilot, lambda: "3 deleted" in text_of(pilot), "the purge")

    play(steps())
    assert dead(autoconn) == 0


@pytest.fixture
def looker(direct_dsn, autoconn):
    """A connection string of a role that has only pgque_reader."""
    role = f"looker_{conninfo_to_dict(direct_dsn)['dbname']}"
    autoconn.execute(sql.SQL("create role {} login in role pgque_reader").format(_name(role)))
    yield make_conninfo(direct_dsn, user=role)
    autoconn.execute(sql.SQL("drop role {}").format(_name(role)))


def _name(name):
    return sql.Identifier(name)


def test_a_read_only_role_sees_everything_and_is_told_which_right_it_lacks(
    looker, autoconn, queue, consumer
):
    let_die(autoconn, queue, consumer, "first")

    async def steps():
        async with shown(Source(looker), queue=queue) as pilot:
            for page in "235":
                await press(pilot, page)
                await until(pilot, lambda: pilot.app.screen.page.loaded, "the list")
                assert "!!" not in text_of(pilot).partition("no leader")[2]
            await press(pilot, "2", "enter")
            await seen(pilot, f"{consumer}")
            await press(pilot, "escape", "4")
            await seen(pilot, "cannot first")
            needs = {"r": "pgque_writer", "R": "pgque_writer"}
            for key, role in needs.items():
                await press(pilot, key, "y")
                text = f"!! This role may not replay dead letters: it needs {role}."
                await until(pilot, lambda text=text: text in text_of(pilot), text)
            await press(pilot, "x", "enter", "y")
            text = "!! This role may not purge dead letters: it needs pgque_admin."
            await until(pilot, lambda: text in text_of(pilot), text)

    play(steps())
    assert dead(autoconn) == 1


def test_a_lost_server_is_reported_and_used_again_when_it_returns(
    databases, direct_dsn, server_dsn
):
    name = _name(conninfo_to_dict(direct_dsn)["dbname"])
    source = Source(direct_dsn)

    def admit(yes: bool) -> None:
        with psycopg.connect(server_dsn, autocommit=True) as admin:
            admin.execute(
                sql.SQL("alter database {} allow_connections {}").format(name, sql.Literal(yes))
            )
            if not yes:
                admin.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s",
                    [conninfo_to_dict(direct_dsn)["dbname"]],
                )

    async def steps():
        async with shown(source, interval=OFTEN) as pilot:
            app = pilot.app
            admit(False)
            await until(
                pilot, lambda: "!! no connection for" in text_of(pilot), "the lost connection"
            )
            await until(pilot, lambda: "not currently accepting" in app.lost, "another attempt")
            admit(True)
            await until(pilot, lambda: not app.lost, "the server")
            await until(pilot, lambda: "Connected again" in text_of(pilot), "word of it")
            with psycopg.connect(direct_dsn, autocommit=True) as conn:
                conn.execute("select pgque.create_queue('new')")
            await until(pilot, lambda: "new" in app.history.queues, "figures")

    play(steps())


def test_a_queue_dropped_while_it_is_shown_is_reported(source, autoconn, queue):
    async def steps():
        async with shown(source, queue=queue) as pilot:
            await press(pilot, "2")
            value(autoconn, "select pgque.drop_queue(%s)", queue)
            await looked(pilot)
            await looked(pilot)
            await seen(pilot, f"The queue {queue} was dropped")
            await press(pilot, "escape")
            await seen(pilot, "No queues yet")

    play(steps())


def board(count=1000):
    queues = [queue_now(f"queue-{n:04}", rate=float(n % 7), sent=n) for n in range(count)]
    return sample(queues, [consumer_now(q.queue, "c") for q in queues])


async def listed(pilot, *names):
    """Wait until the list begins with these queues."""

    def begins():
        shown = pilot.app.screen.page.listing.shown
        return [row.now.queue for row in shown[: len(names)]] == [*names]

    await until(pilot, begins, repr(names))


async def counted(pilot, count):
    """Wait until the list has `count` lines."""
    await until(pilot, lambda: len(pilot.app.screen.page.listing.shown) == count, f"{count} lines")


def test_a_thousand_queues_are_filtered_while_typing():
    async def steps():
        async with shown(FakeSource(board())) as pilot:
            await counted(pilot, 1000)
            await press(pilot, "slash", *"E-099")
            await counted(pilot, 10)
            await listed(pilot, *(f"queue-099{n}" for n in range(10)))
            await press(pilot, "enter", "down", "down", "enter")
            await until(pilot, lambda: isinstance(pilot.app.screen, QueueScreen), "the queue")
            assert pilot.app.screen.queue == "queue-0992"
            await press(pilot, "escape")
            await until(pilot, lambda: isinstance(pilot.app.screen, OverviewScreen), "all queues")
            await counted(pilot, 10)
            await press(pilot, "escape")
            await counted(pilot, 1000)

    play(steps())


def test_a_page_brought_to_the_front_does_not_take_the_keys_of_an_open_filter():
    async def steps():
        async with shown(FakeSource(board())) as pilot:
            for key in ("2", "1", "slash", *"0992", "enter", "enter"):
                send_key(pilot, key)
                await pilot.pause(0)
            await until(pilot, lambda: isinstance(pilot.app.screen, QueueScreen), "the queue")
            await seen(pilot, "queue-0992")
            assert pilot.app.screen.queue == "queue-0992"

    play(steps())


def test_sorting_moves_from_column_to_column_and_can_be_reversed():
    async def steps():
        async with shown(FakeSource(board(20))) as pilot:
            await press(pilot, "s")  # from the last column to the first
            await listed(pilot, "queue-0000")
            await press(pilot, "S")
            await listed(pilot, "queue-0019")
            await press(pilot, "s")
            await seen(pilot, "by IN/S ▼")
            await listed(pilot, "queue-0006", "queue-0013", "queue-0005")

    play(steps())


def rates(*rates):
    return sample([queue_now(name, rate=rate) for name, rate in zip("abc", rates, strict=True)])


def test_the_cursor_stays_on_its_queue_when_the_order_changes():
    async def steps():
        async with shown(FakeSource(rates(3, 2, 1), rates(1, 2, 9))) as pilot:
            await press(pilot, "s", "s", "end")
            listing = pilot.app.screen.page.listing
            at = lambda: (listing.selected.now.queue, listing.cursor)  # noqa: E731
            await until(pilot, lambda: at() == ("c", 2), "the last line")
            await looked(pilot)
            await listed(pilot, "c", "b", "a")
            assert at() == ("c", 0)

    play(steps())


def test_a_cursor_on_the_first_line_stays_on_the_first_line():
    async def steps():
        async with shown(FakeSource(rates(3, 2, 1), rates(1, 2, 9))) as pilot:
            await press(pilot, "s", "s")
            await listed(pilot, "a", "b", "c")
            await looked(pilot)
            await listed(pilot, "c", "b", "a")
            assert pilot.app.screen.page.listing.selected.now.queue == "c"

    play(steps())


def test_sampling_can_be_paused_and_its_interval_changed():
    source = FakeSource(board(1))

    async def steps():
        async with shown(source) as pilot:
            await press(pilot, "space")
            await seen(pilot, "PAUSED")
            before = source.looks
            await looked(pilot)
            assert source.looks == before
            await press(pilot, "space")
            await until(pilot, lambda: source.looks == before + 1, "a sample")
            await press(pilot, "plus")
            await seen(pilot, "every 1 min")
            await press(pilot, *["plus"] * 20)
            await seen(pilot, "every 200 ms")
            await press(pilot, "minus")
            await seen(pilot, "every 500 ms")

    play(steps())


def test_top_quits_while_it_waits_for_the_server(dsn, autoconn):
    source = Source(dsn)

    def wait_long():
        return source.browse(lambda browser: browser.conn.execute("select pg_sleep(3600)"))

    async def steps():
        async with shown(source) as pilot:
            waiting = asyncio.get_running_loop().run_in_executor(None, wait_long)
            asleep = "select count(*) from pg_stat_activity where query = 'select pg_sleep(3600)'"
            await until(pilot, lambda: value(autoconn, asleep), "the statement to sleep")
            await press(pilot, "q")
        with pytest.raises(psycopg.OperationalError):
            await waiting

    play(steps())
