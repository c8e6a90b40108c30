"""SQLAlchemy sessions on a client's connection (pgque/sqlalchemy.py)."""

# ruff: noqa: PT012 (a block that is rolled back as a whole contains several statements)

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row
from sqlalchemy import ForeignKey, MetaData, insert, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import IntegrityError, PendingRollbackError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import pgque
from pgque import ClientPool, Consumer, Message, PgqueClient
from pgque.sqlalchemy import connection_on, session_on
from pgque.testing import Kit
from tests.running import PATIENCE, eventually, running


class Base(DeclarativeBase):
    metadata = MetaData()


class Order(Base):
    __tablename__ = "orders"
    number: Mapped[int] = mapped_column(primary_key=True)
    detail: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    placed: Mapped[datetime | None]
    token: Mapped[UUID | None]


class Bill(Base):
    __tablename__ = "bills"
    id: Mapped[int] = mapped_column(primary_key=True)
    order: Mapped[int] = mapped_column(
        ForeignKey(Order.number, deferrable=True, initially="DEFERRED")
    )


@pytest.fixture(autouse=True)
def tables(autoconn: psycopg.Connection) -> None:
    autoconn.execute(
        """
        create table orders (number int primary key, detail jsonb, placed timestamptz, token uuid);
        create table bills (
            id serial primary key,
            "order" int not null references orders deferrable initially deferred
        )
        """
    )


@pytest.fixture
def client(dsn: str) -> Iterator[PgqueClient]:
    with pgque.connect(dsn, autocommit=True) as client:
        yield client


def numbers(conn: psycopg.Connection) -> list[int]:
    return [row[0] for row in conn.execute("select number from orders order by number")]


def work(consumer: Consumer, kit: Kit, payloads: list[Any]) -> None:
    """Send payloads and run the consumer until each one is an order or a dead letter."""
    queue, before = consumer._queue, len(numbers(kit.conn))
    kit.client.send_batch(queue, "default", payloads)
    with running(consumer):
        eventually(
            lambda: (
                len(numbers(kit.conn)) - before + len(kit.client.dead_letters(queue))
                == len(payloads)
            )
        )


# In a consumer


def test_p3_session_writes_of_a_handler_are_committed_exactly_once(
    dsn: str, autoconn: psycopg.Connection, queue: str, consumer: str
) -> None:
    """One batch has a message that raises, one that fails at first, and one that recovers."""
    one = Consumer(dsn, queue=queue, name=consumer, retry_after=0)
    autoconn.execute("select pgque.set_queue_config(%s, 'max_retries', '1')", [queue])

    @one.on("*")
    def handle(message: Message, client: PgqueClient) -> None:
        number = message.json()
        with session_on(client) as session:
            session.add(Order(number=number))
            if number == 3:
                session.flush()
                raise ValueError("never")
            if number == 5 and not message.retry_count:
                session.commit()  # releases a savepoint; the rollback still undoes it
                raise ValueError("not yet")
            if number == 7:
                with pytest.raises(IntegrityError), session.begin_nested():
                    session.execute(insert(Order).values(number=0))
            client.send("out", number)

    with Kit(autoconn) as kit:
        kit.queue("out")
        work(one, kit, list(range(10)))
        assert numbers(autoconn) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert sorted(m.json() for m in kit.sent("out")) == numbers(autoconn)
        assert [d.dl_reason for d in kit.client.dead_letters(queue)] == ["ValueError: never"]


def test_a_swallowed_error_still_fails_its_message(
    dsn: str, autoconn: psycopg.Connection, queue: str, consumer: str
) -> None:
    one = Consumer(dsn, queue=queue, name=consumer)
    autoconn.execute("select pgque.set_queue_config(%s, 'max_retries', '0')", [queue])
    autoconn.execute("insert into orders values (0)")

    @one.on("*")
    def handle(message: Message, client: PgqueClient) -> None:
        with session_on(client) as session:
            session.add(Order(number=message.json()))
            session.add(Order(number=0))
            if message.json() == 1:
                with pytest.raises(IntegrityError):
                    session.flush()
            else:
                with pytest.raises(IntegrityError):
                    session.execute(insert(Order).values(number=0))

    with Kit(autoconn) as kit:
        work(one, kit, [1, 2])
        assert numbers(autoconn) == [0]
        assert len(kit.client.dead_letters(queue)) == 2


def test_a_deferred_constraint_is_checked_within_the_session(
    dsn: str, autoconn: psycopg.Connection, queue: str, consumer: str
) -> None:
    """The order of writes does not matter, just as in an application's own session."""
    one = Consumer(dsn, queue=queue, name=consumer)

    @one.on("*")
    def handle(message: Message, client: PgqueClient) -> None:
        with session_on(client) as session:
            session.add(Bill(order=message.json()))
            session.flush()
            session.add(Order(number=message.json()))

    with Kit(autoconn) as kit:
        work(one, kit, [1, 2])
    assert autoconn.execute("select count(*) from bills").fetchone() == (2,)


# The session


def test_commit_and_rollback_apply_to_a_savepoint(
    client: PgqueClient, autoconn: psycopg.Connection
) -> None:
    with client.conn.transaction():
        with session_on(client) as session:
            session.add(Order(number=1))
            session.commit()
            assert numbers(autoconn) == []
            session.add(Order(number=2))
            session.rollback()
            session.add(Order(number=3))
            session.commit()
            session.commit()
            session.rollback()
            with pytest.raises(ZeroDivisionError), session.begin_nested():
                session.add(Order(number=4))
                session.flush()
                raise ZeroDivisionError
            session.add(Order(number=5))  # flushed at the end of the block
        assert numbers(autoconn) == []
        assert numbers(client.conn) == [1, 3, 5]
    assert numbers(autoconn) == [1, 3, 5]


def test_a_block_that_raises_is_rolled_back_as_a_whole(client: PgqueClient) -> None:
    with client.conn.transaction():
        client.conn.execute("insert into orders values (1)")
        with pytest.raises(KeyError), session_on(client) as session:
            session.add(Order(number=2))
            session.commit()
            raise KeyError
        assert numbers(client.conn) == [1]
        with session_on(client) as session:
            session.add(Order(number=3))
    assert numbers(client.conn) == [1, 3]


def test_outside_a_transaction_the_block_opens_one(
    client: PgqueClient, autoconn: psycopg.Connection
) -> None:
    with session_on(client) as session:
        session.add(Order(number=1))
        session.commit()
        assert numbers(autoconn) == []
    assert numbers(autoconn) == [1]


@pytest.mark.parametrize("fails", [True, False])
def test_with_a_pool_the_clients_block_commits(
    dsn: str, autoconn: psycopg.Connection, fails: bool
) -> None:
    with ClientPool(dsn, max_size=1) as pool:
        expected = pytest.raises(KeyError) if fails else pytest.MonkeyPatch.context()
        with expected, pool.client() as client:
            with session_on(client) as session:
                session.add(Order(number=1))
            assert numbers(autoconn) == []
            if fails:
                raise KeyError
    assert numbers(autoconn) == ([] if fails else [1])


def test_the_connection_is_left_unchanged(client: PgqueClient) -> None:
    conn = client.conn
    with client.conn.transaction():
        with session_on(client) as session:
            session.add(Order(number=1))
            session.commit()
            session.add(Order(number=2))
            session.close()  # before a flush, so the changes are discarded
            session.add(Order(number=3))
            session.commit()
        with session_on(client) as session:
            session.scalar(select(Order))
            session.invalidate()
        with connection_on(client) as connection:
            connection.invalidate()
            assert connection.scalar(text("select 1")) == 1
            connection.engine.dispose()
        assert not conn.closed
        assert numbers(conn) == [1, 3]
        assert conn._notice_handlers == []
        assert conn.execute("select '{}'::jsonb, '1.2.3.4'::inet").fetchone() is not None
    assert conn.autocommit
    assert conn.isolation_level is None


def test_a_session_with_a_failed_flush_is_not_committed(
    client: PgqueClient, autoconn: psycopg.Connection
) -> None:
    autoconn.execute("insert into orders values (1)")
    with pytest.raises(PendingRollbackError), session_on(client) as session:
        session.add(Order(number=2))
        session.commit()
        session.add(Order(number=1))
        with pytest.raises(IntegrityError):
            session.flush()
    assert numbers(autoconn) == [1]


def test_the_error_names_an_aborted_transaction(client: PgqueClient) -> None:
    with pytest.raises(KeyError), client.conn.transaction():
        with pytest.raises(psycopg.errors.DivisionByZero):
            client.conn.execute("select 1/0")
        with pytest.raises(pgque.PgqueTransactionAborted), session_on(client):
            pass
        raise KeyError
    aborted, division = pytest.raises(pgque.PgqueTransactionAborted), psycopg.errors.DivisionByZero
    with aborted, session_on(client), contextlib.suppress(division):
        client.conn.execute("select 1/0")


def test_values_are_the_same_as_in_an_applications_own_session(
    dsn: str, connect: Any, client: PgqueClient
) -> None:
    """The client's row factory does not matter, and pgque's own calls get it back unchanged."""
    placed, token = datetime(2026, 3, 1, tzinfo=timezone.utc), uuid4()
    borrowed = PgqueClient(connect(row_factory=dict_row, cursor_factory=psycopg.ClientCursor))
    client.create_queue("other")
    with session_on(borrowed) as session:
        session.add(Order(number=1, detail={"a": [1, None]}, placed=placed, token=token))
        session.commit()
        session.expire_all()
        order = session.scalars(select(Order)).one()
        assert (order.detail, order.placed, order.token) == ({"a": [1, None]}, placed, token)
        assert session.scalars(select(Order.detail["a"][0].as_integer())).one() == 1
        numbers = session.scalars(
            text("select * from generate_series(1, 500)").execution_options(yield_per=100)
        )
        assert sum(numbers) == 125_250
        assert [info.queue_name for info in borrowed.queue_info()] == ["other"]
        borrowed.send("other", {"order": 1})
    assert borrowed.conn.execute("select detail from orders").fetchone() == {
        "detail": {"a": [1, None]}
    }
    assert borrowed.conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS


def test_the_applications_sessionmaker_creates_the_session(
    client: PgqueClient, autoconn: psycopg.Connection
) -> None:
    class Ours(Session):
        pass

    make = sessionmaker(class_=Ours, binds={Order: None}, autoflush=False)
    with session_on(client, make, expire_on_commit=False) as session:
        assert isinstance(session, Ours)
        assert not session.autoflush
        order = Order(number=1)
        session.add(order)
        session.commit()
        assert order.number == 1
    assert numbers(autoconn) == [1]


def test_code_that_asks_the_session_for_its_connection_gets_the_clients(
    client: PgqueClient, queue: str
) -> None:
    with session_on(client) as session:
        inner = PgqueClient(session.connection().connection.driver_connection)
        assert inner.conn is client.conn
        inner.send(queue, "x")


def test_the_isolation_level_cannot_be_changed(client: PgqueClient) -> None:
    for level in ("AUTOCOMMIT", "SERIALIZABLE"):
        refused = pytest.raises(Exception, match="isolation level is settled")
        with connection_on(client) as connection, refused:
            connection.execution_options(isolation_level=level)
    assert client.conn.autocommit


def test_a_connection_can_be_used_without_a_session(
    client: PgqueClient, autoconn: psycopg.Connection
) -> None:
    with connection_on(client) as connection:
        connection.execute(insert(Order).values(number=1))
        connection.rollback()
        connection.execute(insert(Order).values(number=2))
        with connection.begin_nested() as savepoint:
            connection.execute(insert(Order).values(number=3))
            savepoint.rollback()
        engine = connection.engine
    assert numbers(autoconn) == [2]
    with pytest.raises(pgque.PgqueInvalidArgument, match="session_on"):
        engine.connect()


def test_threads_have_separate_sessions(dsn: str, autoconn: psycopg.Connection) -> None:
    meet = threading.Barrier(3)

    def write(start: int) -> None:
        with pgque.connect(dsn, autocommit=True) as client:
            meet.wait(PATIENCE)
            for number in range(start, start + 20):
                with session_on(client) as session:
                    session.add(Order(number=number))

    threads = [threading.Thread(target=write, args=(100 * n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(numbers(autoconn)) == 60


def test_a_second_session_sends_only_its_own_statements(client: PgqueClient) -> None:
    with session_on(client):
        pass
    asked: list[str] = []
    with client.conn.transaction(), session_on(client) as session:
        client.conn.execute("create temp table x (id int)")
        execute = psycopg.Cursor.execute

        def note(cursor: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
            asked.append(query.decode() if isinstance(query, bytes) else str(query))
            return execute(cursor, query, *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(psycopg.Cursor, "execute", note)
            session.execute(insert(Order).values(number=1))
            session.commit()
    assert len(asked) == 3
    assert asked[0].startswith("savepoint")
    assert asked[1].startswith("INSERT")
    assert asked[2].startswith("release")


def test_a_missing_sqlalchemy_names_the_extra() -> None:
    script = "import sys; sys.modules['sqlalchemy'] = None; import pgque; import pgque.sqlalchemy"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "pip install 'pgque[sqlalchemy]'" in done.stderr
