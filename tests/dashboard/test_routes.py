"""The requests and changes of the page, over HTTP (pgque/dashboard/reads.py, changes.py)."""

import re

import httpx
import psycopg
import pytest
from fastapi import FastAPI
from psycopg.conninfo import make_conninfo

from pgque.dashboard import changes, create_app
from pgque.dashboard.answers import LONGEST_BODY
from tests.dashboard.conftest import NOWHERE, TOKEN, serving
from tests.fix_engine import configure, nack, receive, send, send_many, tick, value


def letters(ask, queue):
    return [row["letter"] for row in ask.get("/api/dead", params={"queue": queue}).json()["rows"]]


@pytest.fixture(scope="module")
def nowhere():
    """An HTTP client of a dashboard whose database does not exist."""
    with serving(create_app(NOWHERE, token=TOKEN)) as served:
        headers = {"X-Pgque-Token": TOKEN, "Content-Type": "application/json"}
        with served.client(headers=headers) as client:
            yield client


def test_messages_are_read_one_page_at_a_time(ask, autoconn, queue):
    send_many(autoconn, queue, 5)
    page = ask.get("/api/messages", params={"queue": queue, "limit": 2}).json()
    assert [row["payload"] for row in page["rows"]] == ["5", "4"]
    after = {"queue": queue, "after": page["more"], "text": "1"}
    assert len(ask.get("/api/messages", params=after).json()["rows"]) == 1
    [row] = ask.get("/api/messages", params=after).json()["rows"]
    whole = ask.get("/api/message", params={"queue": queue, "place": row["place"]}).json()["row"]
    assert (whole["payload"], whole["type"]) == ("1", "default")


def test_ids_are_strings_because_javascript_would_round_them(ask, autoconn, queue, consumer):
    send(autoconn, queue)
    tick(autoconn, queue)
    [message] = receive(autoconn, queue, consumer)
    nack(autoconn, message, "1 hour")
    [row] = ask.get("/api/retries", params={"queue": queue}).json()["rows"]
    assert row["id"] == str(message.msg_id)
    whole = ask.get("/api/retry", params={"place": row["place"]}).json()["row"]
    assert (whole["id"], whole["consumer"]) == (row["id"], consumer)
    assert ask.get("/api/retry", params={"place": "77-77"}).json() == {"row": None}


def test_the_size_of_a_page_is_limited(ask, autoconn, queue):
    send_many(autoconn, queue, 300)
    answer = ask.get("/api/messages", params={"queue": queue, "limit": 1_000_000})
    assert len(answer.json()["rows"]) == 200


@pytest.mark.parametrize(
    ("path", "params", "words"),
    [
        ("messages", {}, "queue is missing"),
        ("messages", {"queue": "q", "limit": "many"}, "limit must be a number"),
        ("messages", {"queue": "q", "limit": "-1"}, "limit is out of range"),
        ("messages", {"queue": "q", "after": "1"}, "after is not a place"),
        ("messages", {"queue": "q", "after": "1-²"}, "after is not a place"),
        ("messages", {"queue": "q", "until": "soon"}, "until must be a time"),
        ("messages", {"queue": "q", "until": "2026-01-01T00:00:00"}, "time zone"),
        ("message", {"queue": "q", "place": "1-2-3"}, "place is not a place"),
        ("message", {"queue": "q", "place": f"{2**64}-1"}, "out of range"),
        ("letter", {"letter": "x"}, "letter must be a number"),
        ("purgeable", {"queue": "q", "days": "nan"}, "out of range"),
        ("purgeable", {"queue": "q", "days": "inf"}, "out of range"),
    ],
)
def test_the_error_names_a_bad_parameter(nowhere, path, params, words):
    answer = nowhere.get(f"/api/{path}", params=params)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


def test_an_unknown_queue_and_a_missing_dead_letter_are_404(ask):
    for path in ("messages", "dead", "retries"):
        answer = ask.get(f"/api/{path}", params={"queue": "nobody"})
        assert answer.status_code == 404
        assert answer.json()["error"].startswith("queue not found: nobody")
    answer = ask.get("/api/letter", params={"letter": 77})
    assert (answer.status_code, "77" in answer.json()["error"]) == (404, True)


def test_an_unreachable_database_is_reported(nowhere):
    answer = nowhere.get("/api/messages", params={"queue": "q"})
    assert answer.status_code == 503
    assert "/nowhere" in answer.json()["error"]


def test_a_role_without_the_right_learns_which_one_to_grant(serve, dsn, new_role):
    with serve(make_conninfo(dsn, user=new_role())).client() as client:
        answer = client.get("/api/messages", params={"queue": "q"})
    assert answer.status_code == 403
    assert "pgque_reader" in answer.json()["error"]


def test_a_slow_statement_is_cancelled(ask, queue, autoconn, monkeypatch):
    monkeypatch.setattr("pgque.watching.browse.PATIENCE", 1)
    monkeypatch.setattr(
        "pgque.watching.browse._matches",
        lambda *_: [(psycopg.sql.SQL("(select true from pg_sleep(30))"), [])],
    )
    send(autoconn, queue)
    answer = ask.get("/api/messages", params={"queue": queue})
    assert answer.status_code == 503
    assert "took too long" in answer.json()["error"]


def test_dead_letters_are_replayed(ask, autoconn, dead):
    chosen = letters(ask, dead)[:2]
    answer = ask.post("/api/replay", json={"letters": [*chosen, "999"]}).json()
    assert answer == {"replayed": 2, "failed": [{"letter": "999", "error": "it no longer exists"}]}
    assert len(letters(ask, dead)) == 1
    newest = ask.get("/api/messages", params={"queue": dead, "limit": 2}).json()["rows"]
    assert sorted(row["payload"] for row in newest) == ["2", "3"]


def test_a_failed_replay_is_reported(ask, autoconn, dead):
    configure(autoconn, dead, disable_insert=True)
    answer = ask.post("/api/replay", json={"letters": letters(ask, dead)}).json()
    assert answer["replayed"] == 0
    assert "disallowed" in answer["failed"][0]["error"]
    answer = ask.post("/api/replay-all", json={"queue": dead}).json()
    assert (answer["replayed"], answer["failures"]) == (0, 3)
    assert "disallowed" in answer["failed"][0]["error"]
    assert len(letters(ask, dead)) == 3


def test_all_dead_letters_are_replayed(ask, dead):
    answer = ask.post("/api/replay-all", json={"queue": dead}).json()
    assert answer == {"replayed": 3, "failed": [], "failures": 0}
    assert letters(ask, dead) == []


def test_dead_letters_are_purged_by_age(ask, autoconn, dead):
    autoconn.execute(
        "update pgque.dead_letter set dl_time = dl_time - interval '40 days' where ev_data = '1'"
    )
    older = {"queue": dead, "days": 30}
    assert ask.get("/api/purgeable", params=older).json() == {"count": 1}
    assert ask.get("/api/purgeable", params={**older, "days": 0}).json() == {"count": 3}
    assert ask.get("/api/purgeable", params={**older, "days": 1e12}).status_code == 400
    assert ask.post("/api/purge", json={"queue": dead, "days": 30}).json() == {"deleted": 1}
    assert len(letters(ask, dead)) == 2


@pytest.mark.parametrize(
    ("path", "content"),
    [
        ("replay", "{}"),
        ("replay", '{"letters": []}'),
        ("replay", '{"letters": ["x"]}'),
        ("replay", '{"letters": [' + "1," * changes.IDS_AT_MOST + "1]}"),
        ("replay-all", "{}"),
        ("purge", '{"queue": "q"}'),
        ("purge", '{"queue": "q", "days": -1}'),
        ("purge", '{"queue": ["q"], "days": 1}'),
        ("purge", "[1]"),
        ("purge", "{half"),
        ("purge", '{"queue": "' + "q" * LONGEST_BODY + '"}'),
    ],
)
def test_a_bad_change_is_refused_before_the_database_is_queried(nowhere, path, content):
    assert nowhere.post(f"/api/{path}", content=content).status_code == 400


def test_without_a_token_dead_letters_are_kept(serve, autoconn, dead):
    with serve().client() as client:
        assert client.post("/api/purge", json={"queue": dead, "days": 0}).status_code == 403
        assert client.post("/api/replay-all", json={"queue": dead}).status_code == 403
    assert value(autoconn, "select count(*) from pgque.dead_letter") == 3


def test_the_dashboard_can_be_mounted_in_an_application(dsn, autoconn, queue):
    application = FastAPI()
    mounted = create_app(dsn, every=0.1)
    application.mount("/internal/queues", mounted)
    with serving(application) as served, served.client() as client:
        moved = client.get("/internal/queues")
        assert moved.headers["Location"].endswith("/internal/queues/")
        assert "static/main.js" in client.get("/internal/queues/").text
        assert client.get("/internal/queues/static/main.js").status_code == 200
        send(autoconn, queue, "x")
        found = client.get("/internal/queues/api/messages", params={"queue": queue})
        assert [row["payload"] for row in found.json()["rows"]] == ["x"]
        assert client.post("/internal/queues/api/purge", json={}).status_code == 403
        with client.stream("GET", "/internal/queues/api/stream") as answer:
            assert next(line for line in answer.iter_lines() if "data: " in line)
    mounted.state.context.sampler.stop()


def test_static_files_have_their_types(ask):
    types = {
        "main.js": "text/javascript",
        "style.css": "text/css",
        "icon.svg": "image/svg+xml",
    }
    for name, kind in types.items():
        answer: httpx.Response = ask.get(f"/static/{name}")
        assert answer.headers["Content-Type"].startswith(kind)
    assert ask.get("/static/../app.py").status_code == 404
    assert ask.get("/static/%2e%2e/app.py").status_code == 404


def test_a_private_dashboard_describes_itself_to_clients_with_the_token(serve):
    with serve(token=TOKEN, private=True).client(headers={"X-Pgque-Token": TOKEN}) as client:
        about = client.get("/api/about").json()
    assert (about["changes"], about["private"]) == (True, True)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ('{"letters": ' + "[" * 30_000 + "]" * 30_000 + "}", "nested too deeply"),
        ("[" * 30_000, "nested too deeply"),
        ('{"letters": [' + "9" * 5000 + "]}", "is not JSON|must be a number|out of range"),
        ('{"letters": [1e999]}', "must be a number"),
        ('{"letters": [NaN]}', "must be a number"),
        ('{"letters": [-1]}', "out of range"),
        ('{"letters": ["\\ud800"]}', "must be a number"),
    ],
)
def test_json_that_python_cannot_parse_is_refused_with_an_explanation(ask, queue, sent, words):
    headers = {"Content-Type": "application/json"}
    answer = ask.post("/api/replay", content=sent, headers=headers)
    assert answer.status_code == 400
    assert re.search(words, answer.json()["error"])


@pytest.mark.parametrize("name", ["\\ud800", "\\u0000", "x" * 60_000])
@pytest.mark.parametrize("path", ["replay-all", "purge"])
def test_a_name_that_no_queue_can_have_is_refused_with_an_explanation(ask, name, path):
    answer = ask.post(
        f"/api/{path}",
        content=f'{{"queue": "{name}", "days": 1}}',
        headers={"Content-Type": "application/json"},
    )
    assert 400 <= answer.status_code < 500
    assert answer.json()["error"]


@pytest.mark.parametrize(
    "payload", ["[" * 100_000 + "]" * 100_000, "9" * 100_000, "NaN", "\\ud800"]
)
def test_any_payload_can_be_read(ask, autoconn, queue, payload):
    send(autoconn, queue, payload)
    [row] = ask.get("/api/messages", params={"queue": queue}).json()["rows"]
    whole = ask.get("/api/message", params={"queue": queue, "place": row["place"]}).json()["row"]
    assert whole["payload"] == payload
