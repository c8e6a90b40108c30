"""Traces: from the span of a send to the spans of its handlers (pgque/traces.py)."""

import json

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import pgque
from pgque import Consumer, Message, PgqueClient
from pgque.observers import Batch, Observer
from tests.fix_engine import column, log_of
from tests.running import PATIENCE, eventually, process, running


class Spans:
    """The spans that have ended."""

    def __init__(self, provider: TracerProvider) -> None:
        self._exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = provider.get_tracer("the application")

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]


@pytest.fixture
def spans(monkeypatch):
    provider = TracerProvider(shutdown_on_exit=False)
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield Spans(provider)
    provider.shutdown()


@pytest.fixture
def one(dsn, queue, consumer):
    """A consumer that ignores messages of type default."""
    one = Consumer(dsn, queue=queue, name=consumer, retry_after=0)
    one.on("default")(lambda msg: None)
    return one


@pytest.fixture
def extras(autoconn, queue):
    """Query the extra fields of the sent events."""
    log = log_of(autoconn, queue)
    return lambda name="ev_extra2": column(autoconn, f"select {name} from {log} order by ev_id")


def traceparent(span: ReadableSpan) -> str:
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


# Sending


def test_a_send_is_a_span_and_its_context_is_stored_with_the_event(spans, client, queue, extras):
    with spans.tracer.start_as_current_span("checkout") as checkout:
        event_id = client.send(queue, {"order": 1})
    [span] = spans.named(f"send {queue}")
    assert span.parent == checkout.get_span_context()
    assert span.kind is SpanKind.PRODUCER
    assert dict(span.attributes) == {
        "messaging.system": "pgque",
        "messaging.destination.name": queue,
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.message.id": str(event_id),
    }
    assert list(map(json.loads, extras())) == [{"traceparent": traceparent(span)}]


def test_a_batch_is_one_span_whose_context_each_event_has(spans, client, queue, extras, consumer):
    with spans.tracer.start_as_current_span("import"):
        ids = client.send_batch(queue, "row", ["one", {"n": 2}, None])
        assert client.send_batch(queue, "row", []) == []
    [span] = spans.named(f"send {queue}")
    assert span.attributes["messaging.batch.message_count"] == 3
    assert {json.loads(e)["traceparent"] for e in extras()} == {traceparent(span)}
    client.ticker(queue)
    got = [(m.msg_id, m.type, m.payload) for m in client.receive(queue, consumer)]
    assert got == list(zip(ids, ["row"] * 3, ["one", '{"n":2}', "null"], strict=True))


def test_a_large_batch_keeps_its_order(spans, client, queue, consumer):
    with spans.tracer.start_as_current_span("import"):
        ids = client.send_batch(queue, "row", map(str, range(2000)))
    times = "select count(distinct ev_time) from pgque.event_1"
    assert client.conn.execute(times).fetchone() == (1,), "all of them are sent by one statement"
    client.ticker(queue)
    got = client.receive(queue, consumer, 5000)
    assert [(m.msg_id, m.payload) for m in got] == list(
        zip(ids, map(str, range(2000)), strict=True)
    )


def test_without_a_span_no_context_is_stored(spans, client, queue, extras):
    client.send(queue, "x")
    client.send(queue, "x", key="k", headers={"tenant": 7})
    client.send_batch(queue, "default", ["x"])
    assert extras() == [None, '{"tenant":7}', None]
    assert spans.named(f"send {queue}") == []


def test_the_applications_headers_are_kept(spans, client, queue, extras):
    own = {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-00"}
    with spans.tracer.start_as_current_span("checkout"):
        client.send(queue, "x", key="k", headers={"tenant": 7})
        client.send(queue, "x", headers=own)
        client.send(queue, "x", headers={"tracestate": "a=b"})
    [span, *_] = spans.named(f"send {queue}")
    first, *rest = map(json.loads, extras())
    assert first == {"tenant": 7, "traceparent": traceparent(span)}
    assert rest == [own, {"tracestate": "a=b"}]
    assert extras("ev_extra1")[0] == "k"


def test_the_trace_state_is_stored_too(spans, client, queue, extras):
    context = trace.SpanContext(
        1, 2, is_remote=True, trace_flags=trace.TraceFlags(1),
        trace_state=trace.TraceState([("vendor", "x")]),
    )  # fmt: skip
    with trace.use_span(trace.NonRecordingSpan(context)):
        client.send(queue, "x")
    assert json.loads(extras()[0])["tracestate"] == "vendor=x"


def test_a_failed_send_is_a_span_with_its_error(spans, client):
    with (
        spans.tracer.start_as_current_span("checkout"),
        pytest.raises(pgque.PgqueQueueNotFound),
    ):
        client.send("no such queue", "x")
    [span] = spans.named("send no such queue")
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "pgque.errors.PgqueQueueNotFound"


def test_headers_that_are_not_a_mapping_are_still_refused(spans, client, queue):
    with (
        spans.tracer.start_as_current_span("checkout"),
        pytest.raises(pgque.PgqueInvalidArgument, match="headers must be a mapping"),
    ):
        client.send(queue, "x", headers=[("a", 1)])


# Handling


def test_a_first_attempt_is_a_child_of_the_send(spans, client, queue, consumer, one):
    current: list[trace.SpanContext] = []

    @one.on("look")
    def look(msg: Message) -> None:
        current.append(trace.get_current_span().get_span_context())

    with spans.tracer.start_as_current_span("checkout"):
        event_id = client.send(queue, "x", type="look")
    with running(one):
        eventually(lambda: spans.named(f"process {queue}"))
    [sent], [span] = spans.named(f"send {queue}"), spans.named(f"process {queue}")
    assert span.parent.span_id == sent.get_span_context().span_id
    assert span.parent.is_remote
    assert current == [span.get_span_context()]
    assert span.kind is SpanKind.CONSUMER
    assert not span.links
    assert dict(span.attributes) == {
        "messaging.system": "pgque",
        "messaging.destination.name": queue,
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": consumer,
        "messaging.message.id": str(event_id),
        "messaging.pgque.message.type": "look",
        "messaging.pgque.message.delivery_attempt": 1,
    }


def test_a_failed_attempt_is_an_error_and_its_retry_is_linked_to_the_send(
    spans, client, queue, one, caplog
):
    @one.on("flaky")
    def flaky(msg: Message) -> None:
        if msg.retry_count == 0:
            raise ValueError("not yet")

    with spans.tracer.start_as_current_span("checkout"):
        client.send(queue, "x", type="flaky")
    with running(one):
        eventually(lambda: len(spans.named(f"process {queue}")) == 2)
    [sent], [first, second] = spans.named(f"send {queue}"), spans.named(f"process {queue}")
    assert first.status.status_code is StatusCode.ERROR
    assert first.status.description == "ValueError: not yet"
    assert first.attributes["error.type"] == "ValueError"
    assert [event.name for event in first.events] == ["exception"]
    assert second.status.status_code is StatusCode.UNSET
    assert second.parent is None
    assert second.get_span_context().trace_id != sent.get_span_context().trace_id
    assert [link.context.span_id for link in second.links] == [sent.get_span_context().span_id]
    assert second.attributes["messaging.pgque.message.delivery_attempt"] == 2


def test_sends_of_a_handler_belong_to_its_trace(spans, client, queue, one, autoconn):
    autoconn.execute("select pgque.create_queue('next')")

    @one.on("chain")
    def chain(msg: Message, client: PgqueClient) -> None:
        client.send("next", "y")

    with spans.tracer.start_as_current_span("checkout"):
        client.send(queue, "x", type="chain")
    with running(one):
        eventually(lambda: spans.named(f"process {queue}"))
    [processed], [sent] = spans.named(f"process {queue}"), spans.named("send next")
    assert sent.parent.span_id == processed.get_span_context().span_id


def test_a_message_without_a_handler_is_a_failed_span(spans, client, queue, one):
    client.send(queue, "x", type="unknown")
    with running(one):
        eventually(lambda: spans.named(f"process {queue}"))
    [span, *_] = spans.named(f"process {queue}")
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    "headers",
    [
        None,
        "no JSON, with a traceparent",
        '["traceparent"]',
        '{"traceparent": 5}',
        '{"traceparent": "00-xyz"}',
        json.dumps({"traceparent": f"00-{'0' * 32}-{'1' * 16}-01"}),
        json.dumps({"traceparent": f"ff-{'1' * 32}-{'1' * 16}-01"}),
        json.dumps({"traceparent": "1" * 600}),
        '{"traceparent": ' + "[" * 100_000,
    ],
    ids=range(9),
)
def test_a_message_without_a_context_starts_a_new_trace(
    spans, client, queue, one, autoconn, headers
):
    autoconn.execute(
        "select pgque.insert_event(%s, 'default', 'x', null, %s, null, null)", [queue, headers]
    )
    with running(one):
        eventually(lambda: spans.named(f"process {queue}"))
    [span] = spans.named(f"process {queue}")
    assert (span.parent, span.links, span.status.status_code) == (None, (), StatusCode.UNSET)


def test_a_malformed_trace_state_does_not_affect_the_parent(spans, client, queue, one, autoconn):
    headers = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": ["a", 1]}
    client.send(queue, "x", headers=headers)
    with running(one):
        eventually(lambda: spans.named(f"process {queue}"))
    assert spans.named(f"process {queue}")[0].parent.span_id == int("2" * 16, 16)


def test_a_member_of_a_group_continues_the_trace_of_the_send(spans, dsn, queue, autoconn):
    members = [Consumer(dsn, queue=queue, name="group", subconsumer=name) for name in ("a", "b")]
    for member in members:
        member.on("default")(lambda msg: None)
    with running(members[0]), running(members[1]), pgque.connect(dsn, autocommit=True) as client:
        eventually(lambda: len(client.consumer_info(queue)) == 3)
        with spans.tracer.start_as_current_span("checkout"):
            client.send(queue, "x")
        eventually(lambda: spans.named(f"process {queue}"))
    [sent], [span] = spans.named(f"send {queue}"), spans.named(f"process {queue}")
    assert span.parent.span_id == sent.get_span_context().span_id
    assert span.attributes["messaging.consumer.group.name"] == "group"
    assert span.attributes["messaging.client.id"] in ("a", "b")


def test_between_handlers_no_span_is_current(spans, client, queue, one):
    current: list[trace.SpanContext] = []

    class Looking(Observer):
        def on_batch(self, batch: Batch) -> None:
            current.append(trace.get_current_span().get_span_context())

    one.observe(Looking())
    with running(one):
        client.send(queue, "x")
        eventually(lambda: spans.named(f"process {queue}"))
        client.send(queue, "x")
        eventually(lambda: len(current) == 2)
    assert [context.is_valid for context in current] == [False, False]


def test_a_trace_continues_in_another_process(spans, client, dsn, queue, consumer):
    script = """
        import sys
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
        from pgque import Consumer

        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter(
            formatter=lambda span: span.to_json(indent=None) + chr(10))))
        trace.set_tracer_provider(provider)
        consumer = Consumer(sys.argv[1], queue=sys.argv[2], name=sys.argv[3])
        consumer.on("default")(lambda message: None)
        consumer.start()
    """
    with spans.tracer.start_as_current_span("checkout"):
        client.send(queue, "x")
    [sent] = spans.named(f"send {queue}")
    with process(script, dsn, queue, consumer) as child:
        assert child.stdout is not None
        span = json.loads(child.stdout.readline())
    assert span["name"] == f"process {queue}"
    assert int(span["context"]["trace_id"], 16) == sent.get_span_context().trace_id
    assert int(span["parent_id"], 16) == sent.get_span_context().span_id


def test_opentelemetry_is_not_imported_unless_it_is_used(dsn, queue, consumer):
    script = """
        import sys
        import pgque

        with pgque.connect(sys.argv[1], autocommit=True) as client:
            client.send(sys.argv[2], "x")
            client.send_batch(sys.argv[2], "default", ["x"])
        consumer = pgque.Consumer(sys.argv[1], queue=sys.argv[2], name=sys.argv[3])
        consumer.on("default")(lambda message: consumer.stop())
        consumer.start()
        print([name for name in sys.modules if name.startswith("opentelemetry")])
    """
    with process(script, dsn, queue, consumer) as child:
        assert child.communicate(timeout=2 * PATIENCE)[0] == "[]\n"


def test_without_a_provider_a_consumer_makes_no_spans(client, queue, one, monkeypatch):
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)
    client.send(queue, "x")
    with running(one):
        eventually(lambda: client.consumer_info(queue)[0].pending_events == 0)
        assert one._watch_on(client.conn) is None


def test_spans_end_if_the_connection_breaks_in_a_handler(spans, client, queue, one, autoconn):
    @one.on("break")
    def break_it(msg: Message, client: PgqueClient) -> None:
        if len(spans.named(f"process {queue}")) == 0:
            pid = client.conn.info.backend_pid
            autoconn.execute("select pg_terminate_backend(%s, 10000)", [pid])
            client.conn.execute("select 1")

    client.send(queue, "x", type="break")
    with running(one):
        eventually(lambda: len(spans.named(f"process {queue}")) == 2)
    first, second = spans.named(f"process {queue}")
    assert first.status.status_code is StatusCode.ERROR
    assert second.parent is None
