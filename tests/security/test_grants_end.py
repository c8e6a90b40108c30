"""How grants for single queues are made, listed and revoked (sql/queue_grants)."""

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgque.install import install
from tests.fix_engine import ack, column, receive, refused, send, subscribe, tick, value
from tests.security.fix_security import grant, revoke, user


def test_a_revoke_takes_effect_at_its_commit_even_for_prepared_statements(app, autoconn, queue):
    subscribe(app, queue, "mine")
    app.execute("prepare s as select pgque.send($1, 'x'::text)")
    app.execute("prepare r as select * from pgque.receive($1, 'mine')")
    run = (f"execute s('{queue}')", f"execute r('{queue}')")
    for _ in range(6):
        for statement in run:
            app.execute(statement.encode())
    tick(autoconn, queue)
    batch = receive(app, queue, "mine")
    assert revoke(autoconn, user(app), queue, "produce") == 1
    assert revoke(autoconn, user(app), queue, "produce") == 0
    with refused("42501", "no grant to produce"):
        app.execute(run[0].encode())
    assert revoke(autoconn, user(app), queue, "consume") == 1
    with refused("PQ001", "queue not found"):
        app.execute(run[1].encode())
    assert ack(app, batch) == 0
    grant(autoconn, user(app), queue, "consume")
    assert ack(app, batch) == 1


def test_a_recreated_queue_has_no_grants_and_a_dropped_one_leaves_nothing(app, autoconn, queue):
    subscribe(app, queue, "mine")
    functions = "select count(*) from pg_proc where proname ~ '^_event_\\d+_'"
    value(autoconn, "select pgque.drop_queue(%s, true)", queue)
    assert value(autoconn, functions.replace("%", "%%")) == 0
    assert value(autoconn, "select count(*) from pgque.subscriber_role") == 0
    value(autoconn, "select pgque.create_queue(%s)", queue)
    assert column(autoconn, "select queue_name from pgque.queue_grants()") == []
    with refused("PQ001", "queue not found"):
        send(app, queue)


def test_a_role_can_be_dropped_only_after_its_grants_and_leaves_nothing(autoconn, queue, new_role):
    role = new_role()
    grant(autoconn, role, queue, "produce", "consume")
    name = sql.Identifier(role)
    with refused("2BP01", "cannot be dropped because some objects depend on it"):
        autoconn.execute(sql.SQL("drop role {}").format(name))
    autoconn.execute(sql.SQL("drop owned by {}").format(name))
    autoconn.execute(sql.SQL("drop role {}").format(name))
    assert column(autoconn, "select role_name from pgque.queue_grants()") == []
    autoconn.execute(sql.SQL("create role {}").format(name))
    autoconn.execute(sql.SQL("grant pgque_user to {}").format(name))
    autoconn.execute(sql.SQL("set role {}").format(name))
    with refused("PQ001", "queue not found"):
        send(autoconn, queue)


def test_a_grant_follows_a_renamed_role(autoconn, queue, new_role):
    role = new_role()
    grant(autoconn, role, queue, "produce")
    names = (sql.Identifier(role), sql.Identifier(f"{role}_new"))
    autoconn.execute(sql.SQL("alter role {} rename to {}").format(*names))
    rows = autoconn.execute("select * from pgque.queue_grants()").fetchall()
    assert rows == [(queue, f"{role}_new", "produce")]
    autoconn.execute(sql.SQL("alter role {1} rename to {0}").format(*names))


def test_grants_can_be_listed(autoconn, queue, new_role):
    value(autoconn, "select pgque.create_queue('another')")
    one, two = sorted(new_role() for _ in range(2))
    grant(autoconn, two, queue, "produce")
    grant(autoconn, one, queue, "consume", "produce")
    grant(autoconn, one, "another", "consume")
    assert value(autoconn, "select pgque.grant_queue(%s, %s, 'produce')", one, queue) == 0
    assert autoconn.execute("select * from pgque.queue_grants()").fetchall() == [
        ("another", one, "consume"),
        (queue, one, "consume"),
        (queue, one, "produce"),
        (queue, two, "produce"),
    ]


@pytest.mark.parametrize(
    ("role", "queue_name", "privilege", "state", "text"),
    [
        ("pg_monitor", "queue", "all", "22023", "unknown privilege: all"),
        ("pg_monitor", "queue", None, "22023", "unknown privilege: <NULL>"),
        ("no such role", "queue", "consume", "42704", "role not found: no such role"),
        (None, "queue", "consume", "42704", "role not found: <NULL>"),
        ("public", "queue", "consume", "42704", "role not found: public"),
        ("pgque_user", "queue", "consume", "22023", "grants of role pgque_user"),
        ("pgque_reader", "queue", "produce", "22023", "of role pgque_reader"),
        ("the owner", "queue", "produce", "22023", "cannot change queue grants of role"),
        ("pg_monitor", "missing", "produce", "PQ001", "queue not found: missing"),
        ("pg_monitor", None, "produce", "PQ001", "queue not found: <NULL>"),
    ],
)
@pytest.mark.parametrize("function", ["grant_queue", "revoke_queue"])
def test_p10_invalid_grants_are_refused_by_name(
    shared, shared_queue, function, role, queue_name, privilege, state, text
):
    grantee = shared.info.user if role == "the owner" else role
    name = shared_queue if queue_name == "queue" else queue_name
    with refused(state, text):
        shared.execute(f"select pgque.{function}(%s, %s, %s)".encode(), [grantee, name, privilege])


def test_an_owner_who_may_not_grant_roles_gets_a_hint(databases, new_role):
    owner, app = new_role(name="owner"), new_role(name="app")
    dsn = databases.create()
    try:
        with psycopg.connect(dsn, autocommit=True) as admin:
            names = map(sql.Identifier, (admin.info.dbname, owner))
            admin.execute(sql.SQL("alter database {} owner to {}").format(*names))
            install(make_conninfo(dsn, options=f"-c role={owner}"))
            value(admin, "select pgque.create_queue('q')")
            call = "select pgque.grant_queue(%s, 'q', 'produce')"
            with refused("42501", f"role {app} is not a member of pgque_user"):
                value(admin, call, app)
            admin.execute(sql.SQL("grant pgque_user to {}").format(sql.Identifier(app)))
            assert value(admin, call, app) == 1
            admin.execute(sql.SQL("set role {}").format(sql.Identifier(app)))
            assert send(admin, "q") == 1
    finally:
        databases.drop(dsn)
