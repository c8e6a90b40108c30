"""Consumers and tickers in forked children."""

import subprocess
import textwrap

import psycopg

from tests.fix_pooler import directly
from tests.running import PATIENCE, eventually, process
from tests.test_forks import HEAD, run


def test_a_child_that_returns_from_a_handler_exits(
    dsn: str, autoconn: psycopg.Connection, queue: str, consumer: str
) -> None:
    """It must neither touch the parent's transaction nor become a second consumer."""
    autoconn.execute("create table done (id int)")
    autoconn.execute("select pgque.send(%s, 'x')", [queue])
    printed = run(
        """
        one = pgque.Consumer(dsn, queue=queue, name=consumer, poll_interval=0.1)

        @one.on("*")
        def handle(message, client):
            client.conn.execute("insert into done values (1)")
            if (child := os.fork()) == 0:
                return
            os.waitpid(child, 0)
            one.stop()

        parent = os.getpid()
        try:
            one.start()
        except pgque.PgqueError as error:
            assert os.getpid() != parent
            print("child", str(error), flush=True)
            os._exit(1)
        print("parent")
        """,
        dsn,
        queue,
        consumer,
    )
    assert "os._exit" in printed
    assert printed.splitlines()[-1] == "parent"
    assert autoconn.execute("select count(*) from done").fetchone() == (1,)


def test_a_running_consumer_can_also_be_started_in_a_child(
    dsn: str, autoconn: psycopg.Connection, queue: str, consumer: str
) -> None:
    autoconn.execute("create table done (pid int)")
    script = """
        one = pgque.Consumer(dsn, queue=queue, name=consumer, poll_interval=0.1)

        @one.on("*")
        def handle(message, client):
            client.conn.execute("insert into done values (%s)", [os.getpid()])

        thread = threading.Thread(target=one.start)
        thread.start()
        while not one._received_once:
            time.sleep(0.01)
        one._stopping._cond.acquire()  # as if a thread held it at the moment of the fork
        child = fork.Process(target=one.start)
        child.start()
        one._stopping._cond.release()
        print(child.pid, flush=True)
        one.stop()
        thread.join()
        child.join()
    """
    with process(textwrap.dedent(HEAD) + textwrap.dedent(script), dsn, queue, consumer) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        autoconn.execute("select pgque.send(%s, 'x')", [queue])
        eventually(lambda: autoconn.execute("select pid from done").fetchone() == (pid,))
        subprocess.run(["kill", str(pid)], check=True)
        assert parent.wait(PATIENCE) == 0


@directly
def test_a_leading_ticker_does_not_lead_in_a_child(dsn: str) -> None:
    printed = run(
        """
        ticker = pgque.Ticker(dsn)
        thread = threading.Thread(target=ticker.run)
        thread.start()
        while not ticker.leading:
            time.sleep(0.01)

        def tick():
            threading.Timer(1.5, ticker.stop).start()
            seen = []
            ticker.add_chore(lambda conn: seen.append(ticker.leading), 0.1)
            ticker.run()
            return any(seen), len(seen) > 1

        print(in_child(tick), ticker.leading)
        ticker.stop()
        thread.join()
        """,
        dsn,
        "",
        "",
    )
    assert printed.strip() == "(False, True) True"
