"""The page in a browser (pgque/dashboard/static)."""

import re
import threading
from urllib.parse import quote

import pytest

from pgque.dashboard import create_app
from pgque.dashboard.looking import Eye
from tests.dashboard.conftest import TOKEN, serving
from tests.dashboard.test_browse import let_die, send_event
from tests.fix_engine import ack, configure, nack, receive, send, send_many, tick, value
from tests.fix_pooler import directly
from tests.running import PATIENCE, eventually

SCRIPT = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture
def look(serve, page):
    """Open a dashboard's page."""

    def look(where="", **options):
        page.goto(f"{serve(every=0.2, **options).url}/#/{where}")
        return page

    return look


@pytest.fixture
def dead(autoconn, queue, consumer):
    """A queue with three dead letters."""
    send_many(autoconn, queue, 3)
    let_die(autoconn, queue, consumer)
    return queue


def cell(page, table, row, column):
    """A cell of a table by what its row and its column are called."""
    place = page.get_by_role("table", name=table, exact=True)
    place.wait_for()
    heads = place.get_by_role("columnheader").all_text_contents()
    return place.get_by_role("row", name=row).locator("td, th").nth(heads.index(column))


def shows(page, locator, text):
    """Wait until an element shows the text."""
    from playwright.sync_api import expect

    expect(locator).to_have_text(text)


def test_figures_move_without_anybody_doing_anything(look, autoconn, queue, consumer):
    page = look()
    shows(page, page.locator("#link-text"), "Live")
    shows(page, cell(page, "Queues", queue, "State"), "ok")
    send_many(autoconn, queue, 1234)
    shows(page, cell(page, "Queues", queue, "Behind"), "1,234")
    shows(page, cell(page, "Queues", queue, "Not ticked"), "1,234")
    tick(autoconn, queue)
    shows(page, cell(page, "Queues", queue, "Not ticked"), "0")
    behind = "Consumers that are furthest behind"
    shows(page, cell(page, behind, consumer, "Behind"), "1,234")
    receive(autoconn, queue, consumer, 10)
    shows(page, cell(page, "Queues", queue, "In flight"), "10")
    configure(autoconn, queue, ticker_paused=True)
    shows(page, cell(page, "Queues", queue, "State"), "paused")


def test_plots_say_in_words_what_they_show(look, autoconn, queue, consumer):
    page = look(f"queue/{queue}")
    for _ in range(3):
        send_many(autoconn, queue, 50)
        tick(autoconn, queue)
        ack(autoconn, receive(autoconn, queue, consumer))
    words = re.compile(rf"Latency, 10 minutes. {consumer}: .* (ms|µs|s), at most .*")
    page.get_by_role("img", name=words).wait_for()
    page.get_by_role("img", name=re.compile("Rate, .*sent: .*, at most")).wait_for()
    latency = page.locator("figure", has_text="Latency")
    latency.get_by_text("As a table").click()
    latency.get_by_role("columnheader", name=consumer).wait_for()
    assert page.locator("svg.plot path.stroke").count() == 4


def test_without_queues_it_says_how_to_make_one(look):
    page = look()
    page.get_by_text("There is no queue yet. Make one: pgque queue create NAME").wait_for()


def test_a_queue_that_is_gone_is_said(look):
    page = look("queue/nobody")
    page.get_by_text("There is no such queue, or no longer.").wait_for()
    page.get_by_text("queue not found: nobody").wait_for()


def test_queues_may_have_any_name(look, autoconn):
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


def test_a_payload_is_text_and_nothing_else(look, autoconn, queue, consumer):
    send_event(autoconn, queue, SCRIPT, SCRIPT, SCRIPT)
    let_die(autoconn, queue, consumer, reason=SCRIPT)
    page = look(f"queue/{queue}")
    page.get_by_role("button", name="Show message").click()
    dialog = page.get_by_role("dialog")
    shows(page, dialog.locator("pre"), SCRIPT)
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Dead letters").click()
    page.get_by_role("button", name="Show message").click()
    shows(page, page.get_by_role("dialog").locator("pre"), SCRIPT)
    assert page.title() == f"{queue} - pgque"
    assert page.locator("main img, dialog img, main script, dialog script").count() == 0


def test_json_is_shown_with_its_numbers_as_they_are(look, autoconn, queue):
    send(autoconn, queue, '{"id":12345678901234567890,"price":1.10,"none":[],"text":"a,{b}"}')
    page = look(f"queue/{queue}")
    page.get_by_role("button", name="Show message").click()
    payload = page.get_by_role("dialog").locator("pre")
    assert payload.text_content() == (
        '{\n  "id": 12345678901234567890,\n  "price": 1.10,\n  "none": [],\n  "text": "a,{b}"\n}'
    )
    page.get_by_label("As stored").check()
    assert payload.text_content().startswith('{"id":1234')


def test_messages_are_searched_and_paged(look, autoconn, queue):
    send_many(autoconn, queue, 120)
    page = look(f"queue/{queue}")
    messages = page.get_by_role("table", name=f"Messages of {queue}")
    rows = messages.get_by_role("row")
    from playwright.sync_api import expect

    expect(rows).to_have_count(51)
    page.get_by_role("button", name="Older ones").click()
    expect(rows).to_have_count(101)
    page.get_by_label("Payload contains").fill("117")
    expect(rows).to_have_count(2)
    page.get_by_label("Payload contains").fill("nothing like it")
    page.get_by_text("Nothing like that was found.").wait_for()


def test_without_a_token_there_is_nothing_to_change(look, dead):
    page = look(f"queue/{dead}/dead")
    page.get_by_text("Read-only: start the dashboard with a token").wait_for()
    page.get_by_role("row", name="no such address").first.wait_for()
    for name in ("Replay", "Purge", "token"):
        assert page.get_by_role("button", name=name).count() == 0


def give_token(page, token=TOKEN):
    page.get_by_label("What the dashboard was started with").fill(token)
    page.get_by_role("button", name="Use it").click()


def test_dead_letters_are_replayed_and_purged_after_a_confirmation(look, autoconn, dead):
    page = look(f"queue/{dead}/dead", token=TOKEN)
    letters = "select count(*) from pgque.dead_letter"
    page.get_by_role("button", name="Replay or purge…").click()
    give_token(page, "not-the-right-token")
    page.get_by_text("The token is missing or wrong.").wait_for()
    give_token(page)

    page.get_by_role("checkbox", name="Choose message 1 of").check()
    page.get_by_role("button", name="Replay 1 chosen…").click()
    page.get_by_role("dialog", name="Replay 1 dead letter?").wait_for()
    page.get_by_role("button", name="Cancel").click()
    assert value(autoconn, letters) == 3
    page.get_by_role("button", name="Replay 1 chosen…").click()
    page.get_by_role("button", name="Replay 1 dead letter", exact=True).click()
    page.get_by_text("1 sent again.").wait_for()
    assert value(autoconn, letters) == 2

    page.get_by_label("Older than, in days").fill("0")
    page.get_by_role("button", name="Purge…").click()
    page.get_by_role("button", name="Delete 2 dead letters").click()
    page.get_by_text("2 deleted.").wait_for()
    page.get_by_text("There are no dead letters.").wait_for()
    assert value(autoconn, letters) == 0
    assert TOKEN not in page.url


def test_all_are_replayed_and_what_fails_is_said(look, autoconn, dead):
    configure(autoconn, dead, disable_insert=True)
    page = look(f"queue/{dead}/dead", token=TOKEN)
    page.get_by_role("button", name="Replay or purge…").click()
    give_token(page)
    page.get_by_role("button", name="Replay all…").click()
    page.get_by_role("button", name="Replay all", exact=True).click()
    page.get_by_text("0 sent again. 3 failed: Insert into queue disallowed").wait_for()
    configure(autoconn, dead, disable_insert=False)
    page.get_by_role("button", name="Replay all…").click()
    page.get_by_role("button", name="Replay all", exact=True).click()
    page.get_by_text("3 sent again.").wait_for()


def test_retries_are_listed(look, autoconn, queue, consumer):
    send(autoconn, queue, "later")
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    nack(autoconn, batch[0], "1 hour")
    ack(autoconn, batch)
    page = look(f"queue/{queue}/retries")
    page.get_by_role("row", name="later").wait_for()


def test_a_private_page_asks_for_its_token(look, queue):
    page = look(token=TOKEN, private=True)
    page.get_by_text("shows nothing without its token").wait_for()
    assert page.get_by_text(queue).count() == 0
    give_token(page)
    page.get_by_role("link", name=queue).first.wait_for()
    page.reload()
    page.get_by_role("link", name=queue).first.wait_for()


@directly
def test_a_server_that_is_lost_is_said_and_found_again(look, closed, queue):
    page = look()
    shows(page, page.locator("#link-text"), "Live")
    closed(True)
    try:
        page.get_by_text("The database has not answered since").wait_for()
        shows(page, page.locator("#link-text"), "Not live")
        page.get_by_role("link", name=queue).first.wait_for()  # what was known stays
    finally:
        closed(False)
    shows(page, page.locator("#link-text"), "Live")
    assert page.get_by_text("The database has not answered since").count() == 0


def test_a_dashboard_that_is_gone_is_said_and_found_again(dsn, page, queue):
    gone = page.get_by_text("The dashboard itself does not answer.")
    with serving(create_app(dsn, every=0.2)) as served:
        page.goto(served.url)
        shows(page, page.locator("#link-text"), "Live")
    gone.wait_for()
    with serving(create_app(dsn, every=0.2), served.port):
        shows(page, page.locator("#link-text"), "Live")
    assert gone.count() == 0


def test_figures_that_grow_old_are_said(look, page, monkeypatch):
    page.clock.install()
    look()
    shows(page, page.locator("#link-text"), "Live")
    again = threading.Event()
    plain = Eye.look
    monkeypatch.setattr(Eye, "look", lambda eye: again.wait(PATIENCE) and plain(eye))
    old = page.get_by_text("The newest figures are")

    def is_said():
        page.clock.run_for(1000)
        return old.count()

    eventually(is_said)
    again.set()
    shows(page, page.locator("#link-text"), "Live")


def test_what_is_held_still_does_not_move(serve, page, autoconn, queue):
    served = serve(every=0.2)
    sampler = served.app.state.board.sampler
    page.goto(served.url)
    shows(page, cell(page, "Queues", queue, "Not ticked"), "0")
    page.get_by_role("button", name="Hold still").click()
    shows(page, page.locator("#link-text"), "Held still")
    send_many(autoconn, queue, 5)
    eventually(lambda: sampler.state.view.sample.queues[0].unticked == 5)
    number = sampler.state.number
    eventually(lambda: sampler.state.number > number + 3)
    shows(page, cell(page, "Queues", queue, "Not ticked"), "0")
    page.get_by_role("button", name="Hold still").click()
    shows(page, cell(page, "Queues", queue, "Not ticked"), "5")


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
    note = "The first 200 are shown; 800 more: filter or sort to see them."
    assert found == [200, "queue 0", "queue 999", "descending", True, note]


def test_queues_are_filtered_by_a_part_of_their_name(look, autoconn):
    for name in ("orders", "orders.paid", "mail"):
        autoconn.execute("select pgque.create_queue(%s)", [name])
    page = look()
    page.get_by_label("Filter").fill("ORDERS")
    page.get_by_text("2 of 3").wait_for()
    page.get_by_label("Filter").fill("x")
    page.get_by_text("No queue has that in its name.").wait_for()


def test_it_is_used_with_the_keyboard_alone(look, autoconn, queue):
    send(autoconn, queue, "hello")
    page = look()
    page.get_by_role("link", name=queue).first.wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        name, outline = page.evaluate(
            "(({ activeElement: e }) => [e.id || e.getAttribute('aria-labelledby') ||"
            " e.textContent, getComputedStyle(e).outlineStyle])(document)"
        )
        if name == "":
            break
        assert outline != "none", name
        reached.add(name)
        if name == queue:
            page.keyboard.press("Enter")
            break
    assert {"pause", "theme"} <= reached
    page.get_by_role("heading", name=queue, level=1).wait_for()
    assert page.evaluate("document.activeElement.tagName") == "H1"
    page.get_by_role("button", name="Show message").focus()
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.ariaLabel") == "Show message 1"


CONTRASTS = """() => {
    const parts = (color) => {
        const context = document.createElement("canvas").getContext("2d");
        context.fillStyle = color;
        context.fillRect(0, 0, 1, 1);
        return [...context.getImageData(0, 0, 1, 1).data];
    };
    const light = ([r, g, b]) => {
        const [x, y, z] = [r, g, b]
            .map((c) => c / 255)
            .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
        return 0.2126 * x + 0.7152 * y + 0.0722 * z;
    };
    const behind = (element) => {
        for (let one = element; one; one = one.parentElement) {
            const color = parts(getComputedStyle(one).backgroundColor);
            if (color[3] === 255) return color;
        }
        return parts(getComputedStyle(document.body).backgroundColor);
    };
    const low = [];
    for (const element of document.querySelectorAll("body *")) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!own || !element.checkVisibility() || element.closest("noscript")) continue;
        const style = getComputedStyle(element);
        const color = parts(element instanceof SVGElement ? style.fill : style.color);
        const [a, b] = [light(color), light(behind(element))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) low.push([element.tagName, element.textContent, ratio].join(" "));
    }
    return low;
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_in_both_themes(look, dead, autoconn, theme):
    configure(autoconn, dead, ticker_paused=True)
    page = look(token=TOKEN)
    page.emulate_media(color_scheme="dark" if theme == "light" else "light")
    page.get_by_label("Theme").select_option(theme)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 28)"
    assert dark == (theme == "dark")
    shows(page, cell(page, "Queues", dead, "State"), "paused")
    assert page.evaluate(CONTRASTS) == []
    page.goto(f"{page.url.split('#')[0]}#/queue/{quote(dead)}/dead")
    page.get_by_role("button", name="Replay or purge…").click()
    give_token(page)
    page.get_by_label("Older than, in days").fill("0")
    page.get_by_role("button", name="Purge…").click()
    page.get_by_role("dialog").wait_for()
    assert page.evaluate(CONTRASTS) == []
    page.reload()
    assert page.get_by_label("Theme").input_value() == theme


def test_the_theme_is_the_systems_unless_one_is_chosen(look):
    page = look()
    for scheme, color in (("dark", "rgb(20, 23, 28)"), ("light", "rgb(246, 247, 249)")):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == color


def test_it_fits_a_narrow_window(look, page, autoconn, dead):
    autoconn.execute("select pgque.create_queue(%s)", ["long_" * 11])
    page.set_viewport_size({"width": 360, "height": 740})
    look(token=TOKEN)
    page.get_by_role("link", name="long_").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_role("link", name=dead).first.click()
    page.get_by_role("link", name="Dead letters").click()
    page.get_by_role("row", name="no such address").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_every_part_has_a_name(look, dead):
    page = look(f"queue/{dead}/dead", token=TOKEN)
    page.get_by_role("row", name="no such address").first.wait_for()
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, a, table, section, nav")]
            .filter((e) => e.checkVisibility())
            .filter((e) => !(e.ariaLabel || e.textContent.trim() || e.labels?.length || e.caption))
            .map((e) => e.outerHTML)"""
    )
    assert nameless == []
    assert page.locator("h1").count() == 1
    for role in ("main", "banner", "contentinfo", "search"):
        assert page.get_by_role(role).count() == 1
