"""Browsing messages and dead letters on the page, and changing them."""

from playwright.sync_api import expect

from tests.dashboard.conftest import TOKEN
from tests.dashboard.seen import give_token, shows
from tests.fix_engine import (
    ack,
    configure,
    drain,
    let_die,
    nack,
    receive,
    send,
    send_event,
    send_many,
    tick,
    value,
)

SCRIPT = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


def test_a_payload_is_shown_as_text_only(look, autoconn, queue, consumer):
    send_event(autoconn, queue, SCRIPT, SCRIPT, SCRIPT)
    let_die(autoconn, queue, consumer, reason=SCRIPT)
    page = look(f"queue/{queue}")
    page.get_by_role("button", name="Show message").click()
    dialog = page.get_by_role("dialog")
    shows(dialog.locator("pre"), SCRIPT)
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Dead letters").click()
    page.get_by_role("button", name="Show dead letter").click()
    shows(page.get_by_role("dialog").locator("pre"), SCRIPT)
    assert page.title() == f"{queue} - pgque"
    assert page.locator("main img, dialog img, main script, dialog script").count() == 0


def test_json_is_shown_with_its_numbers_unchanged(look, autoconn, queue):
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
    expect(rows).to_have_count(51)
    page.get_by_role("button", name="Load older").click()
    expect(rows).to_have_count(101)
    page.get_by_label("Payload contains").fill("117")
    expect(rows).to_have_count(2)
    page.get_by_label("Payload contains").fill("nothing like it")
    page.get_by_text("No matches.").wait_for()


def test_without_a_token_nothing_can_be_changed(look, dead):
    page = look(f"queue/{dead}/dead")
    page.get_by_text("Read-only: start the dashboard with a token").wait_for()
    page.get_by_role("row", name="no such address").first.wait_for()
    for name in ("Replay", "Purge", "token"):
        assert page.get_by_role("button", name=name).count() == 0
    page.get_by_role("button", name="Show dead letter 2").click()
    page.get_by_text("To replay it, run: pgque dead replay 2").wait_for()


def test_a_dead_letter_shows_its_id_and_can_be_replayed_from_its_dialog(
    look, autoconn, queue, consumer
):
    send_many(autoconn, queue, 3)
    tick(autoconn, queue)
    drain(autoconn, queue, consumer)
    send(autoconn, queue, "the fourth")
    let_die(autoconn, queue, consumer, "cannot be done")
    letter, event = autoconn.execute("select dl_id, ev_id from pgque.dead_letter").fetchone()
    assert letter != event
    page = look(f"queue/{queue}/dead", token=TOKEN)
    page.get_by_role("button", name=f"Show dead letter {letter}").click()
    dialog = page.get_by_role("dialog", name=f"Dead letter {letter}")
    facts = dialog.locator("dl").inner_text().split()
    assert facts[:5] == ["Dead", "letter", str(letter), "Event", str(event)]
    dialog.get_by_role("button", name="Replay…").click()
    give_token(page)
    page.get_by_role("button", name="Replay 1 dead letter", exact=True).click()
    page.get_by_text("1 replayed.").wait_for()
    assert value(autoconn, "select count(*) from pgque.dead_letter") == 0


def test_deeply_nested_json_is_shown(look, autoconn, queue):
    nested = "[" * 20_000 + "]" * 20_000
    send(autoconn, queue, nested)
    page = look(f"queue/{queue}")
    page.get_by_role("button", name="Show message 1").click()
    shown = page.get_by_label("Payload", exact=True).text_content()
    assert "".join(shown.split()) == nested
    assert len(shown) < 100 * len(nested)


def test_dead_letters_are_replayed_and_purged_after_confirmation(look, autoconn, dead):
    page = look(f"queue/{dead}/dead", token=TOKEN)
    letters = "select count(*) from pgque.dead_letter"
    page.get_by_role("button", name="Replay or purge…").click()
    give_token(page, "not-the-right-token")
    page.get_by_text("The token is missing or wrong.").wait_for()
    give_token(page)

    page.get_by_role("checkbox", name="Select dead letter 1 of").check()
    page.get_by_role("button", name="Replay 1 selected…").click()
    page.get_by_role("dialog", name="Replay 1 dead letter?").wait_for()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Select all shown").click()
    page.get_by_role("button", name="Replay 3 selected…").wait_for()
    page.get_by_role("checkbox", name="Select dead letter 3 of").uncheck()
    page.get_by_role("checkbox", name="Select dead letter 2 of").uncheck()
    assert value(autoconn, letters) == 3
    page.get_by_role("button", name="Replay 1 selected…").click()
    page.get_by_role("button", name="Replay 1 dead letter", exact=True).click()
    page.get_by_text("1 replayed.").wait_for()
    assert value(autoconn, letters) == 2

    page.get_by_label("Older than (days)").fill("0")
    page.get_by_role("button", name="Purge…").click()
    page.get_by_role("button", name="Delete 2 dead letters").click()
    page.get_by_text("2 deleted.").wait_for()
    page.get_by_text("No dead letters.").wait_for()
    assert value(autoconn, letters) == 0
    assert TOKEN not in page.url


def test_all_dead_letters_are_replayed_and_failures_are_reported(look, autoconn, dead):
    configure(autoconn, dead, disable_insert=True)
    page = look(f"queue/{dead}/dead", token=TOKEN)
    page.get_by_role("button", name="Replay or purge…").click()
    give_token(page)
    page.get_by_role("button", name="Replay all…").click()
    page.get_by_role("button", name="Replay all", exact=True).click()
    page.get_by_text("0 replayed. 3 failed: Insert into queue disallowed").wait_for()
    configure(autoconn, dead, disable_insert=False)
    page.get_by_role("button", name="Replay all…").click()
    page.get_by_role("button", name="Replay all", exact=True).click()
    page.get_by_text("3 replayed.").wait_for()


def test_retries_are_listed_and_shown_in_full(look, autoconn, queue, consumer):
    send(autoconn, queue, "later " + "x" * 500 + " the end")
    tick(autoconn, queue)
    batch = receive(autoconn, queue, consumer)
    nack(autoconn, batch[0], "1 hour")
    ack(autoconn, batch)
    page = look(f"queue/{queue}/retries")
    page.get_by_role("row", name="later").wait_for()
    page.get_by_role("button", name="Show message").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("the end").wait_for()
    assert consumer in dialog.inner_text()
