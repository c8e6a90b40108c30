"""Row security: hidden rows cause an error in pgque's calls and never pass for missing ones."""

import contextlib
import secrets

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgque import PgquePermissionDenied
from pgque.doctor import examine
from pgque.install import install
from pgque.tail import Tail
from pgque.wire.calls import only_reading
from tests.fix_engine import (
    Connection,
    ack,
    column,
    ids,
    nack,
    notices,
    payloads,
    receive,
    refused,
    send_many,
    subscribe,
    tick,
    value,
)

REPLAY = "select replayed, failed from pgque.dlq_replay_all('q')"
POLICIES = {
    "no policy": "",
    "hides all": "create policy hiding on {} using (false)",
    "hides some": "create policy hiding on {} using (ctid <> '(0,1)')",
}
CALLS = {
    "reader": [
        "select count(*), min(payload), max(payload) from pgque.receive('q', 'c')",
        "select count(*) from pgque.receive_merged('q', 'c')",
        "select count(*) from pgque.receive_coop('q', 'g', 'm')",
        "select count(*) from pgque.receive_coop_merged('q', 'g', 'm')",
        "select count(*) from pgque.receive('q', 'held')",
        "select count(*) from pgque.get_batch_events({batch})",
        "select pgque.nack_many({batch}, array[{event}])",
        "select pgque.event_retry({batch}, {event}, 0)",
        "select pgque.ack({batch})",
        "select pgque.subscribe('q', 'c')",
        "select pgque.seek('q', 'c', 1)",
        "select pgque.next_batch('q', 'c') is not null",
        "select pgque.unsubscribe('q', 'c')",
        "select count(*) from pgque.dlq_inspect('q')",
        "select count(*) from pgque.get_queue_info()",
        "select count(*) from pgque.get_consumer_info()",
        "select count(*) from pgque.get_queue_wait()",
        "select count(*) from pgque.get_consumer_wait()",
        "select queue_name from pgque.get_batch_info({batch})",
    ],
    "admin": [
        "select pgque.ticker('q') is not null",
        "select pgque.maint_retry_events()",
        "select pgque.maint_rotate_tables_step1('q')",
        "select pgque.maint_rotate_ledger()",
        "select pgque.batch_retry({batch}, 0)",
        "select count(*) from pgque.get_batch_cursor({batch}, 'cursor', 1)",
        "select pgque.dlq_purge('q', '0')",
        "select pgque.drop_queue('q', true)",
        "select pgque.send('q', 'x'::text) > 0",
        "select cardinality(pgque.send_batch('q', array['x']))",
        REPLAY,
        "select pgque.set_queue_config('q', 'max_retries', '2')",
        "select pgque.create_queue('q')",
    ],
}


class House:
    """A database whose owner has no other rights, with messages, retries and dead letters in q."""

    def __init__(self, dsn: str, owner: str) -> None:
        self.dsn = dsn
        self.owner = owner
        self.admin = psycopg.connect(dsn, autocommit=True)
        self.roles = {"owner": owner}
        self.sessions: dict[str, Connection] = {}

    def connect(self, who: str) -> Connection:
        return psycopg.connect(
            self.dsn, autocommit=True, options=f"-c role={self.roles[who]} -c jit=off"
        )

    def session(self, who: str) -> Connection:
        """A connection that is reused, including its cached plans."""
        if who not in self.sessions:
            self.sessions[who] = self.connect(who)
        return self.sessions[who]

    def close(self) -> None:
        for conn in [self.admin, *self.sessions.values()]:
            conn.close()

    def prepare(self) -> None:
        with self.connect("owner") as conn:
            value(conn, "select pgque.create_queue('q')")
            subscribe(conn, "q", "c", "held")
            value(conn, "select pgque.subscribe_subconsumer('q', 'g', 'm')")
            send_many(conn, "q", 3)
            tick(conn, "q")
            batch = receive(conn, "q", "held")
            nack(conn, batch[0], "0")
            value(conn, "select pgque.set_queue_config('q', 'max_retries', '0')")
            nack(conn, batch[1])
            value(conn, "select pgque.set_queue_config('q', 'max_retries', null)")
            send_many(conn, "q", 2)
            self.facts = {"batch": batch[0].batch_id, "event": batch[2].msg_id}
            value(conn, "select pgque.set_queue_config('q', 'rotation_period', '1 microsecond')")

    def tables(self) -> list[str]:
        return column(
            self.admin,
            "select oid::regclass::text from pg_class "
            "where relnamespace = 'pgque'::regnamespace and relkind = 'r' order by 1",
        )

    def outcomes(self, who: str) -> dict[str, object]:
        """The result of each call by a role, each rolled back: its rows, or its SQLSTATE."""
        calls = CALLS["reader"] + CALLS["admin"] if who == "owner" else CALLS[who]
        found: dict[str, object] = {}
        conn = self.session(who)
        heard = notices(conn)
        for call in calls:
            heard.clear()
            try:
                with conn.transaction(force_rollback=True):
                    found[call] = conn.execute(call.format(**self.facts).encode()).fetchall()
                if any("security" in text for text in heard):
                    found[call] = "42501"  # maintenance warns and continues
            except psycopg.Error as error:
                found[call] = str(error.sqlstate)
        return found

    @contextlib.contextmanager
    def secured(self, table: str, policy: str, *, forced: bool):
        self.admin.execute(f"alter table {table} enable row level security".encode())
        if forced:
            self.admin.execute(f"alter table {table} force row level security".encode())
        if POLICIES[policy]:
            self.admin.execute(POLICIES[policy].format(table).encode())
        try:
            yield
        finally:
            self.admin.execute(f"drop policy if exists hiding on {table}".encode())
            self.admin.execute(
                f"alter table {table} disable row level security, "
                "no force row level security".encode()
            )


@pytest.fixture(scope="module")
def house(databases, template):
    dsn = databases.create()
    names = {who: f"rls_{who}_{secrets.token_hex(3)}" for who in ("owner", "reader", "admin")}
    house = House(dsn, names["owner"])
    house.roles = names
    for name in names.values():
        house.admin.execute(f"create role {name}".encode())
    database = sql.Identifier(house.admin.info.dbname)
    house.admin.execute(
        sql.SQL("alter database {} owner to {}").format(database, sql.Identifier(names["owner"]))
    )
    install(make_conninfo(dsn, options=f"-c role={names['owner']}"))
    for who in ("reader", "admin"):
        house.admin.execute(f"grant pgque_{who} to {names[who]}".encode())
    house.prepare()
    yield house
    house.close()
    databases.drop(dsn)
    with psycopg.connect(databases.server_dsn, autocommit=True) as conn:
        for name in names.values():
            conn.execute(f"drop role {name}".encode())


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("who", ["reader", "admin", "owner"])
def test_p1_hidden_rows_are_never_mistaken_for_missing_ones(house, who, policy):
    """Row security applies to the owner only if it is forced."""
    usual = house.outcomes(who)
    assert [call for call, found in usual.items() if isinstance(found, str)] == []
    wrong, named = [], 0
    for table in house.tables():
        with house.secured(table, policy, forced=who == "owner"):
            for call, found in house.outcomes(who).items():
                if isinstance(found, str) and (found == "42501" or found.startswith("PQ")):
                    named += 1
                elif call == REPLAY and isinstance(found, list) and found[0][1] == 1:
                    named += 1  # it returns the number of failures
                elif found != usual[call]:
                    wrong.append((table, call, found, usual[call]))
    assert not wrong, "\n".join(map(str, wrong))
    assert named > 0 or policy == "hides some"
    assert house.outcomes(who) == usual


def test_p1_a_reader_never_skips_rows_it_may_not_see(house):
    """The position stays. After row security is turned off, all of them are delivered."""
    with house.connect("owner") as owner, house.connect("reader") as reader:
        value(owner, "select pgque.create_queue('w')")
        subscribe(owner, "w", "c")
        sent = send_many(owner, "w", 3)
        tick(owner, "w")
        log = value(owner, "select queue_data_pfx from pgque.queue where queue_name = 'w'")
        with house.secured(log, "no policy", forced=False):
            for _ in range(2):
                with refused("42501", "row-level security"):
                    receive(reader, "w", "c")
            [waits] = column(owner, "select pending_events from pgque.get_consumer_info('w', 'c')")
            assert waits == 3
        assert ids(receive(reader, "w", "c")) == sent
        value(owner, "select pgque.drop_queue('w', true)")


def test_a_ticker_slot_reports_that_it_cannot_read_its_settings(house):
    with (
        house.secured("pgque.config", "no policy", forced=False),
        house.connect("admin") as conn,
        refused("42501", "pgque.config"),
    ):
        conn.execute("call pgque.ticker_loop()")


def test_browsing_raises_instead_of_hiding_rows(house):
    log = value(house.admin, "select queue_data_pfx from pgque.queue where queue_name = 'q'")
    with (
        house.secured(log, "no policy", forced=False),
        house.connect("reader") as conn,
        refused("42501", "row-level security"),
        only_reading(conn, seconds=10),
    ):
        conn.execute(f"select count(*) from {log}".encode())


def test_a_tail_raises_instead_of_hiding_rows(house):
    log = value(house.admin, "select queue_data_pfx from pgque.queue where queue_name = 'q'")
    with (
        house.secured(log, "no policy", forced=False),
        house.connect("reader") as conn,
        pytest.raises(PgquePermissionDenied, match="row security"),
    ):
        Tail(conn, "q")


EVENT_TRIGGER = """
    create function public.secure_all() returns event_trigger language plpgsql as $$
    declare
        made record;
    begin
        for made in select * from pg_event_trigger_ddl_commands() where object_type = 'table' loop
            {unless}
            execute format('alter table %s enable row level security', made.object_identity);
        end loop;
    end
    $$;
    create event trigger secure_all on ddl_command_end when tag in ({tags})
        execute function public.secure_all()
"""


@pytest.fixture
def secured_database(databases):
    """A database of a provider that turns on row security for each new table."""
    dsn = databases.create()
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(EVENT_TRIGGER.format(tags="'CREATE TABLE'", unless="").encode())
    yield dsn
    databases.drop(dsn)


def secured(conn: Connection) -> list[str]:
    return column(
        conn,
        "select oid::regclass::text from pg_class where relnamespace = 'pgque'::regnamespace "
        "and (relrowsecurity or relforcerowsecurity)",
    )


def test_pgque_turns_off_row_security_on_its_new_tables(secured_database, new_member):
    install(secured_database)
    with psycopg.connect(secured_database, autocommit=True) as conn:
        assert secured(conn) == []
        heard = notices(conn)
        value(conn, "select pgque.create_queue('q')")
        assert secured(conn) == []
        assert any("row security" in text for text in heard), heard
        subscribe(conn, "q", "c")
        send_many(conn, "q", 2)
        tick(conn, "q")
        conn.execute(f"set role {new_member}".encode())
        assert payloads(drain_batch(conn)) == ["1", "2"]


def drain_batch(conn: Connection):
    batch = receive(conn, "q", "c")
    ack(conn, batch)
    return batch


@pytest.fixture
def new_member(databases):
    name = f"rls_member_{secrets.token_hex(3)}"
    with psycopg.connect(databases.server_dsn, autocommit=True) as conn:
        conn.execute(f"create role {name} in role pgque_reader".encode())
        yield name
        conn.execute(f"drop role {name}".encode())


def test_create_queue_fails_if_row_security_cannot_be_turned_off(direct_dsn):
    with psycopg.connect(direct_dsn, autocommit=True) as conn:
        trigger = EVENT_TRIGGER.format(
            tags="'CREATE TABLE', 'ALTER TABLE'",
            unless="continue when (select relrowsecurity from pg_class where oid = made.objid);",
        )
        conn.execute(trigger.encode())
        with refused("42501", "row security stays on"):
            value(conn, "select pgque.create_queue('q')")
        assert value(conn, "select count(*) from pgque.queue") == 0
        conn.execute("drop event trigger secure_all")
        assert value(conn, "select pgque.create_queue('q')") == 1


def test_install_turns_row_security_off_on_tables_without_policies(direct_dsn):
    with psycopg.connect(direct_dsn, autocommit=True) as conn:
        value(conn, "select pgque.create_queue('q')")
        for table in ("tick", "cursor_1", "event_1", "event_1_2"):
            conn.execute(f"alter table pgque.{table} enable row level security".encode())
        conn.execute("alter table pgque.retry_queue enable row level security")
        conn.execute("create policy mine on pgque.retry_queue using (true)")
        install(direct_dsn)
        assert secured(conn) == ["pgque.retry_queue"]


def test_doctor_names_the_tables_and_the_fix(direct_dsn):
    with psycopg.connect(direct_dsn, autocommit=True) as conn:
        value(conn, "select pgque.create_queue('q')")
        conn.execute("alter table pgque.event_1 enable row level security")
        both = "alter table pgque.tick enable row level security, force row level security"
        conn.execute(both.encode())
        [found] = [f for f in examine(direct_dsn) if f.check == "row security"]
        assert found.status.value == "fault"
        assert "pgque.event_1" in found.detail
        assert found.mend is not None
        conn.execute(found.mend.encode())
        assert secured(conn) == []
        [found] = [f for f in examine(direct_dsn) if f.check == "row security"]
        assert found.status.value == "ok"
