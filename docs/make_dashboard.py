"""Take the pictures of the dashboard: `python docs/make_dashboard.py`.

The script puts an embedded server under load: a queue with a slow consumer, one with retries and
dead letters, a cooperative group and a paused queue. It opens the page in Debian's Chromium and
writes the pictures to docs/ after a while.
"""

from __future__ import annotations

import argparse
import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

import pgque
from pgque import embedded
from pgque.dashboard import create_app
from pgque.dashboard.serve import bind, make_server, stop
from pgque.install import install

HERE = Path(__file__).resolve().parent
TOKEN = "only-for-the-pictures"  # noqa: S105
CITIES = ("Graz", "Linz", "Wien", "Bern", "Basel", "Ulm")
REASONS = ("no such address: {city}", "card was declined", "timeout after 30 s: gateway.{city}")

chance = random.Random(7)  # noqa: S311


def main() -> None:
    """Write docs/dashboard-*.png."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=100, help="how long the load runs first")
    parser.add_argument("--folder", type=Path, default=HERE)
    given = parser.parse_args()
    logging.disable(logging.ERROR)  # handlers fail on purpose
    with embedded.Server() as server, ExitStack() as stack:
        install(server.dsn)
        prepare(server.dsn)
        url = stack.enter_context(dashboard(server.dsn))
        stack.enter_context(load(server.dsn))
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path="/usr/bin/chromium", args=["--no-sandbox"]
            )
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(url)
            time.sleep(given.seconds)
            take(page, url, given.folder)
            browser.close()


def take(page: Page, url: str, folder: Path) -> None:
    """Take the pictures: the overview in both themes, and the dead letters of a queue."""
    page.get_by_label("The last").select_option("120")
    for theme in ("light", "dark"):
        page.get_by_label("Theme").select_option(theme)
        time.sleep(2)
        page.screenshot(path=folder / f"dashboard-{theme}.png", full_page=True)
    page.get_by_label("Theme").select_option("light")
    page.goto(f"{url}#/queue/payments/dead")
    page.get_by_role("button", name="Replay or purge…").click()
    page.get_by_label("The token that the dashboard was started with").fill(TOKEN)
    page.get_by_role("button", name="Use token").click()
    page.get_by_role("checkbox").nth(1).check()
    page.get_by_role("checkbox").nth(2).check()
    time.sleep(2)
    page.screenshot(path=folder / "dashboard-dead.png", clip=box(1280, 1240), full_page=True)


def box(width: int, height: int) -> dict[str, float]:
    """Return the area of a page from its top left corner."""
    return {"x": 0, "y": 0, "width": width, "height": height}


def prepare(dsn: str) -> None:
    """Create the queues and their consumers."""
    consumers = {
        "orders": ["shipping", "search"],
        "payments": ["ledger"],
        "clicks": ["statistics"],
        "mail": [],
        "audit": ["archive"],
    }
    with pgque.connect(dsn, autocommit=True) as client:
        for queue, names in consumers.items():
            client.create_queue(queue)
            for name in names:
                client.subscribe(queue, name)
        client.subscribe_subconsumer("mail", "crew", "one")
        client.subscribe_subconsumer("mail", "crew", "two")
        client.set_queue_config("payments", "max_retries", 1)
        client.set_queue_config("audit", "ticker_paused", True)


@contextmanager
def load(dsn: str) -> Iterator[None]:
    """Send and consume during the block."""
    over = threading.Event()
    shipping = pgque.Consumer(dsn, queue="orders", name="shipping")
    search = pgque.Consumer(dsn, queue="orders", name="search", max_messages=20)
    ledger = pgque.Consumer(dsn, queue="payments", name="ledger", retry_after=10)
    statistics = pgque.Consumer(dsn, queue="clicks", name="statistics", max_messages=1000)
    crew = [
        pgque.Consumer(dsn, queue="mail", name="crew", subconsumer=name, max_messages=10)
        for name in ("one", "two")
    ]
    parts: list[pgque.Consumer | pgque.Ticker] = [
        shipping, search, ledger, statistics, *crew, pgque.Ticker(dsn)
    ]  # fmt: skip
    shipping.on("*")(lambda _: over.wait(0.001))
    search.on("*")(lambda _: over.wait(0.035))
    statistics.on("*")(lambda _: None)
    for member in crew:
        member.on("*")(lambda _: over.wait(0.02))

    @ledger.on("*")
    def book(message: pgque.Message) -> None:
        if chance.random() < 0.12:
            raise ValueError(chance.choice(REASONS).format(city=message.json()["city"]))

    threads = [threading.Thread(target=run(part)) for part in parts]
    threads.append(threading.Thread(target=produce, args=(dsn, over)))
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for part in parts:
            part.stop()
        for thread in threads:
            thread.join()


def run(part: pgque.Consumer | pgque.Ticker) -> Callable[[], None]:
    """Return a function that runs a consumer or ticker until it is stopped."""
    return part.start if isinstance(part, pgque.Consumer) else part.run


def produce(dsn: str, over: threading.Event) -> None:
    """Send orders, payments, clicks and mails in waves."""
    number = 0
    with pgque.connect(dsn, autocommit=True) as client:
        while not over.wait(0.1):
            number += 1
            wave = 1 + 0.6 * ((number // 120) % 2) + 0.3 * chance.random()
            city = chance.choice(CITIES)
            for _ in range(int(4 * wave)):
                order = {"order": 1000 + number, "customer": "Ada Lovelace", "city": city}
                client.send("orders", order, type="order.placed", key=f"customer-{number % 50}")
            for _ in range(int(2 * wave)):
                payment = {"order": 1000 + number, "amount": "19.90", "city": city}
                client.send("payments", payment, type="payment.due", key=f"order-{number}")
            client.send_batch(
                "clicks", "click", [f'{{"page": {n}}}' for n in range(int(40 * wave))]
            )
            client.send("mail", {"to": "ada@example.com", "subject": "Thank you"}, type="mail.out")
            client.send("audit", {"user": "ada", "did": "order"}, type="audit")


@contextmanager
def dashboard(dsn: str) -> Iterator[str]:
    """Serve the dashboard during the block."""
    app = create_app(dsn, token=TOKEN)
    with bind("127.0.0.1", 0) as listening:
        server = make_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            stop(server, app)
            thread.join()


if __name__ == "__main__":
    main()
