"""Handlers that misuse the consumer's connection (pgque/consuming: isolation.py, working.py)."""

import contextlib
import re
import time

import psycopg
import pytest

from pgque import Message, PgqueClient
from tests.fix_ordeal import BAD, Fault, Ordeal


def sql(statements: str) -> Fault:
    return lambda msg, client: client.conn.execute(statements)


def call(method: str) -> Fault:
    return lambda msg, client: getattr(client.conn, method)()


def swallowed(fault: Fault) -> Fault:
    def fault_in_silence(msg: Message, client: PgqueClient) -> None:
        with contextlib.suppress(psycopg.Error):
            fault(msg, client)

    return fault_in_silence


def then_raises(fault: Fault) -> Fault:
    def fault_and_error(msg: Message, client: PgqueClient) -> None:
        fault(msg, client)
        raise ValueError("and that is that")

    return fault_and_error


def as_a_block(msg: Message, client: PgqueClient) -> None:
    with client.conn:
        pass


OPEN: list[object] = []


def leaves_open(make) -> Fault:
    def enter_alone(msg: Message, client: PgqueClient) -> None:
        block = make(client.conn)
        OPEN.append(block)  # otherwise it would end with the function
        block.__enter__()

    return enter_alone


leaves_block_open = leaves_open(lambda conn: conn.transaction())
leaves_pipeline_open = leaves_open(lambda conn: conn.pipeline())
leaves_copy_open = leaves_open(lambda conn: conn.cursor().copy("copy done from stdin"))


def acks_its_batch(msg: Message, client: PgqueClient) -> None:
    client.conn.execute("select pgque.ack(%s)", [msg.batch_id])


def acks_by_the_client(msg: Message, client: PgqueClient) -> None:
    client.ack(msg.batch_id)


def outlives_a_timeout(msg: Message, client: PgqueClient) -> None:
    client.conn.execute("set local idle_in_transaction_session_timeout = '50ms'")
    time.sleep(0.3)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (sql("rollback"), "ended the consumer's transaction"),
        (sql("commit"), "ended the consumer's transaction"),
        (sql("rollback; begin"), "ended the consumer's transaction or savepoint"),
        (sql("commit; begin"), "ended the consumer's transaction or savepoint"),
        (sql("commit and chain"), "ended the consumer's transaction or savepoint"),
        (sql("rollback and chain"), "ended the consumer's transaction or savepoint"),
        (sql("release savepoint pgque_message"), "transaction or savepoint"),
        (then_raises(sql("rollback")), "and that is that"),
        (then_raises(sql("commit")), "and that is that"),
        (then_raises(sql("savepoint mine")), "and that is that"),
        (then_raises(leaves_block_open), "and that is that"),
        (call("rollback"), "rollback.. is refused"),
        (call("commit"), "commit.. is refused"),
        (call("close"), "close.. is refused"),
        (swallowed(call("rollback")), "called rollback.. on the consumer's connection"),
        (swallowed(call("close")), "called close.. on the consumer's connection"),
        (as_a_block, "is refused"),
        (lambda msg, client: client.conn.pgconn.finish(), "connection broke"),
        (sql("select pg_terminate_backend(pg_backend_pid())"), "connection broke"),
        (
            then_raises(swallowed(sql("commit; select pg_terminate_backend(pg_backend_pid())"))),
            "connection broke",
        ),
        (outlives_a_timeout, "connection broke"),
        (leaves_block_open, "block open"),
        (leaves_pipeline_open, "block open"),
        (leaves_copy_open, "a COPY running"),
        (acks_its_batch, "ended batch"),
        (acks_by_the_client, "acks batch"),
    ],
)
def test_misusing_the_connection_fails_only_that_message(
    ordeal: Ordeal, fault: Fault, reason: str, caplog
):
    dead = ordeal.run(fault)
    assert dead.dl_reason is not None
    assert re.search(reason, dead.dl_reason)
    assert f"message {dead.ev_id}" in caplog.text
    assert ordeal.calls.count(BAD) <= 6
