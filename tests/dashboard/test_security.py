"""Who can read, and who can change something (pgque/dashboard/security.py)."""

import logging
import re
from pathlib import Path

import pytest

from pgque import dashboard
from pgque.dashboard import create_app
from pgque.dashboard.security import host_name
from pgque.errors import PgqueError, PgqueInvalidArgument
from tests.dashboard.conftest import NOWHERE, TOKEN, serving

STATIC = Path(dashboard.__file__).parent / "static"
CHANGES = ("token", "replay", "replay-all", "purge")
READS = (
    "about",
    "history",
    "messages",
    "message",
    "dead",
    "letter",
    "retries",
    "retry",
    "purgeable",
)


def served_module(**options):
    with serving(create_app(NOWHERE, **options)) as served, served.client() as client:
        yield client


@pytest.fixture(scope="module")
def read_only():
    yield from served_module()


@pytest.fixture(scope="module")
def with_token():
    yield from served_module(token=TOKEN)


@pytest.fixture(scope="module")
def private():
    yield from served_module(token=TOKEN, private=True, allowed_hosts=["127.0.0.1", "dash.test"])


def code(answer):
    return answer.status_code, answer.json()["code"]


@pytest.mark.parametrize("path", CHANGES)
def test_without_a_token_nothing_can_be_changed(read_only, path):
    for headers in ({}, {"X-Pgque-Token": ""}, {"X-Pgque-Token": TOKEN}):
        answer = read_only.post(f"/api/{path}", json={"queue": "q", "days": 0}, headers=headers)
        assert code(answer) == (403, "read-only")


@pytest.mark.parametrize("path", CHANGES)
def test_a_change_needs_the_right_token(with_token, path):
    for wrong in ({}, {"X-Pgque-Token": ""}, {"X-Pgque-Token": TOKEN[:-1]}):
        assert code(with_token.post(f"/api/{path}", json={}, headers=wrong)) == (403, "token")
    in_the_url = with_token.post(f"/api/{path}?token={TOKEN}&X-Pgque-Token={TOKEN}", json={})
    assert code(in_the_url) == (403, "token")


def test_the_right_token_is_accepted(with_token):
    answer = with_token.post("/api/token", json={}, headers={"X-Pgque-Token": TOKEN})
    assert answer.json() == {"right": True}


def test_a_get_request_changes_nothing(with_token):
    for path in CHANGES:
        assert with_token.get(f"/api/{path}", headers={"X-Pgque-Token": TOKEN}).status_code == 405


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.test"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_site_cannot_change_anything_even_with_the_token(with_token, headers):
    answer = with_token.post("/api/token", json={}, headers={"X-Pgque-Token": TOKEN, **headers})
    assert code(answer) == (403, "origin")


def test_the_dashboards_own_page_can_make_changes(with_token):
    own = str(with_token.base_url).rstrip("/")
    headers = {"X-Pgque-Token": TOKEN, "Origin": own, "Sec-Fetch-Site": "same-origin"}
    assert with_token.post("/api/token", json={}, headers=headers).status_code == 200


def test_a_form_cannot_change_anything(with_token):
    headers = {"X-Pgque-Token": TOKEN}
    assert code(with_token.post("/api/token", data={"a": "b"}, headers=headers)) == (415, "type")


def test_another_site_cannot_read_anything(read_only):
    headers = {"Sec-Fetch-Site": "cross-site"}
    assert code(read_only.get("/api/about", headers=headers)) == (403, "origin")


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/api/about", "/nothing"])
def test_a_foreign_host_name_is_refused(read_only, path):
    for host in ("evil.test", "evil.test:80", "127.0.0.1.evil.test", "localhost@evil.test", ""):
        answer = read_only.get(path, headers={"Host": host})
        assert code(answer) == (421, "host")
    for host in ("localhost", "LOCALHOST:99", "127.0.0.1", "[::1]:8742"):
        assert read_only.get(path, headers={"Host": host}).status_code in {200, 404}


def test_host_names_can_be_allowed(private):
    assert private.get("/", headers={"Host": "dash.test:8742"}).status_code == 200
    assert private.get("/", headers={"Host": "localhost"}).status_code == 421


def test_host_headers_are_parsed():
    hosts = ["A.test:80", "[::1]:80", "[::1]", "a.test", ""]
    assert [*map(host_name, hosts)] == ["a.test", "::1", "::1", "a.test", ""]


@pytest.mark.parametrize("path", READS)
def test_a_private_dashboard_shows_nothing_without_its_token(private, path):
    assert code(private.get(f"/api/{path}")) == (403, "token")
    assert code(private.get(f"/api/{path}?token={TOKEN}")) == (403, "token")


def test_a_private_stream_also_needs_the_token(private):
    assert code(private.get("/api/stream")) == (403, "token")
    assert private.get("/api/about", headers={"X-Pgque-Token": TOKEN}).json()["private"]
    assert private.get("/").status_code == 200  # the page that asks for the token


@pytest.mark.parametrize(
    "path", ["/", "/static/main.js", "/api/about", "/nothing", "/api/messages"]
)
@pytest.mark.parametrize("host", ["localhost", "evil.test"])
def test_every_answer_restricts_the_browser(read_only, path, host):
    headers = read_only.get(path, headers={"Host": host}).headers
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'self'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] in {"no-store", "no-cache"}


def test_the_page_contains_nothing_inline_or_from_elsewhere():
    page = (STATIC / "index.html").read_text()
    assert re.findall(r"<script(?![^>]*\bsrc=)|\bstyle=|<style|\son\w+=|javascript:", page) == []
    for file in STATIC.iterdir():
        text = file.read_text()
        outside = set(re.findall(r"\b(?:https?|wss?):?//[^\s\"']+", text))
        assert outside <= {"http://www.w3.org/2000/svg"}, file
        assert not re.search(r"@import|innerHTML|outerHTML|insertAdjacent|document\.write", text)


@pytest.mark.parametrize(
    "options",
    [
        {"token": ""},
        {"token": "short"},
        {"token": "sixteen and blanks"},
        {"token": "sixteen-or-more-ü"},
        {"private": True},
    ],
)
def test_unsafe_options_are_refused(options):
    with pytest.raises(PgqueInvalidArgument, match="token"):
        create_app(NOWHERE, **options)


def test_a_bad_dsn_is_refused_at_the_start():
    with pytest.raises(PgqueError):
        create_app("no such thing")


def test_tokens_and_passwords_are_neither_shown_nor_logged(caplog):
    caplog.set_level(logging.DEBUG)
    dsn = "host=/nowhere dbname=shop user=ada password=geheim"
    with serving(create_app(dsn, token=TOKEN)) as served, served.client() as client:
        headers = {"X-Pgque-Token": TOKEN}
        for path in ("about", "messages?queue=q", "history"):
            assert "geheim" not in client.get(f"/api/{path}", headers=headers).text
        client.post("/api/purge", json={"queue": "q", "days": 1}, headers=headers)
        with client.stream("GET", "/api/stream") as answer:
            frame = next(line for line in answer.iter_lines() if line.startswith("data: "))
            assert "geheim" not in frame
    assert "geheim" not in caplog.text
    assert TOKEN not in caplog.text
