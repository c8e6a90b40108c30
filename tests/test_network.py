"""A silent network, and clients that hang or vanish: no session waits for hours.

bench/chaos tests TCP itself with lost packets; these tests check the settings that pgque makes.
"""

import random
import signal
import threading

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

import pgque
from bench.chaos.proxy import Proxy
from pgque import ClientPool, Consumer, Ticker
from pgque.install import install
from pgque.wire.background import LONGEST_PAUSE, Backoff
from pgque.wire.calls import connection_defaults
from pgque.wire.wakeup import Wakeup
from tests.running import eventually, free_port, process, running

TICKER = """
    import sys, pgque
    pgque.Ticker(sys.argv[1]).run()
"""


@pytest.fixture
def proxy(dsn):
    given = conninfo_to_dict(dsn)
    host, port = given.get("host", "localhost"), given.get("port", "5432")
    upstream = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, int(port))
    with Proxy(upstream) as proxy:
        yield proxy


@pytest.fixture
def proxied_dsn(proxy, dsn):
    given = conninfo_to_dict(dsn) | {"host": "127.0.0.1", "port": proxy.port}
    return psycopg.conninfo.make_conninfo("", **given)


def opened(dsn: str) -> list[dict[str, str]]:
    """The parameters of each kind of connection that pgque opens."""
    with (
        pgque.connect(dsn) as client,
        Wakeup(dsn, ()) as wakeup,
        ClientPool(dsn) as pool,
        pool.client() as lent,
    ):
        return [each.conn.info.get_parameters() for each in (client, wakeup, lent)]


def test_pgques_own_connections_give_up_on_a_silent_network(dsn):
    for parameters in opened(dsn):
        assert parameters["connect_timeout"] == "5"
        assert parameters["tcp_user_timeout"] == "10000"
        assert parameters["keepalives_idle"] == "5"


def test_settings_in_the_dsn_take_precedence(dsn):
    dsn = psycopg.conninfo.make_conninfo(dsn, connect_timeout=7, tcp_user_timeout=0)
    for parameters in opened(dsn):
        assert parameters["connect_timeout"] == "7"
        assert parameters["tcp_user_timeout"] == "0"
        assert parameters["keepalives_idle"] == "5"


def test_settings_in_the_environment_take_precedence(monkeypatch):
    assert connection_defaults("")["connect_timeout"] == 5
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "7")
    assert "connect_timeout" not in connection_defaults("")


def test_p5_the_server_is_configured_to_notice_vanished_clients(tcp_dsn):
    query = "select current_setting('tcp_user_timeout'), current_setting('tcp_keepalives_idle')"
    with (
        pgque.connect(tcp_dsn) as client,
        Wakeup(tcp_dsn, ()) as wakeup,
        ClientPool(tcp_dsn) as pool,
        pool.client() as lent,
    ):
        for each in (client, wakeup, lent):
            assert each.conn.execute(query).fetchone() == ("10000", "5")
    given = psycopg.conninfo.make_conninfo(tcp_dsn, options="-c tcp_keepalives_idle=77")
    with pgque.connect(given) as client:
        assert client.conn.execute(query).fetchone() == ("10000", "77")


@pytest.fixture
def tcp_dsn(new_server):
    """A server reached by TCP, because these settings have no effect on a Unix socket."""
    server = new_server(settings={"listen_addresses": "127.0.0.1", "port": free_port()})
    install(server.dsn)
    given = conninfo_to_dict(server.dsn)
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute("alter role postgres password 'secret'")
    return psycopg.conninfo.make_conninfo("", **given | {"host": "127.0.0.1", "password": "secret"})


def test_pauses_between_attempts_stay_short():
    backoff = Backoff()
    pauses = [backoff.next() for _ in range(1000)]
    assert LONGEST_PAUSE <= 2
    assert max(pauses) <= LONGEST_PAUSE
    assert min(pauses[20:]) < LONGEST_PAUSE / 2  # so that clients do not all reconnect at once


def test_p5_a_leader_that_hangs_is_replaced(dsn, queue, autoconn):
    holders = "select pid from pg_locks where locktype = 'advisory' and objsubid = 2 and granted"
    holders += " and database = (select oid from pg_database where datname = current_database())"

    def leader() -> int | None:
        row = autoconn.execute(holders).fetchone()
        return row and row[0]

    with process(TICKER, dsn) as hanging:
        eventually(leader, "a leader")
        before = leader()
        hanging.send_signal(signal.SIGSTOP)
        with running(Ticker(dsn)):
            eventually(lambda: leader() not in (None, before), "another leader")
            # The old leader resumes, finds that its session has ended, and stands by.
            hanging.send_signal(signal.SIGCONT)
            standby = "select count(*) from pg_stat_activity where query like '%%try_advisory%%'"
            standby += " and pid <> pg_backend_pid() and datname = current_database()"
            eventually(lambda: autoconn.execute(standby).fetchone()[0] > 0, "a standby")
            assert hanging.poll() is None


def test_a_pool_recovers_soon_after_an_outage_of_any_length(proxy, proxied_dsn, queue):
    """psycopg alone would wait again for up to twice as long as it has waited so far."""
    with ClientPool(proxied_dsn, min_size=1, max_size=1, timeout=0.1) as pool:
        with pool.client() as client:
            client.send(queue, "before")
        proxy.refusing = True
        proxy.drop(1.0, random.Random(0))

        def errors() -> int:
            return pool.pool.get_stats().get("connections_errors", 0)

        with pytest.raises(pgque.PgqueError), pool.client() as client:
            client.send(queue, "lost")
        # With doubled pauses the eighth attempt would come after four minutes.
        eventually(lambda: errors() >= 8, "attempts")
        proxy.refusing = False
        eventually(lambda: sends(pool, queue), "a connection")


def sends(pool: ClientPool, queue: str) -> bool:
    try:
        with pool.client() as client:
            client.send(queue, "after")
    except pgque.PgqueConnectionError:
        return False
    return True


def test_a_consumer_reconnects_while_its_ticker_waits_for_a_silent_network(
    dsn, queue, consumer, autoconn, monkeypatch
):
    answered = threading.Event()
    monkeypatch.setattr(Ticker, "run", lambda ticker: answered.wait(60))
    got: list[str | None] = []
    working = Consumer(dsn, queue=queue, name=consumer)
    working.on("*")(lambda message: got.append(message.payload))
    with running(working):
        eventually(lambda: working._received_once)
        autoconn.execute(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        autoconn.execute("select pgque.send(%s, 'x'::text)", [queue])
        autoconn.execute("select pgque.ticker(%s)", [queue])
        try:
            eventually(lambda: got == ["x"], "the event")
        finally:
            answered.set()


def test_a_handler_error_on_a_dead_connection_does_not_end_the_consumer(
    dsn, queue, consumer, autoconn
):
    got: list[str | None] = []
    working = Consumer(dsn, queue=queue, name=consumer, retry_after=3600)

    @working.on("*")
    def handle(message: pgque.Message, client: pgque.PgqueClient) -> None:
        got.append(message.payload)
        if len(got) == 1:
            autoconn.execute(
                "select pg_terminate_backend(%s, 5000)", [client.conn.info.backend_pid]
            )
            try:
                client.conn.execute("select 1")
            except psycopg.OperationalError as error:
                raise LookupError("no such order") from error

    with running(working):
        autoconn.execute("select pgque.send(%s, 'x'::text)", [queue])
        # It is received again without a nack, because the connection failed, not the handler.
        eventually(lambda: got == ["x", "x"], "the same message again")
