"""`pgque doctor` finds planted faults and names the fix."""

import json
import os
import re
from datetime import timedelta

import psycopg
import pytest

import pgque
from pgque.doctor import FIRST, REST, Finding, Status, consumers, examine, server
from pgque.testing import advance
from tests.fix_cli import cli
from tests.fix_engine import log_of, nack, receive, send, tick, value

NOW = timedelta(0)


def findings(dsn: str, check: str) -> list[Finding]:
    return [finding for finding in examine(dsn) if finding.check == check]


def an_hour_passes(conn: psycopg.Connection) -> None:
    """Make everything in the database an hour older."""
    for table, column in (("tick", "tick_time"), ("cursor", "cur_time"), ("event_1", "ev_time")):
        conn.execute(f"update pgque.{table} set {column} = {column} - interval '1 hour'".encode())


def finding(dsn: str, check: str) -> Finding:
    [found] = findings(dsn, check)
    return found


def bad(dsn: str) -> set[str]:
    """Return the failed checks, except crash safety, which all test servers lack."""
    found = {one.check for one in examine(dsn) if one.status is not Status.OK}
    return found - {"settings"}


def test_a_working_queue_has_no_findings(dsn, queue, consumer, autoconn):
    assert bad(dsn) == {"ticker"}  # no ticker runs here
    assert finding(dsn, "ticker").mend == "pgque ticker"


def test_an_unreachable_server_is_a_finding():
    [found] = examine("host=127.0.0.1 port=1 connect_timeout=2")
    assert (found.check, found.status) == ("server", Status.FAULT)


def test_a_server_that_can_lose_data_in_a_crash_is_a_finding(dsn):
    [crash, *_] = findings(dsn, "settings")
    assert (crash.status, crash.mend) == (Status.FAULT, "alter system reset fsync")


def test_a_read_only_database_is_a_finding(dsn, autoconn):
    name = autoconn.info.dbname
    autoconn.execute(f"alter database {name} set default_transaction_read_only = on")
    assert "default_transaction_read_only" in finding(dsn, "server").mend


def test_a_missing_schema_is_a_finding(empty_dsn):
    found = list(examine(empty_dsn))[-1]
    assert (found.check, found.status, found.mend) == ("schema", Status.FAULT, "pgque install")


@pytest.mark.parametrize(("difference", "mend"), [(-1, "pgque upgrade"), (1, "pip install")])
def test_a_schema_of_another_version_is_a_finding(dsn, autoconn, difference, mend):
    autoconn.execute("update pgque.config set schema_version = schema_version + %s", [difference])
    found = finding(dsn, "schema")
    assert found.status is Status.FAULT
    assert mend in found.mend


def test_a_user_without_rights_is_a_finding(dsn, autoconn):
    autoconn.execute("create role pgque_test_nobody login")
    try:
        found = list(examine(psycopg.conninfo.make_conninfo(dsn, user="pgque_test_nobody")))[-1]
        assert (found.check, found.status) == ("schema", Status.FAULT)
        assert found.mend == 'grant pgque_reader to "pgque_test_nobody"'
    finally:
        autoconn.execute("drop role pgque_test_nobody")


@pytest.fixture
def role(dsn, autoconn):
    """Create a role that can log in; return its DSN."""
    made = []

    def role(*granted: str) -> str:
        name = f"pgque_test_role_{os.getpid()}_{len(made)}"
        autoconn.execute(f"create role {name} login")
        made.append(name)
        for other in granted:
            autoconn.execute(f"grant {other} to {name}")
        return psycopg.conninfo.make_conninfo(dsn, user=name)

    yield role
    for name in made:
        autoconn.execute(f"drop owned by {name}")
        autoconn.execute(f"drop role {name}")


def test_a_reader_may_run_every_check(role, queue, consumer):
    found = list(examine(role("pgque_reader")))
    assert {one.check for one in found} == {*FIRST, *REST}
    assert {one.check for one in found if one.status is not Status.OK} <= {"ticker", "settings"}
    assert "to see all" in found[-1].detail  # transactions of other roles


def test_a_role_with_grants_sees_findings_about_its_own_queues(role, queue, autoconn, monkeypatch):
    autoconn.execute("select pgque.create_queue('private')")
    dsn = role()
    name = psycopg.conninfo.conninfo_to_dict(dsn)["user"]
    autoconn.execute("select pgque.grant_queue(%s, %s, 'consume')", [name, queue])
    with pgque.connect(dsn, autocommit=True) as client:
        client.subscribe(queue, "mine")
    found = list(examine(dsn))
    assert not [one for one in found if one.status is Status.FAULT and one.check != "settings"]
    detail = {one.check: one.detail for one in found}
    assert detail["rights"] == f"{name} has grants to consume for {queue} only"
    assert detail["consumers"] == "1, all ok"
    assert detail["not checked"] == (
        "locks, restore, clock, queues, retries, dead letters, rotation: they need pgque_reader"
    )
    send(autoconn, "private")
    send(autoconn, queue)
    autoconn.execute(
        f"update {log_of(autoconn, queue)} set ev_time = ev_time - interval '1 hour'".encode()
    )
    autoconn.execute("update pgque.tick set tick_time = tick_time - interval '1 hour'")
    assert f"1 events in {queue} wait" in finding(dsn, "ticker").detail
    tick(autoconn, queue)
    for table, column in (("tick", "tick_time"), ("cursor", "cur_time")):
        autoconn.execute(
            f"update pgque.{table} set {column} = {column} - interval '1 hour'".encode()
        )
    assert f"mine of {queue} was last seen" in finding(dsn, "consumers").detail


def test_a_role_without_grants_learns_how_to_get_one(role):
    found = finding(role("pgque_user"), "rights")
    assert found.status is Status.WARNING
    assert found.mend.startswith("select pgque.grant_queue('pgque_test_role_")


def test_a_writer_learns_what_it_cannot_see(role, queue):
    dsn = role("pgque_writer")
    assert finding(dsn, "ticker").status is Status.WARNING
    assert "consumers" in finding(dsn, "not checked").detail


def test_events_without_a_ticker_are_a_finding(dsn, queue, consumer, autoconn):
    assert finding(dsn, "ticker").status is Status.WARNING
    send(autoconn, queue)
    an_hour_passes(autoconn)
    found = finding(dsn, "ticker")
    assert (found.status, found.mend) == (Status.FAULT, "pgque ticker")
    assert f"1 events in {queue}" in found.detail


def test_a_new_event_after_a_quiet_hour_is_no_finding(dsn, queue, consumer, autoconn):
    autoconn.execute("update pgque.tick set tick_time = tick_time - interval '1 hour'")
    autoconn.execute("update pgque.cursor set cur_time = cur_time - interval '1 hour'")
    send(autoconn, queue)
    assert finding(dsn, "ticker").status is Status.WARNING  # no process leads
    assert finding(dsn, "consumers").status is Status.OK
    tick(autoconn, queue)
    assert finding(dsn, "consumers").status is Status.OK


def test_paused_and_closed_queues_are_findings(dsn, queue, autoconn):
    autoconn.execute("select pgque.set_queue_config(%s, 'ticker_paused', 'true')", [queue])
    autoconn.execute("select pgque.set_queue_config(%s, 'disable_insert', 'true')", [queue])
    assert [found.mend for found in findings(dsn, "queues")] == [
        f"pgque queue resume {queue}",
        f"pgque queue set {queue} disable_insert",
    ]


def test_a_silent_consumer_is_a_finding(dsn, queue, consumer, autoconn):
    an_hour_passes(autoconn)
    assert finding(dsn, "consumers").status is Status.OK  # it has no work
    send(autoconn, queue)
    tick(autoconn, queue)
    assert finding(dsn, "consumers").status is Status.OK  # its work is new
    an_hour_passes(autoconn)
    found = finding(dsn, "consumers")
    assert found.status is Status.FAULT
    assert f"pgque consumer unsubscribe {queue} {consumer}" in found.mend


def test_a_consumer_that_falls_behind_is_a_finding(dsn, queue, consumer, autoconn):
    send(autoconn, queue)
    tick(autoconn, queue)
    for minutes, word, status in ((2, "behind", Status.WARNING), (10, "stuck", Status.FAULT)):
        autoconn.execute(
            "update pgque.tick set tick_time = tick_time - make_interval(mins => %s)", [minutes]
        )
        found = finding(dsn, "consumers")
        assert f"{consumer} of {queue} is {word}: it has 1 pending events" in found.detail
        assert (found.status, found.mend) == (status, f"pgque consumer list {queue}")


def test_the_size_of_the_log_that_a_consumer_holds_back_is_shown(dsn, queue, consumer, autoconn):
    send(autoconn, queue)
    tick(autoconn, queue)
    an_hour_passes(autoconn)
    assert re.search(r"keeps a log of \d+ kB from being removed", finding(dsn, "consumers").detail)


def test_a_silent_member_with_an_open_batch_is_a_finding(dsn, queue, autoconn):
    autoconn.execute("select pgque.subscribe_subconsumer(%s, 'group', 'gone')", [queue])
    send(autoconn, queue)
    tick(autoconn, queue)
    autoconn.execute("select pgque.receive_coop(%s, 'group', 'gone')", [queue])
    an_hour_passes(autoconn)
    [found] = findings(dsn, "consumers")
    assert "gone, a member of group of" in found.detail
    call = found.mend.removeprefix("start it, or ")
    assert value(autoconn, call) == 1
    assert not [one for one in findings(dsn, "consumers") if "a member of" in one.detail]


def test_retries_without_maintenance_are_a_finding(dsn, queue, consumer, autoconn, monkeypatch):
    monkeypatch.setattr(consumers, "OVERDUE", NOW)
    send(autoconn, queue)
    tick(autoconn, queue)
    nack(autoconn, receive(autoconn, queue, consumer)[0], "0")
    found = finding(dsn, "retries")
    assert (found.status, found.mend) == (Status.FAULT, "select pgque.maint_retry_events()")
    autoconn.execute(found.mend)
    assert finding(dsn, "retries").status is Status.OK


def test_dead_letters_are_a_finding(dsn, queue, consumer, autoconn):
    autoconn.execute("select pgque.set_queue_config(%s, 'max_retries', '0')", [queue])
    send(autoconn, queue)
    tick(autoconn, queue)
    nack(autoconn, receive(autoconn, queue, consumer)[0])
    found = finding(dsn, "dead letters")
    assert (found.status, found.mend) == (Status.WARNING, f"pgque dead list {queue}")


def test_a_log_that_is_not_rotated_is_a_finding(dsn, queue, consumer, autoconn):
    send(autoconn, queue)
    tick(autoconn, queue)
    assert finding(dsn, "rotation").status is Status.OK
    advance(autoconn, timedelta(weeks=1))
    found = finding(dsn, "rotation")
    assert found.status is Status.WARNING
    assert "7 d ago" in found.detail


def test_a_restored_dump_is_a_finding(dsn, queue, autoconn):
    autoconn.execute(
        "update pgque.tick set tick_snapshot = (pg_snapshot_xmin(tick_snapshot)::text || ':' || "
        "(pg_snapshot_xmax(tick_snapshot)::text::bigint + 1000000) || ':')::pg_snapshot"
    )
    found = finding(dsn, "restore")
    assert (found.status, found.mend) == (Status.FAULT, "select pgque.ticker()")
    autoconn.execute(found.mend)
    assert finding(dsn, "restore").status is Status.OK


def test_a_long_open_transaction_is_a_finding(dsn, connect, monkeypatch):
    monkeypatch.setattr(server, "OLD", NOW)
    other = connect()
    pid = value(other, "select pg_backend_pid()")
    mends = [found.mend for found in findings(dsn, "transactions")]
    assert f"select pg_terminate_backend({pid})" in mends


def test_a_long_prepared_transaction_is_a_finding(dsn, connect, autoconn, queue, monkeypatch):
    if value(autoconn, "show max_prepared_transactions") == "0":
        pytest.skip("the server allows no prepared transactions")
    monkeypatch.setattr(server, "OLD", NOW)
    other = connect()
    send(other, queue)
    gid = f"it's {autoconn.info.dbname}"
    other.execute("prepare transaction 'it''s " + autoconn.info.dbname + "'")
    try:
        mends = [found.mend for found in findings(dsn, "transactions")]
        assert any(f"rollback prepared 'it''s {autoconn.info.dbname}'" in mend for mend in mends)
    finally:
        autoconn.execute(b"rollback prepared " + psycopg.sql.Literal(gid).as_bytes(autoconn))


def test_a_lost_notification_is_a_finding(dsn, monkeypatch):
    monkeypatch.setattr(server, "_notify", lambda x, channel: None)
    monkeypatch.setattr(server, "NOTIFY_PATIENCE", 0.01)
    assert finding(dsn, "notify").status is Status.FAULT


def test_the_exit_status_is_the_worst_finding(dsn, queue):
    done = cli("doctor", "--json", PGQUE_DSN=dsn)
    found = json.loads(done.stdout)
    assert done.returncode == 2  # fsync is off
    assert {one["status"] for one in found} >= {"ok", "fault"}
    lines = cli("doctor", PGQUE_DSN=dsn).stdout.splitlines()
    assert "FAULT    settings: fsync and full_page_writes off" in "\n".join(lines)
