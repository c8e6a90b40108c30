"""Consumers in threads of a server (pgque/threads.py)."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
from fastapi import FastAPI

import pgque
from pgque import Consumer
from pgque.threads import Consuming
from tests.running import PATIENCE, eventually


class Mortal(Consumer):
    """A consumer that ends with an error once `last` is set, as after a fault in pgque."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.last = threading.Event()

    def _wait(self, seconds: float) -> None:
        if self.last.is_set():
            raise RuntimeError("it ends here")
        super()._wait(min(seconds, 0.05))


@pytest.fixture
def new(dsn: str, queue: str, consumer: str) -> Callable[..., Mortal]:
    def new(**options: Any) -> Mortal:
        one = Mortal(dsn, **{"queue": queue, "name": consumer, **options})
        one.on("*")(lambda message: None)
        return one

    return new


def test_consumers_run_within_the_block(
    new: Callable[..., Consumer], autoconn: psycopg.Connection, queue: str
) -> None:
    got: list[str | None] = []
    one = new()
    one.on("t")(lambda message: got.append(message.payload))
    with Consuming(one) as consuming:
        assert one.working
        assert consuming.alive
        autoconn.execute("select pgque.send(%s, 't', 'x')", [queue])
        eventually(lambda: got == ["x"])
    assert not consuming.alive


def test_an_error_that_prevents_the_start_is_raised(new: Callable[..., Consumer]) -> None:
    """Consumers that could start are stopped again."""
    good, bad = new(), new(name="stranger")
    with pytest.raises(pgque.PgqueConsumerNotFound), Consuming(good, bad):
        pass
    assert threading.active_count() == 1 or not any(
        thread.name.startswith("pgque consumer") for thread in threading.enumerate()
    )


def test_a_consumer_that_ends_later_is_reported(
    new: Callable[..., Mortal], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[BaseException] = []
    one = new()
    with Consuming(one, on_failure=told.append) as consuming:
        one.last.set()
        eventually(lambda: told)
        eventually(lambda: not consuming.alive)
    assert [str(error) for error in told] == ["it ends here"]
    assert "ended" in caplog.text


def test_by_default_the_process_is_asked_to_terminate(new: Callable[..., Mortal]) -> None:
    asked = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set())
    try:
        one = new()
        with Consuming(one):
            one.last.set()
            assert asked.wait(PATIENCE)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_application_whose_consumer_cannot_start_does_not_start(
    new: Callable[..., Consumer],
) -> None:
    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Consuming(new(name="stranger")):
            yield

    async def start() -> None:
        app = FastAPI(lifespan=lifespan)
        async with app.router.lifespan_context(app):
            raise AssertionError("it has started")

    with pytest.raises(pgque.PgqueConsumerNotFound):
        asyncio.run(start())


def test_leaving_the_block_does_not_block_the_event_loop(
    new: Callable[..., Consumer], autoconn: psycopg.Connection, queue: str
) -> None:
    """A handler that needs the loop can still finish."""
    done: list[int] = []
    entered = threading.Event()
    one = new()

    async def serve() -> None:
        loop = asyncio.get_running_loop()

        @one.on("t")
        def handle(message: pgque.Message) -> None:
            entered.set()
            future = asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05, 7), loop)
            done.append(future.result(PATIENCE))

        async with Consuming(one):
            autoconn.execute("select pgque.send(%s, 't', 'x')", [queue])
            await asyncio.to_thread(entered.wait, PATIENCE)

    asyncio.run(serve())
    assert done == [7]


@pytest.mark.parametrize("consumers", [(), ("orders",)])
def test_only_consumers_are_accepted(consumers: tuple[Any, ...]) -> None:
    with pytest.raises(pgque.PgqueInvalidArgument, match="at least one"):
        Consuming(*consumers)


@pytest.mark.parametrize("subscribed", [True, False])
def test_a_server_without_its_consumer_stops(
    dsn: str, queue: str, consumer: str, tmp_path: Any, subscribed: bool
) -> None:
    """A real uvicorn refuses to start, or stops when its consumer ends."""
    (tmp_path / "api.py").write_text(
        textwrap.dedent(
            f"""
            import os
            from contextlib import asynccontextmanager
            from fastapi import FastAPI
            from pgque.threads import Consuming
            from tests.test_threads import Mortal

            consumer = Mortal({dsn!r}, queue={queue!r}, name={consumer if subscribed else "x"!r})

            @asynccontextmanager
            async def lifespan(app):
                async with Consuming(consumer):
                    print("up", flush=True)
                    consumer.last.set()
                    yield
                    print("down", flush=True)

            app = FastAPI(lifespan=lifespan)
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "uvicorn", "api:app", "--uds", str(tmp_path / "socket")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    assert done.stdout.split() == (["up", "down"] if subscribed else [])
    assert ("it ends here" if subscribed else "Not subscriber") in done.stderr
