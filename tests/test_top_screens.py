"""The screens of `pgque top`; tests/fix_top.py says how to make the snapshots."""

import dataclasses
from datetime import timedelta

import pytest

from pgque.errors import PgqueConnectionError
from tests.fix_top import (
    FakeSource,
    check,
    consumer_now,
    letter,
    looked,
    play,
    press,
    queue_now,
    retry,
    sample,
    seen,
    sent,
    shown,
)

LONG = "eu-west-1.billing.invoices.created.for.accounting.v2"


def busy(at: float = 0.0, rate: float | None = 1240.0, ticking: bool = True):
    """A shop with several problems."""
    return sample(
        [
            queue_now("audit", sent=12_000_000, rate=rate and rate / 2, tick_age=0.004),
            queue_now(
                "clicks", sent=350_123, rate=rate, unticked=88, tick_age=95.0 + at, state="no tick"
            ),
            queue_now("empty", tick_age=12_000.0, rate=rate and 0.0),
            queue_now(LONG, sent=812, rate=rate and 0.4, retries=12, dead=3),
            queue_now(
                "mails", sent=90_000, paused=True, unticked=400, rate=rate and 3.0, state="paused"
            ),
            queue_now("orders", sent=5_000, rate=rate and 86.0, dead=120),
        ],
        [
            consumer_now("audit", "archive", rate=rate and rate / 2),
            consumer_now(
                "clicks", "counts", rate=rate and 0.0, pending=9_800, lag=75.0, state="behind"
            ),
            consumer_now(
                LONG, "books", pending=800, lag=4_000.0, last_seen=2_000.0, state="silent"
            ),
            consumer_now(LONG, "the-tax-office-of-luxembourg", pending=2, lag=0.8, rate=2.25),
            consumer_now("mails", "sender", last_seen=800.0),
            consumer_now("orders", "pickers", rate=rate and 85.5, pending=40, lag=0.45),
            consumer_now("orders", "pickers.a", holds_batch=True, member=True, rate=None),
            consumer_now("orders", "pickers.b", holds_batch=True, member=True, rate=None),
            consumer_now("orders", "pickers.c", member=True, rate=None),
        ],
        at=at,
        ticking=ticking,
    )


def in_motion(**lists):
    """The shop over eight samples, in which the rate rises and falls."""
    rates = [None, 200.0, 400.0, 900.0, 1500.0, 1100.0, 700.0, 1240.0]
    return FakeSource(*(busy(n, rate) for n, rate in enumerate(rates)), **lists)


async def all_looked(pilot, times: int = 7) -> None:
    for _ in range(times):
        await looked(pilot)


@pytest.mark.parametrize("size", [(80, 24), (200, 50)], ids=["80x24", "200x50"])
def test_all_queues_with_the_worst_first(size):
    async def steps():
        async with shown(in_motion(), size) as pilot:
            await all_looked(pilot)
            await check(pilot, f"queues-{size[0]}")

    play(steps())


@pytest.mark.parametrize("size", [(80, 24), (200, 50)], ids=["80x24", "200x50"])
def test_all_consumers(size):
    async def steps():
        async with shown(in_motion(), size) as pilot:
            await all_looked(pilot)
            await press(pilot, "2")
            await check(pilot, f"consumers-{size[0]}")

    play(steps())


def test_a_queue_with_its_consumers():
    async def steps():
        async with shown(in_motion(), queue="orders") as pilot:
            await all_looked(pilot)
            await check(pilot, "queue")

    play(steps())


def test_a_consumer_with_its_retries():
    retries = [
        retry(77, 90, "books", 2, "invoice.created", "k7", '{"invoice": 77}'),
        retry(78, -5, "books", 5, "invoice.created", None, "line\nbreak \x1b[2J"),
    ]

    async def steps():
        async with shown(in_motion(retries=retries), queue=LONG) as pilot:
            await all_looked(pilot)
            await press(pilot, "enter")
            await check(pilot, "consumer")

    play(steps())


MESSAGES = [
    sent(5000, 9, 0.3, "order.placed", "anna", '{"order": 5000, "items": [1, 2]}'),
    sent(4998, 9, 7, "order.placed", None, "[red]no markup[/red] \x1b[31m" + "x" * 99),
    sent(4997, 8, 4000, None, "日本語のとても長いキーです", None),
]


def test_the_newest_messages_of_a_queue():
    async def steps():
        async with shown(FakeSource(busy(), messages=MESSAGES), queue="orders") as pilot:
            await press(pilot, "2")
            await check(pilot, "messages")

    play(steps())


def test_a_whole_message():
    payload = (
        '{"order": 1.10, "lines": [{"sku": "a\\"b", "n": 1}, {}], "note": "ü\\u001b", "e": []}'
    )
    message = dataclasses.replace(
        sent(1234567, 9, 1, "order.placed", None, payload),
        created=None,  # it would be shown in this machine's time zone
    )
    standing = [("pickers", "pending"), ("billing\x1b", "waiting for retry 2")]
    source = FakeSource(busy(), messages=[message], rows=standing)

    async def steps():
        async with shown(source, queue="orders") as pilot:
            await press(pilot, "2")
            await seen(pilot, "order.placed")
            await press(pilot, "enter")
            await check(pilot, "message")

    play(steps())


LETTERS = [
    letter(31, 4, "pickers", 5, "ValueError: no such shelf", "order.placed", None, '{"o": 9}'),
    letter(30, 86400 * 3, "pickers", None, None, None, None, None),
]


@pytest.mark.parametrize("size", [(80, 24), (120, 24)], ids=["80x24", "120x24"])
def test_dead_letters_with_their_keys(size):
    async def steps():
        async with shown(FakeSource(busy(), letters=LETTERS), size, queue="orders") as pilot:
            await press(pilot, "4")
            await check(pilot, f"letters-{size[0]}")

    play(steps())


def test_a_replay_asks_for_confirmation():
    async def steps():
        async with shown(FakeSource(busy(), letters=LETTERS), queue="orders") as pilot:
            await press(pilot, "4")
            await press(pilot, "R")
            await check(pilot, "replay-all")

    play(steps())


def test_settings_of_a_queue():
    minute = timedelta(minutes=1)
    rows = [(5, False, False, False, timedelta(seconds=1), 500, minute, 120 * minute)]

    async def steps():
        async with shown(FakeSource(busy(), rows=rows), queue="orders") as pilot:
            await press(pilot, "5")
            await check(pilot, "settings")

    play(steps())


def test_the_help():
    async def steps():
        async with shown(FakeSource(busy())) as pilot:
            await press(pilot, "question_mark")
            await check(pilot, "help")

    play(steps())


def test_a_screen_without_queues_and_ticker():
    async def steps():
        async with shown(FakeSource(sample(ticking=False))) as pilot:
            await check(pilot, "nothing")

    play(steps())


def test_a_lost_connection_is_shown_above_the_last_figures():
    source = FakeSource(busy(), PgqueConnectionError("server closed the connection\nTry."))

    async def steps():
        async with shown(source) as pilot:
            await looked(pilot)
            await check(pilot, "lost")

    play(steps())


def test_a_filter_without_matches():
    async def steps():
        async with shown(FakeSource(busy())) as pilot:
            await press(pilot, "slash", *"nix")
            await check(pilot, "filtered")

    play(steps())
