"""JSON that Python cannot parse (too deeply nested, too long numbers) breaks no reader."""

import io
import json

import pytest

import pgque
from pgque.cli.ndjson import read
from pgque.cli.options import CommandError
from pgque.top.facts import of_letter, of_message
from pgque.top.message import described, laid_out
from pgque.watching.browse import Browser
from tests.fix_cli import cli
from tests.fix_engine import let_die, send, value

NESTED = "[" * 40_000 + "]" * 40_000
SHALLOWER = "[" * 900 + "]" * 900
LONG_NUMBER = "[" + "9" * 5000 + "]"
HUGE = "[1e400, NaN, -Infinity]"
ANY = [NESTED, SHALLOWER, LONG_NUMBER, HUGE, '"\\ud800"', "x" * 300_000]


def message(payload: str) -> pgque.Message:
    return pgque.Message(1, 2, "t", payload, 0, None, None, payload)


@pytest.mark.parametrize(
    ("payload", "words"),
    [(NESTED, "nested too deeply"), (LONG_NUMBER, "cannot be decoded"), ("[1,", "is not JSON")],
)
def test_a_message_says_why_it_cannot_be_decoded(payload, words):
    with pytest.raises(pgque.PgquePayloadError, match=words):
        message(payload).json()
    with pytest.raises(pgque.PgquePayloadError, match=words):
        _ = message(payload).headers


@pytest.mark.parametrize("payload", [SHALLOWER, "[" * 20_000, NESTED, LONG_NUMBER])
def test_the_pretty_printed_form_has_a_bounded_length(payload):
    shown = laid_out(payload)
    assert "".join(shown.split()) == payload
    assert len(shown) < 100 * len(payload)


def test_sent_lines_may_contain_numbers_of_any_length():
    assert [line.text for line in read(io.BytesIO(LONG_NUMBER.encode()))] == [LONG_NUMBER]
    with pytest.raises(CommandError, match="line 1 is nested too deeply"):
        list(read(io.BytesIO(NESTED.encode())))


@pytest.mark.parametrize("payload", ANY, ids=range(len(ANY)))
def test_commands_and_top_show_the_whole_payload(payload, autoconn, queue, consumer, dsn):
    send(autoconn, queue, payload)
    let_die(autoconn, queue, consumer, payload)
    browser = Browser(autoconn)
    [event] = browser.messages(queue).rows
    whole = of_message(browser, queue, event.place)
    assert whole is not None
    assert described(whole).plain
    letter = value(autoconn, "select dl_id from pgque.dead_letter")
    whole = of_letter(browser, letter)
    assert whole is not None
    assert described(whole).plain
    for call in (["tail", queue, "--since", "60", "--no-follow"], ["dead", "show", str(letter)]):
        done = cli(*call, "--json", PGQUE_DSN=dsn)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found.get("payload", found.get("ev_data")) == payload
        assert cli(*call, PGQUE_DSN=dsn).returncode == 0


def test_a_line_nested_too_deeply_is_one_line_of_error(dsn, queue):
    done = cli("send", queue, "--file", "-", stdin=NESTED, PGQUE_DSN=dsn)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "pgque: line 1 is nested too deeply and was not sent"
