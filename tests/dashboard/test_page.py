"""The page in a browser (pgque/dashboard/static)."""

import re
import threading

from pgque.dashboard import create_app
from pgque.dashboard.snapshot import Snapshotter
from tests.dashboard.conftest import TOKEN, serving
from tests.dashboard.seen import cell, give_token, is_live, shows
from tests.fix_engine import ack, configure, receive, send, send_many, tick
from tests.fix_pooler import directly
from tests.running import PATIENCE, eventually


def test_figures_are_updated_automatically(look, autoconn, queue, consumer):
    page = look()
    is_live(page)
    shows(cell(page, "Queues", queue, "State"), "ok")
    send_many(autoconn, queue, 1234)
    shows(cell(page, "Queues", queue, "Pending"), "1,234")
    shows(cell(page, "Queues", queue, "Not ticked"), "1,234")
    tick(autoconn, queue)
    shows(cell(page, "Queues", queue, "Not ticked"), "0")
    behind = "Consumers furthest behind"
    shows(cell(page, behind, consumer, "Pending"), "1,234")
    receive(autoconn, queue, consumer, 10)
    shows(cell(page, "Queues", queue, "In flight"), "10")
    configure(autoconn, queue, ticker_paused=True)
    shows(cell(page, "Queues", queue, "State"), "paused")


def test_plots_have_a_text_alternative(look, autoconn, queue, consumer):
    page = look(f"queue/{queue}")
    for _ in range(3):
        send_many(autoconn, queue, 50)
        tick(autoconn, queue)
        ack(autoconn, receive(autoconn, queue, consumer))
    words = re.compile(rf"Latency, 10 minutes. {consumer}: .* (ms|µs|s), at most .*")
    page.get_by_role("img", name=words).wait_for()
    page.get_by_role("img", name=re.compile("Rate, .*sent: .*, at most")).wait_for()
    latency = page.locator("figure", has_text="Latency")
    latency.get_by_text("Show as table").click()
    latency.get_by_role("columnheader", name=consumer).wait_for()
    assert page.locator("svg.plot path.stroke").count() == 4


def test_without_queues_the_page_says_how_to_create_one(look):
    page = look()
    page.get_by_text("No queues yet. Create one: pgque queue create NAME").wait_for()


def test_a_missing_queue_is_reported(look):
    page = look("queue/nobody")
    page.get_by_text("This queue does not exist, or was dropped.").wait_for()
    page.get_by_text("queue not found: nobody").wait_for()


def test_queues_can_have_any_name(look, autoconn):
    names = ["a/b?c#d%20&", "<b>bold</b>", "ü" * 28]
    for name in names:
        autoconn.execute("select pgque.create_queue(%s)", [name])
        send(autoconn, name, f"hello {name}")
    page = look()
    for name in names:
        page.get_by_role("link", name=name, exact=True).first.click()
        page.get_by_role("heading", name=name, level=1).wait_for()
        page.get_by_text(f"hello {name}").wait_for()
        assert page.title() == f"{name} - pgque"
        page.get_by_role("link", name="All queues").click()


def test_a_private_page_asks_for_its_token(look, queue):
    page = look(token=TOKEN, private=True)
    page.get_by_text("This dashboard requires its token").wait_for()
    assert page.get_by_text(queue).count() == 0
    give_token(page)
    page.get_by_role("link", name=queue).first.wait_for()
    page.reload()
    page.get_by_role("link", name=queue).first.wait_for()


@directly
def test_a_lost_database_is_reported_until_it_returns(look, closed, queue):
    page = look()
    is_live(page)
    closed(True)
    try:
        page.get_by_text("The database has not answered since").wait_for()
        shows(page.locator("#link-text"), "Not live")
        page.get_by_role("link", name=queue).first.wait_for()  # the last known queues remain
    finally:
        closed(False)
    is_live(page)
    page.get_by_text("The database has not answered since").wait_for(state="detached")


def test_a_lost_dashboard_is_reported_until_it_returns(dsn, page, queue):
    gone = page.get_by_text("The dashboard's server does not respond.")
    with serving(create_app(dsn, every=0.2)) as served:
        page.goto(served.url)
        is_live(page)
    gone.wait_for()
    with serving(create_app(dsn, every=0.2), served.port):
        is_live(page)
        gone.wait_for(state="detached")


def test_stale_figures_are_reported(look, page, monkeypatch):
    page.clock.install()
    look()
    is_live(page)
    again = threading.Event()
    plain = Snapshotter.take
    monkeypatch.setattr(Snapshotter, "take", lambda self: again.wait(PATIENCE) and plain(self))
    old = page.get_by_text("The newest figures are")

    def is_said():
        page.clock.run_for(1000)
        return old.count()

    eventually(is_said)
    again.set()
    is_live(page)


def test_a_paused_page_does_not_change(serve, page, autoconn, queue):
    served = serve(every=0.2)
    sampler = served.app.state.context.sampler
    page.goto(served.url)
    shows(cell(page, "Queues", queue, "Not ticked"), "0")
    page.get_by_role("button", name="Pause").click()
    shows(page.locator("#link-text"), "Paused")
    send_many(autoconn, queue, 5)
    eventually(lambda: sampler.state.snapshot.sample.queues[0].unticked == 5)
    number = sampler.state.number
    eventually(lambda: sampler.state.number > number + 3)
    shows(cell(page, "Queues", queue, "Not ticked"), "0")
    page.get_by_role("button", name="Pause").click()
    shows(cell(page, "Queues", queue, "Not ticked"), "5")


def test_a_thousand_queues_are_filtered_and_sorted(look):
    page = look()
    found = page.evaluate(
        """async () => {
            const { Table } = await import("./static/table.js");
            const columns = [
                { id: "name", title: "Name", value: (row) => row.name, text: (row) => row.name },
                { id: "size", title: "Size", number: true, value: (row) => row.size,
                  text: (row) => String(row.size) },
            ];
            const key = (row) => row.name;
            const table = new Table({ caption: "Many", columns, key, empty: "" });
            document.querySelector("main").append(table.element);
            const row = (_, size) => ({ name: `queue ${size}`, size });
            const rows = Array.from({ length: 1000 }, row);
            table.show(rows);
            const shown = () => [...table.body.rows].map((row) => row.cells[0].textContent);
            const first = shown();
            table.heads[1].querySelector("button").click();
            const largest = shown()[0];
            const sorted = table.heads[1].getAttribute("aria-sort");
            const line = table.body.rows[3];
            table.show(rows.map((row) => ({ ...row, size: row.size + 1 })));
            const same = line === table.body.rows[3];
            return [first.length, first[0], largest, sorted, same, table.note.textContent];
        }"""
    )
    note = "Showing the first 200; filter or sort to see the other 800."
    assert found == [200, "queue 0", "queue 999", "descending", True, note]


def test_queues_are_filtered_by_part_of_their_name(look, autoconn):
    for name in ("orders", "orders.paid", "mail"):
        autoconn.execute("select pgque.create_queue(%s)", [name])
    page = look()
    page.get_by_label("Filter").fill("ORDERS")
    page.get_by_text("2 of 3").wait_for()
    page.get_by_label("Filter").fill("x")
    page.get_by_text("No queue's name contains this.").wait_for()
