"""Processes that fork: children inherit neither signal handlers nor connections."""

import subprocess
import sys
import textwrap

import psycopg
import pytest

from tests.running import PATIENCE

HEAD = """
    import multiprocessing, os, sys, threading, time
    import psycopg, pgque
    dsn, queue, consumer = sys.argv[1:]
    fork = multiprocessing.get_context("fork")

    def in_child(work):
        # Fork, run work in the child, and return the text of its result or error.
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                said = work()
                os.write(writer, str(said).encode())
                status = 0
            except BaseException as error:
                os.write(writer, f"{type(error).__name__}: {error}".encode())
            finally:
                os._exit(status)
        os.close(writer)
        with os.fdopen(reader) as said:
            text = said.read()
        os.waitpid(pid, 0)
        return text
"""


def run(script: str, *arguments: str) -> str:
    """Run a script in a separate process; return its output."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(HEAD) + textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Signals


@pytest.mark.parametrize(
    "work",
    [
        "with fork.Pool(2) as pool: print(pool.map(abs, [-1, -2]))",
        "child = fork.Process(target=time.sleep, args=[600]); child.start(); child.terminate(); "
        "child.join(); print(child.exitcode)",
    ],
    ids=["pool", "terminate"],
)
def test_children_of_a_handler_can_be_terminated(
    dsn: str, autoconn: psycopg.Connection, queue: str, consumer: str, work: str
) -> None:
    """They have the signal handlers from before `start`, so SIGTERM terminates them."""
    autoconn.execute("select pgque.send(%s, 'x')", [queue])
    printed = run(
        f"""
        one = pgque.Consumer(dsn, queue=queue, name=consumer, poll_interval=0.1)

        @one.on("*")
        def handle(message):
            {work}
            one.stop()

        one.start()
        """,
        dsn,
        queue,
        consumer,
    )
    assert printed.strip() in {"[1, 2]", "-15"}


def test_a_signal_to_a_forked_child_does_not_stop_the_ticker(dsn: str) -> None:
    printed = run(
        """
        import signal
        from pgque.wire.background import stop_on_signals
        stopped = []
        signal.signal(signal.SIGTERM, lambda *_: print("theirs", flush=True))
        with stop_on_signals(lambda: stopped.append(os.getpid())):
            in_child(lambda: os.kill(os.getpid(), signal.SIGTERM))
            os.kill(os.getpid(), signal.SIGTERM)
        print(stopped == [os.getpid()])
        """,
        dsn,
        "",
        "",
    )
    assert printed.splitlines() == ["theirs", "True"]


def test_a_fork_after_the_block_keeps_the_applications_handlers(dsn: str) -> None:
    printed = run(
        """
        import signal
        from pgque.wire.background import stop_on_signals
        with stop_on_signals(lambda: None):
            pass
        signal.signal(signal.SIGTERM, lambda *_: print("theirs", flush=True))
        in_child(lambda: os.kill(os.getpid(), signal.SIGTERM))
        """,
        dsn,
        "",
        "",
    )
    assert printed.strip() == "theirs"


# Pools


def test_a_pool_opened_before_a_fork_opens_new_connections_in_each_process(
    dsn: str, autoconn: psycopg.Connection, queue: str, consumer: str
) -> None:
    printed = run(
        """
        pool = pgque.ClientPool(dsn, max_size=1)

        def backend():
            with pool.client() as client:
                client.send(queue, os.getpid())
                return client.conn.info.backend_pid

        ours = {backend()}
        theirs = {int(in_child(backend)) for _ in range(3)}
        print(len(theirs), ours & theirs, in_child(lambda: {backend(), backend()} & ours))
        print({backend(), backend()} == ours)
        pool.close()
        """,
        dsn,
        queue,
        consumer,
    )
    assert printed.splitlines() == ["3 set() set()", "True"]
    assert autoconn.execute("select count(*) from pgque.event_1").fetchone() == (8,)


def test_a_child_that_exits_leaves_its_parents_pool_open(
    dsn: str, queue: str, consumer: str
) -> None:
    printed = run(
        """
        with pgque.ClientPool(dsn, max_size=1) as pool:
            with pool.client() as client:
                client.send(queue, "before")
            if os.fork() == 0:
                with pool.client() as client:
                    client.send(queue, "child")
                sys.exit(0)  # leaves the block, and closes what is its own
            assert os.wait()[1] == 0
            with pool.client() as client:
                client.send(queue, "after")
        print("fine")
        """,
        dsn,
        queue,
        consumer,
    )
    assert printed == "fine\n"


def test_a_client_borrowed_before_a_fork_stays_with_the_parent(
    dsn: str, autoconn: psycopg.Connection, queue: str, consumer: str
) -> None:
    printed = run(
        """
        pool = pgque.ClientPool(dsn, max_size=1)
        child = None
        try:
            with pool.client() as client:
                client.send(queue, "once")
                child = os.fork()
                if child:
                    os.waitpid(child, 0)
        except pgque.PgqueConnectionError as error:
            print(os.getpid() != parent if (parent := os.getppid()) and child == 0 else "parent")
            print(str(error))
        if child == 0:
            sys.stdout.flush()
            os._exit(0)
        pool.close()
        print("committed")
        """,
        dsn,
        queue,
        consumer,
    )
    lines = printed.splitlines()
    assert lines[0] == "True"
    assert "belongs to process" in lines[1]
    assert lines[-1] == "committed"
    assert autoconn.execute("select count(*) from pgque.event_1").fetchone() == (1,)


def test_a_closed_pool_stays_closed_in_a_child(dsn: str) -> None:
    printed = run(
        """
        pool = pgque.ClientPool(dsn, open=False)

        def use():
            with pool.client() as client:
                return client.conn.info.backend_pid > 0

        print(in_child(use).split(":")[0])
        pool.open()
        pool.close()
        print(in_child(use).split(":")[0])
        print(in_child(lambda: pool.open() or use()))
        """,
        dsn,
        "",
        "",
    )
    assert printed.split() == ["PgqueConnectionError", "PgqueConnectionError", "True"]


# Clients


USES = {
    "send": "client.send(queue, 'x')",
    "receive": "client.receive(queue, consumer)",
    "info": "client.queue_info()",
    "conn": "client.conn.execute('select 1')",
    "raw": "conn.execute('select 1')",
}


@pytest.mark.parametrize("use", USES)
def test_a_child_cannot_use_its_parents_client(
    dsn: str, autoconn: psycopg.Connection, queue: str, consumer: str, use: str
) -> None:
    printed = run(
        f"""
        client = pgque.connect(dsn, autocommit=True)
        conn = client.conn
        client.send(queue, "mine")
        print(in_child(lambda: {USES[use]}))
        client.send(queue, "still mine")
        client.close()
        """,
        dsn,
        queue,
        consumer,
    )
    kind = "OperationalError" if use == "raw" else "PgqueConnectionError"
    assert printed.startswith(kind)
    assert ("pgque.connect" in printed) == (use != "raw")
    assert autoconn.execute("select count(*) from pgque.event_1").fetchone() == (2,)


@pytest.mark.parametrize(
    "end", ["client.close()", "client.__exit__(None, None, None)", "conn.close()"]
)
def test_a_child_that_closes_a_client_keeps_its_parents_session_open(
    dsn: str, queue: str, consumer: str, end: str
) -> None:
    printed = run(
        f"""
        client = pgque.connect(dsn)
        conn = client.conn
        client.send(queue, "mine")
        in_child(lambda: {end})
        client.conn.commit()
        client.close()
        print("fine")
        """,
        dsn,
        queue,
        consumer,
    )
    assert printed == "fine\n"


def test_a_child_can_use_a_borrowed_connection_only_through_a_new_client(
    dsn: str, queue: str, consumer: str
) -> None:
    """A process that turns into a daemon may keep the connection by creating a new client."""
    printed = run(
        """
        conn = psycopg.connect(dsn, autocommit=True)
        client = pgque.PgqueClient(conn)
        print(in_child(lambda: client.send(queue, "x")))
        print(in_child(lambda: pgque.PgqueClient(conn).send(queue, "x")))
        """,
        dsn,
        queue,
        consumer,
    )
    refused, sent = printed.splitlines()[0], printed.splitlines()[-1]
    assert "belongs to process" in refused
    assert sent == "1"
