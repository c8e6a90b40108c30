"""The dashboard on a separate server, for HTTP clients and for a browser."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from starlette.applications import Starlette

from pgque.dashboard import create_app
from pgque.dashboard.serve import bind, make_server
from tests.fix_engine import let_die, send_many
from tests.running import PATIENCE, eventually

CHROMIUM = Path("/usr/bin/chromium")
TOKEN = "a-token-for-the-tests"
NOWHERE = "host=/nowhere dbname=shop"


@dataclass
class Served:
    """An application that is served at an address."""

    app: Any
    url: str
    port: int

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=PATIENCE, **options)


@contextlib.contextmanager
def serving(app: Any, port: int = 0) -> Iterator[Served]:
    """Serve an application in a thread."""
    with bind("127.0.0.1", port) as listening:
        server = make_server(app)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            eventually(lambda: server.started or not thread.is_alive(), "the server")
            port = listening.getsockname()[1]
            yield Served(app, f"http://127.0.0.1:{port}", port)
        finally:
            server.should_exit = True
            context = getattr(app.state, "context", None)
            if context is not None:
                context.streams.close()
            thread.join(PATIENCE)
            assert not thread.is_alive(), "the server did not stop"


Serve = Callable[..., Served]


@pytest.fixture
def serve(dsn: str) -> Iterator[Serve]:
    """Serve dashboards of the test's database, sampled ten times a second by default."""
    with contextlib.ExitStack() as stack:

        def serve(dsn: str = dsn, *, every: float = 0.1, **options: Any) -> Served:
            app: Starlette = create_app(dsn, every=every, **options)
            return stack.enter_context(serving(app))

        yield serve


@pytest.fixture
def ask(serve: Serve) -> Iterator[httpx.Client]:
    """An HTTP client of a dashboard with a token, which it sends in every request."""
    with serve(token=TOKEN).client(headers={"X-Pgque-Token": TOKEN}) as client:
        yield client


@pytest.fixture
def closed(server_dsn: str, dsn: str) -> Callable[[bool], None]:
    """Close the test's database and end its sessions, or open it again."""
    name = conninfo_to_dict(dsn)["dbname"]

    def closed(yes: bool) -> None:
        with psycopg.connect(server_dsn, autocommit=True) as conn:
            conn.execute(
                sql.SQL("alter database {} allow_connections {}").format(
                    sql.Identifier(str(name)), sql.Literal(not yes)
                )
            )
            if yes:
                conn.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s",
                    [name],
                )

    return closed


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """A headless Chromium. While it is open, no other test of this process can run a loop."""
    if not CHROMIUM.exists():
        pytest.skip("chromium is not installed")
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=str(CHROMIUM),
            args=["--no-sandbox", "--disable-gpu"] if os.geteuid() == 0 else ["--disable-gpu"],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page in a fresh browser context; errors and warnings in its console fail the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    page = context.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "console",
        lambda said: (
            complaints.append(said.text)
            if said.type in {"error", "warning"} and "Failed to load resource" not in said.text
            else None
        ),
    )
    yield page
    context.close()
    assert complaints == []


@pytest.fixture
def look(serve: Serve, page: Any) -> Callable[..., Any]:
    """Open a dashboard's page at a location."""

    def look(where: str = "", **options: Any) -> Any:
        page.goto(f"{serve(every=0.2, **options).url}/#/{where}")
        return page

    return look


@pytest.fixture
def dead(autoconn: Any, queue: str, consumer: str) -> str:
    """A queue with three dead letters."""
    send_many(autoconn, queue, 3)
    let_die(autoconn, queue, consumer)
    return queue
