"""Django's ORM on a client's connection (pgque/django/orm.py)."""

# ruff: noqa: PT012 (a block that is rolled back as a whole contains several statements)

import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import django
import psycopg
import pytest
from django.conf import settings
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

import pgque
from pgque import Consumer, Message, PgqueClient
from pgque.testing import Kit
from tests.running import eventually, running

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()

from django.core.signals import request_finished, request_started  # noqa: E402
from django.db import (  # noqa: E402
    IntegrityError,
    close_old_connections,
    connection,
    connections,
    models,
    transaction,
)

from pgque.django import orm_on  # noqa: E402


class Order(models.Model):
    number = models.IntegerField(primary_key=True)
    detail = models.JSONField(null=True)
    placed = models.DateTimeField(null=True)
    token = models.UUIDField(null=True)
    address = models.GenericIPAddressField(null=True)

    class Meta:
        app_label = "shop"
        db_table = "orders"


class Bill(models.Model):
    order = models.ForeignKey(Order, models.CASCADE)

    class Meta:
        app_label = "shop"
        db_table = "bills"


@pytest.fixture(autouse=True)
def shop(dsn: str) -> Iterator[None]:
    """Point Django's settings at the test's database and create its tables."""
    parts = conninfo_to_dict(dsn)
    database = connections.settings["default"]
    database |= {
        "NAME": parts["dbname"],
        "USER": parts["user"],
        "PASSWORD": parts.get("password", ""),
        "HOST": parts["host"],
        "PORT": parts["port"],
    }
    del connections["default"]
    with connection.schema_editor() as editor:
        editor.create_model(Order)
        editor.create_model(Bill)
    yield
    connections.close_all()


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


def test_p3_orm_writes_of_a_handler_are_committed_exactly_once(
    dsn: str, autoconn: psycopg.Connection, queue: str, consumer: str
) -> None:
    """One batch has a message that raises, one that fails at first, and one that recovers."""
    one = Consumer(dsn, queue=queue, name=consumer, retry_after=0)
    autoconn.execute("select pgque.set_queue_config(%s, 'max_retries', '1')", [queue])

    @one.on("*")
    def handle(message: Message, client: PgqueClient) -> None:
        number = message.json()
        with orm_on(client):
            Order.objects.create(number=number)
            if number == 3:
                raise ValueError("never")
            if number == 5 and not message.retry_count:
                with transaction.atomic():
                    Bill.objects.create(order_id=5)
                raise ValueError("not yet")
            if number == 7:
                with pytest.raises(IntegrityError), transaction.atomic():
                    Order.objects.create(number=0)
            close_old_connections()
            client.send("out", number)

    with Kit(autoconn) as kit:
        kit.queue("out")
        work(one, kit, list(range(10)))
        assert numbers(autoconn) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert sorted(m.json() for m in kit.sent("out")) == numbers(autoconn)
        assert [d.dl_reason for d in kit.client.dead_letters(queue)] == ["ValueError: never"]
    assert not Bill.objects.exists()


def test_a_swallowed_error_still_fails_its_message(
    dsn: str, autoconn: psycopg.Connection, queue: str, consumer: str
) -> None:
    one = Consumer(dsn, queue=queue, name=consumer)
    autoconn.execute("select pgque.set_queue_config(%s, 'max_retries', '0')", [queue])
    autoconn.execute("insert into orders values (0)")

    @one.on("*")
    def handle(message: Message, client: PgqueClient) -> None:
        with orm_on(client):
            Order.objects.create(number=message.json())
            if message.json() == 1:
                with pytest.raises(IntegrityError):
                    Order.objects.create(number=0)
            elif message.json() == 2:
                with transaction.atomic():
                    transaction.set_rollback(True)  # Django rolls back without raising an error
                transaction.set_rollback(True)

    with Kit(autoconn) as kit:
        work(one, kit, [1, 2])
        assert numbers(autoconn) == [0]
        assert len(kit.client.dead_letters(queue)) == 2


# The block


def test_atomic_is_a_savepoint(client: PgqueClient, autoconn: psycopg.Connection) -> None:
    with client.conn.transaction():
        with orm_on(client):
            Order.objects.create(number=1)
            with transaction.atomic():
                Order.objects.create(number=2)
                with pytest.raises(KeyError), transaction.atomic():
                    Order.objects.create(number=3)
                    raise KeyError
            with pytest.raises(KeyError), transaction.atomic():
                with transaction.atomic():
                    Order.objects.create(number=4)
                raise KeyError
            Order.objects.create(number=5)
            with pytest.raises(RuntimeError, match="durable"), transaction.atomic(durable=True):
                pass
            for forbidden in (transaction.commit, transaction.rollback):
                with pytest.raises(transaction.TransactionManagementError):
                    forbidden()
            with pytest.raises(transaction.TransactionManagementError):
                transaction.set_autocommit(True)
        assert numbers(autoconn) == []
        assert numbers(client.conn) == [1, 2, 5]
    assert numbers(autoconn) == [1, 2, 5]


def test_a_block_that_raises_is_rolled_back_as_a_whole(client: PgqueClient) -> None:
    with client.conn.transaction():
        client.conn.execute("insert into orders values (1)")
        with pytest.raises(KeyError), orm_on(client):
            with transaction.atomic():
                Order.objects.create(number=2)
            raise KeyError
        with orm_on(client):
            Order.objects.create(number=3)
        assert numbers(client.conn) == [1, 3]
    assert numbers(client.conn) == [1, 3]


def test_outside_a_transaction_the_block_opens_one(
    client: PgqueClient, autoconn: psycopg.Connection
) -> None:
    with orm_on(client):
        Order.objects.create(number=1)
        assert numbers(autoconn) == []
    assert numbers(autoconn) == [1]


def test_nothing_closes_the_connection(client: PgqueClient) -> None:
    with client.conn.transaction():
        with orm_on(client):
            request_started.send(sender=None)
            connection.close()
            connections.close_all()
            with connection.temporary_connection() as cursor:
                cursor.execute("select 1")
            connection.ensure_timezone()
            connection.close_if_health_check_failed()
            request_finished.send(sender=None)
            Order.objects.create(number=1)
        assert numbers(client.conn) == [1]
    assert client.conn.autocommit


def test_after_the_block_django_uses_its_own_connection_again(client: PgqueClient) -> None:
    connection.ensure_connection()
    own, before = connections["default"], connection.connection
    client.conn.execute("set timezone to 'Asia/Tokyo'")
    with client.conn.transaction():
        with orm_on(client):
            assert connection.connection is client.conn
            assert client.conn.info.parameter_status("TimeZone") == "UTC"
        assert connections["default"] is own
        assert connection.connection is before
        with pytest.raises(KeyError), orm_on(client):
            raise KeyError
        assert connections["default"] is own
        assert client.conn.info.parameter_status("TimeZone") == "Asia/Tokyo"
    assert connection.get_autocommit()
    assert not connection.in_atomic_block


def test_the_block_works_inside_a_django_transaction(client: PgqueClient) -> None:
    """Django's own transaction continues afterwards, unchanged."""
    with pytest.raises(KeyError), transaction.atomic():
        Order.objects.create(number=1)
        with orm_on(client):
            Order.objects.create(number=2)
        assert Order.objects.filter(number=1).exists()
        raise KeyError
    assert numbers(client.conn) == [2]


def test_blocks_of_two_clients_can_be_nested(dsn: str, client: PgqueClient) -> None:
    with pgque.connect(dsn, autocommit=True) as other, orm_on(client):
        Order.objects.create(number=1)
        with orm_on(other):
            Order.objects.create(number=2)
        assert numbers(other.conn) == [2]
        assert Order.objects.count() == 2
    assert numbers(client.conn) == [1, 2]


def test_values_are_the_same_as_on_djangos_own_connection(
    connect: Any, client: PgqueClient
) -> None:
    """The client's row factory and time zone do not matter, and pgque gets them back unchanged."""
    placed = datetime(2026, 3, 1, 23, 30, tzinfo=timezone.utc)
    borrowed = PgqueClient(connect(row_factory=dict_row))
    client.create_queue("other")
    borrowed.conn.execute("set timezone to 'America/New_York'")
    with orm_on(borrowed):
        for number in range(1, 4):
            Order.objects.create(
                number=number, detail={"a": [1, None]}, placed=placed, address="10.0.0.1"
            )
        order = Order.objects.filter(detail__a__0=1, placed__date="2026-03-01").first()
        assert (order.detail, order.placed) == ({"a": [1, None]}, placed)
        assert order.placed.utcoffset().total_seconds() == 0
        assert order.address == "10.0.0.1"
        assert len(list(Order.objects.iterator(chunk_size=2))) == 3
        assert [info.queue_name for info in borrowed.queue_info()] == ["other"]
        borrowed.send("other", {"order": 1})
    row = borrowed.conn.execute("select detail, placed, address from orders limit 1").fetchone()
    assert row["detail"] == {"a": [1, None]}
    assert str(row["placed"]) == "2026-03-01 18:30:00-05:00"
    assert row["address"].version == 4


def test_on_commit_is_refused_with_advice(client: PgqueClient) -> None:
    refused = pytest.raises(transaction.TransactionManagementError, match="Send an event")
    with orm_on(client), refused:
        transaction.on_commit(lambda: None)


def test_only_a_postgresql_database_can_be_replaced(client: PgqueClient, tmp_path: Any) -> None:
    connections.settings["other"] = {
        **connections.settings["default"],
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": str(tmp_path / "db"),
    }
    try:
        with pytest.raises(pgque.PgqueInvalidArgument, match="sqlite3"), orm_on(client, "other"):
            pass
    finally:
        del connections.settings["other"]


def test_a_missing_django_names_the_extra() -> None:
    script = "import sys; sys.modules['django'] = None; import pgque; import pgque.django"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "pip install 'pgque[django]'" in done.stderr
