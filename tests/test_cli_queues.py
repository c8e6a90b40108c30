"""The commands for queues, consumers, events and dead letters."""

import json
import subprocess
from pathlib import Path

import pytest

import pgque
from pgque.cli import resume
from pgque.cli.app import run
from tests.fix_cli import CHECKOUT, cli, command, environment, failed
from tests.fix_engine import drain, nack, payloads, receive, send, send_many, tick, value
from tests.running import eventually


def said(*arguments: str, stdin: str = "", **more: str) -> str:
    done = cli(*arguments, stdin=stdin, **more)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def found(*arguments: str, **more: str):
    return json.loads(said(*arguments, "--json", **more))


@pytest.fixture
def pgque_dsn(dsn) -> dict[str, str]:
    return {"PGQUE_DSN": dsn}


def test_a_queue_is_created_used_and_dropped(pgque_dsn, autoconn):
    assert said("queue", "create", "orders", **pgque_dsn) == "The queue orders was created.\n"
    assert "already exists" in said("queue", "create", "orders", **pgque_dsn)
    said("consumer", "subscribe", "orders", "mailer", **pgque_dsn)
    [queue] = found("queue", "list", **pgque_dsn)
    assert (queue["queue"], queue["consumers"], queue["paused"]) == ("orders", 1, False)
    refusal = failed(cli("queue", "drop", "orders", "--yes", **pgque_dsn))
    assert "consumers still attached" in refusal
    said("queue", "drop", "orders", "--yes", "--force", **pgque_dsn)
    assert found("queue", "list", **pgque_dsn) == []
    assert "pgque queue create" in said("queue", "list", **pgque_dsn)


def test_a_queue_is_created_with_its_settings(pgque_dsn):
    create = [
        "queue",
        "create",
        "orders",
        "--set",
        "max_retries=2",
        "--set",
        "ticker_max_lag=1.5 s",
    ]
    assert said(*create, **pgque_dsn) == "The queue orders was created.\n"
    shown = found("queue", "show", "orders", **pgque_dsn)
    assert shown["queue_ticker_max_lag"] == 1.5
    again = said("queue", "create", "orders", "--set", "ticker_max_lag=9 s", **pgque_dsn)
    assert "Its settings were not changed" in again
    assert found("queue", "show", "orders", **pgque_dsn)["queue_ticker_max_lag"] == 1.5
    for wrong in ("max_retries", "=2", ""):
        done = cli("queue", "create", "other", "--set", wrong, **pgque_dsn)
        assert (done.returncode, "--set takes SETTING=VALUE" in done.stderr) == (2, True)
    refusal = failed(cli("queue", "create", "other", "--set", "speed=9", **pgque_dsn))
    assert "unknown queue setting: speed" in refusal
    assert [one["queue"] for one in found("queue", "list", **pgque_dsn)] == ["orders"]


def test_a_queue_is_dropped_only_after_confirmation(pgque_dsn, queue, autoconn):
    done = cli("queue", "drop", queue, stdin="n\n", **pgque_dsn)
    assert done.returncode == 1
    assert value(autoconn, "select count(*) from pgque.queue") == 1
    cli("queue", "drop", queue, stdin="y\n", **pgque_dsn)
    assert value(autoconn, "select count(*) from pgque.queue") == 0


def test_settings_are_changed_and_shown(pgque_dsn, queue, consumer):
    said("queue", "set", queue, "ticker_max_lag", "1.5 s", **pgque_dsn)
    said("queue", "pause", queue, **pgque_dsn)
    shown = found("queue", "show", queue, **pgque_dsn)
    assert (shown["queue_ticker_max_lag"], shown["queue_ticker_paused"]) == (1.5, True)
    assert [one["consumer_name"] for one in shown["consumers"]] == [consumer]
    said("queue", "resume", queue, **pgque_dsn)
    said("queue", "set", queue, "ticker_max_lag", **pgque_dsn)
    assert not found("queue", "show", queue, **pgque_dsn)["queue_ticker_paused"]
    assert "unknown queue setting" in failed(cli("queue", "set", queue, "speed", "9", **pgque_dsn))


def test_a_consumer_is_moved_by_tick_and_by_time(pgque_dsn, queue, consumer, autoconn):
    send_many(autoconn, queue, 3)
    drain(autoconn, queue, consumer)
    said("consumer", "seek", queue, consumer, "--tick", "1", **pgque_dsn)
    [stands] = found("consumer", "list", queue, **pgque_dsn)
    assert (stands["tick"], stands["pending"]) == (1, 3)
    said("consumer", "seek", queue, consumer, "--at", "2100-01-01", **pgque_dsn)
    assert found("consumer", "list", **pgque_dsn)[0]["pending"] == 0
    neither = cli("consumer", "seek", queue, consumer, **pgque_dsn)
    assert (neither.returncode, "either --tick or --at" in neither.stderr) == (2, True)


def test_unsubscribe_asks_for_confirmation(pgque_dsn, queue, consumer, autoconn):
    assert cli("consumer", "unsubscribe", queue, consumer, stdin="n\n", **pgque_dsn).returncode == 1
    assert value(autoconn, "select count(*) from pgque.subscriber") == 1
    said("consumer", "unsubscribe", queue, consumer, "--yes", **pgque_dsn)
    assert value(autoconn, "select count(*) from pgque.subscriber") == 0


def test_dead_letters_are_listed_shown_replayed_and_deleted(pgque_dsn, queue, consumer, autoconn):
    autoconn.execute("select pgque.set_queue_config(%s, 'max_retries', '0')", [queue])
    for payload in ("first", "line\nbreak\x1b[2J", "third"):
        send(autoconn, queue, payload)
    tick(autoconn, queue)
    for message in receive(autoconn, queue, consumer):
        nack(autoconn, message)
    letters = found("dead", "list", queue, **pgque_dsn)
    assert [letter["ev_data"] for letter in letters][::2] == ["third", "first"]
    listed = said("dead", "list", queue, **pgque_dsn)
    assert "\x1b" not in listed  # control characters in payloads do not reach the terminal
    assert len(listed.splitlines()) == 5
    number = letters[-1]["dl_id"]
    assert found("dead", "show", str(number), **pgque_dsn)["ev_data"] == "first"
    said("dead", "replay", str(number), **pgque_dsn)
    assert "not found" in failed(cli("dead", "show", str(number), **pgque_dsn))
    assert said("dead", "purge", queue, "--yes", **pgque_dsn) == "0 deleted.\n"
    said("dead", "replay", "--all", queue, **pgque_dsn)
    assert "no dead letters" in said("dead", "list", queue, **pgque_dsn)


def test_arguments_are_sent_in_one_transaction(pgque_dsn, queue, consumer, autoconn):
    said("send", queue, "one", "two", "--type", "t", "--key", "k", **pgque_dsn)
    messages = drain(autoconn, queue, consumer)
    assert payloads(messages) == ["one", "two"]
    assert {(message.type, message.extra1) for message in messages} == {("t", "k")}
    assert value(autoconn, f"select count(distinct ev_txid) from {_log(autoconn, queue)}") == 1
    failed(cli("send", queue, "one", "nul\\0"[:3] + "\udc80", **pgque_dsn))
    assert not drain(autoconn, queue, consumer)


def _log(conn, queue: str) -> str:
    return value(conn, "select queue_data_pfx from pgque.queue where queue_name = %s", queue)


@pytest.mark.parametrize("source", ["file", "standard input"])
def test_lines_are_sent_unchanged(pgque_dsn, queue, consumer, autoconn, tmp_path, source):
    lines = '{"b": 1,  "a": 2}\n\n"ü"\n[3]'
    path = tmp_path / "events.ndjson"
    path.write_text(lines)
    where, stdin = (str(path), "") if source == "file" else ("-", lines)
    assert said("send", queue, "--file", where, "--batch", "2", stdin=stdin, **pgque_dsn) == (
        f"3 sent to {queue}.\n"
    )
    assert payloads(drain(autoconn, queue, consumer)) == ['{"b": 1,  "a": 2}', '"ü"', "[3]"]


def test_a_file_with_an_incomplete_line_sends_nothing(
    pgque_dsn, queue, consumer, autoconn, tmp_path: Path
):
    path = tmp_path / "events.ndjson"
    path.write_text('{"n": 1}\n{"n": 2}\n{"n"')
    line = failed(cli("send", queue, "--file", str(path), "--batch", "1", **pgque_dsn))
    assert "line 3 is not JSON" in line
    assert not drain(autoconn, queue, consumer)


def test_a_broken_stream_reports_where_to_resume(
    pgque_dsn, queue, consumer, autoconn, tmp_path: Path
):
    lines = "1\n\n2\n3\nhalf"
    done = cli("send", queue, "--file", "-", "--batch", "2", stdin=lines, **pgque_dsn)
    assert done.returncode == 1
    told, error = done.stderr.splitlines()
    assert told == "pgque: 2 were sent; continue with --skip 3"
    assert "line 5 is not JSON" in error
    path = tmp_path / "mended.ndjson"
    path.write_text("1\n\n2\n3\n4\n")
    said("send", queue, "--file", str(path), "--skip", "3", **pgque_dsn)
    assert payloads(drain(autoconn, queue, consumer)) == ["1", "2", "3", "4"]


def numbers(count: int) -> str:
    return "".join(f"{n}\n" for n in range(count))


@pytest.fixture
def sending(dsn, queue, tmp_path):
    """A file, and the command that sends it and keeps a record next to it."""
    path = tmp_path / "events.ndjson"
    record = ["--resume", str(tmp_path / "record"), "--batch", "2"]
    return path, ["send", queue, "-f", str(path), *record, "--dsn", dsn]


def test_a_send_with_a_record_resumes_where_it_stopped(sending, queue, consumer, autoconn):
    path, call = sending
    path.write_text(numbers(3))
    assert said(*call) == f"3 sent to {queue}.\n"
    assert "0 sent to" in said(*call)
    path.write_text(numbers(5))
    assert said(*call) == f"2 sent to {queue}; the first 3 lines were sent earlier.\n"
    assert payloads(drain(autoconn, queue, consumer)) == ["0", "1", "2", "3", "4"]


@pytest.mark.parametrize("committed", [True, False])
def test_a_send_killed_at_its_commit_neither_repeats_nor_skips_lines(
    sending, queue, consumer, autoconn, monkeypatch, capsys, committed
):
    path, call = sending
    path.write_text(numbers(5))
    before_commit = resume.Record.before_commit

    def die(self, then):
        before_commit(self, then)
        if then == 4:
            if committed:
                self.conn.commit()
            self.conn.close()

    with monkeypatch.context() as patched:
        patched.setattr(resume.Record, "before_commit", die)
        assert run(call) == 1
    assert "continue with the same command" in capsys.readouterr().err
    assert run(call) == 0
    assert f"{1 if committed else 3} sent to {queue}" in capsys.readouterr().out
    assert payloads(drain(autoconn, queue, consumer)) == ["0", "1", "2", "3", "4"]


def test_a_send_killed_at_any_point_resumes(sending, queue, autoconn, tmp_path):
    path, call = sending
    path.write_text(numbers(3000))
    record = tmp_path / "record"
    for lines in (300, 1200):
        with subprocess.Popen(command(*call), cwd=CHECKOUT, env=environment()) as process:
            eventually(lambda: record.exists() and json.loads(record.read_text())["then"] > lines)
            process.kill()
    assert run(call) == 0
    sent = f"select count(*), count(distinct ev_data) from {_log(autoconn, queue)}"
    assert autoconn.execute(sent).fetchone() == (3000, 3000)


def test_a_send_waits_for_the_outcome_of_the_previous_one(
    dsn, sending, queue, monkeypatch, capsys, tmp_path
):
    path, call = sending
    path.write_text(numbers(4))
    with pgque.connect(dsn) as other:
        mine = resume.Record(tmp_path / "record", other, queue)
        other.send_batch(queue, "default", ["0", "1"])
        mine.before_commit(2)
        with monkeypatch.context() as patched:
            patched.setattr(resume, "PATIENCE", 0)
            assert run(call) == 1
        assert "still open" in capsys.readouterr().err
        monkeypatch.setattr(resume, "pause", other.conn.commit)
        assert run(call) == 0
    assert "2 sent to" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"queue": "other"}, "belongs to a send to other"),
        ({"database": "x/1"}, "in the database x/1"),
        ({"transaction": "9000000000000000"}, "belongs to another server"),
        (None, "is not a record of a send"),
    ],
)
def test_a_record_of_another_send_is_refused(sending, capsys, tmp_path, change, told):
    path, call = sending
    path.write_text(numbers(2))
    assert run(call) == 0
    record = tmp_path / "record"
    kept = json.loads(record.read_text())
    record.write_text("[]" if change is None else json.dumps({**kept, **change}))
    capsys.readouterr()
    assert run(call) == 1
    assert told in capsys.readouterr().err


def test_a_record_requires_a_file(pgque_dsn, queue):
    for more in (["x"], ["-f", "-", "--skip", "1"]):
        assert cli("send", queue, *more, "--resume", "r", **pgque_dsn).returncode == 2


def test_tail_prints_the_log_without_consuming(pgque_dsn, queue, consumer, autoconn):
    with pgque.connect(pgque_dsn["PGQUE_DSN"], autocommit=True) as client:
        client.send(queue, {"n": 1}, type="made", key="k", headers={"h": 1})
        client.send(queue, "two", type="other")
    printed = said("tail", queue, "--no-follow", "--since", "3600", "--json", **pgque_dsn)
    first, second = map(json.loads, printed.splitlines())
    assert (first["type"], first["key"], first["headers"]) == ("made", "k", '{"h":1}')
    assert second["payload"] == "two"
    only = said("tail", queue, "-F", "--since", "inf", "--type", "other", **pgque_dsn)
    assert "two" in only
    assert "made" not in only
    assert said("tail", queue, "-F", "--since", "3600", "--key", "nobody", **pgque_dsn) == ""
    assert said("tail", queue, "-F", **pgque_dsn) == ""
    assert len(drain(autoconn, queue, consumer)) == 2


def test_an_unknown_queue_is_one_line_of_error(pgque_dsn):
    for arguments in (
        ["queue", "show", "nobody"],
        ["consumer", "subscribe", "nobody", "c"],
        ["send", "nobody", "x"],
        ["tail", "nobody", "-F"],
        ["dead", "list", "nobody"],
    ):
        assert "queue not found: nobody" in failed(cli(*arguments, **pgque_dsn))
