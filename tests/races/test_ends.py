"""Sudden ends: a killed consumer, a crashed server, a dropped queue."""

import psycopg

from pgque.install import install
from tests.fix_engine import (
    Thread,
    ack,
    drain,
    ids,
    is_blocked,
    nack,
    payloads,
    receive,
    refused,
    send,
    send_many,
    subscribe,
    tick,
    value,
)
from tests.running import eventually, process

KILLED = """
    import sys, time, psycopg
    conn = psycopg.connect(sys.argv[1])
    batch = conn.execute("select * from pgque.receive(%s, %s)", sys.argv[2:4]).fetchall()
    conn.execute("insert into handled select unnest(%s::bigint[])", [[row[0] for row in batch]])
    print("handled", flush=True)
    time.sleep(60)
    conn.execute("select pgque.ack(%s)", [batch[0][1]])
    conn.commit()
"""


def test_p1_p3_a_consumer_killed_between_handler_and_ack_gets_its_batch_again(
    autoconn, queue, consumer
):
    autoconn.execute("create table handled (msg_id bigint)")
    sent = send_many(autoconn, queue, 5)
    tick(autoconn, queue)
    with process(KILLED, autoconn.info.dsn, queue, consumer) as worker:
        assert worker.stdout.readline() == "handled\n"
        worker.kill()
        worker.wait()
    assert ids(receive(autoconn, queue, consumer)) == sent
    assert value(autoconn, "select count(*) from handled") == 0


def test_p1_a_server_crash_loses_no_committed_event(own_server):
    install(own_server.dsn)
    for table in ("q", "other"):
        with psycopg.connect(own_server.dsn, autocommit=True) as conn:
            value(conn, "select pgque.create_queue(%s)", table)
            subscribe(conn, table, "c")
    with psycopg.connect(own_server.dsn, autocommit=True) as conn:
        conn.execute("select pgque.set_queue_config('other', 'ticker_max_lag', '1 hour')")
        sent = send_many(conn, "q", 10)
        tick(conn, "q")
        ack(conn, receive(conn, "q", "c", 4))
        sent += [send(conn, "q"), send(conn, "q")]
        prepared = psycopg.connect(own_server.dsn)
        sent.append(send(prepared, "q", "prepared"))
        prepared.execute("prepare transaction 'over the crash'")
        prepared.close()
        undone = psycopg.connect(own_server.dsn)
        send(undone, "q", "undone")
        tick(conn, "q")
        own_server.restart("immediate")
        undone.close()
    with psycopg.connect(own_server.dsn, autocommit=True) as conn:
        got = ids(drain(conn, "q", "c", 3))
        conn.execute("commit prepared 'over the crash'")
        messages = drain(conn, "q", "c")
        assert payloads(messages) == ["prepared"]
        assert got + ids(messages) == sent[4:]


def test_p5_drop_queue_waits_for_consumers_producers_and_tickers(
    connect, autoconn, queue, consumer
):
    """It takes the locks in the same order as they do, so none of them deadlocks."""
    send(autoconn, queue)
    tick(autoconn, queue)
    workers = [connect() for _ in range(3)]
    dropper = connect(autocommit=True)
    batch = receive(workers[0], queue, consumer)
    send(workers[0], queue)
    send(workers[1], queue)
    tick(workers[2], queue)
    drop = Thread(value, dropper, "select pgque.drop_queue(%s, true)", queue)
    eventually(lambda: is_blocked(autoconn, dropper))
    nack(workers[0], batch[0])
    ack(workers[0], batch)
    for worker in workers:
        worker.commit()
    assert drop.outcome() == 1


def test_p10_reading_a_batch_of_a_dropped_queue_fails_with_batch_not_found(
    connect, autoconn, queue, consumer
):
    send(autoconn, queue)
    tick(autoconn, queue)
    batch_id = receive(autoconn, queue, consumer)[0].batch_id
    dropper, reader = connect(), connect(autocommit=True)
    value(dropper, "select pgque.drop_queue(%s, true)", queue)
    reading = Thread(value, reader, "select pgque.get_batch_events(%s)", batch_id)
    eventually(lambda: is_blocked(autoconn, reader))
    dropper.commit()
    with refused("PQ003", f"batch not found: {batch_id}"):
        reading.outcome()
