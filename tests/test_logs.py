"""Logs: every record carries the values of its text as fields (pgque/logs.py)."""

import ast
import inspect
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pgque
from pgque import Consumer, Message
from pgque.logs import Fields
from tests.running import eventually, running

PACKAGE = Path(pgque.__file__).parent
LEVELS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
KNOWN = set(Fields.__annotations__)
PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Every logger call in the package, with its place."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and "logg" in ast.unparse(node.func.value).lower()
            ):
                yield f"{path.relative_to(PACKAGE)}:{node.lineno}", node


def unknown(extra: ast.expr) -> list[str]:
    """The parts of an ``extra`` that are not fields; empty if it is well formed."""
    if isinstance(extra, ast.BinOp) and isinstance(extra.op, ast.BitOr):
        return unknown(extra.left) + unknown(extra.right)
    if isinstance(extra, ast.Call) and ast.unparse(extra.func) == "Fields":
        names = [keyword.arg or "**" for keyword in extra.keywords]
        return [name for name in names if name not in KNOWN] + list(map(ast.unparse, extra.args))
    text = ast.unparse(extra)
    return [] if re.fullmatch(r"fields|self\._fields(_of\(\w+\))?", text) else [text]


def test_every_logger_call_has_fields_from_the_list():
    found = list(calls())
    assert len(found) >= 12
    wrong = {}
    for place, call in found:
        assert isinstance(call.args[0], ast.Constant), f"{place}: the text must be constant"
        [extra] = [k.value for k in call.keywords if k.arg == "extra"] or [None]
        if extra is None:
            # A call whose text has values must also pass them as fields.
            wrong[place] = ["no extra"] if len(call.args) > 1 else []
        else:
            wrong[place] = unknown(extra)
    assert {place: names for place, names in wrong.items() if names} == {}


def test_every_logger_is_below_pgque():
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"logger = logging.getLogger\((.*?)\)", text):
            assert re.fullmatch(r'"pgque\.\w+"', name), (path, name)


def test_no_field_collides_with_one_of_logging():
    assert not KNOWN & PLAIN


def test_every_field_is_described():
    described = re.findall(r"^``(\w+)``  ", inspect.getdoc(Fields) or "", re.MULTILINE)
    assert described == list(Fields.__annotations__)


def fields(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in PLAIN}


@pytest.mark.parametrize("subconsumer", [None, "first"])
def test_a_consumers_records_name_the_queue_consumer_and_message(dsn, queue, caplog, subconsumer):
    caplog.set_level(logging.DEBUG, "pgque")
    with pgque.connect(dsn, autocommit=True) as client:
        who = {"queue": queue, "consumer": "mailer"}
        if subconsumer is None:
            client.subscribe(queue, "mailer")
        else:
            client.subscribe_subconsumer(queue, "mailer", subconsumer)
            who["subconsumer"] = subconsumer
        one = Consumer(dsn, queue=queue, name="mailer", subconsumer=subconsumer, retry_after=0)

        @one.on("order")
        def handle(msg: Message) -> None:
            if msg.retry_count < 2:
                raise ValueError("not yet")

        msg_id = client.send(queue, "x", type="order")
        client.send(queue, "x", type="unknown")
        with running(one):
            eventually(lambda: client.consumer_info(queue)[0].pending_events == 0)
            eventually(lambda: len(about("handler failed", caplog)) == 2)
    first, second = about("handler failed", caplog)
    assert first.levelname == "WARNING"
    assert first.exc_info is not None
    of_message = {"msg_id": msg_id, "type": "order", "error": "ValueError: not yet"}
    batch = fields(first)["batch_id"]
    assert fields(first) == {**who, **of_message, "attempt": 1, "batch_id": batch}
    assert fields(second)["attempt"] == 2
    assert fields(about("no handler", caplog)[0])["type"] == "unknown"
    done = fields(about("messages handled in", caplog)[0])
    assert done.keys() == {*who, "batch_id", "messages", "failed", "seconds"}
    assert (done["batch_id"], done["failed"]) == (batch, done["messages"])


def about(text: str, caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if text in record.getMessage()]


def test_nothing_is_printed_without_logging_set_up(dsn, queue, capfd):
    with pgque.connect(dsn, autocommit=True) as client:
        client.subscribe(queue, "mailer")
        one = Consumer(dsn, queue=queue, name="mailer")
        handled: list[Message] = []
        one.on("*")(handled.append)
        client.send(queue, "x")
        with running(one):
            eventually(lambda: handled)
    assert capfd.readouterr() == ("", "")
