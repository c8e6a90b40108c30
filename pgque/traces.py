"""Traces with OpenTelemetry (extra ``traces``), in programs that already use it.

A send within a span creates a span ``send <queue>``. Its W3C trace context is sent with the event,
in ``extra2`` together with the application's headers. A `Consumer` creates a span
``process <queue>`` for each message, as a child of the send's span. A redelivered message begins a
new trace, with a link to the send.

A program that has not imported OpenTelemetry has no current span, so nothing is imported or
written. Names and attributes follow OpenTelemetry's conventions for messaging.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pgque._extras import need
from pgque.observers import Batch, Observer
from pgque.wire.failures import describe, is_loggable

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer, TracerProvider
    from opentelemetry.util.types import AttributeValue

    from pgque.message import Message

SYSTEM: Final = "pgque"
CONTEXT_HEADERS: Final = ("traceparent", "tracestate")


def tracing() -> bool:
    """Tell whether there is a current span."""
    api: Any = sys.modules.get("opentelemetry.trace")
    # While another thread imports the module, it may not have its functions yet.
    current = getattr(api, "get_current_span", None)
    return current is not None and bool(current().get_span_context().is_valid)


class Sending:
    """The span of a send in progress."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def add_context(self, headers: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        """Add the span's context to headers, unless they already have one."""
        if headers is None:
            headers = {}
        if not isinstance(headers, Mapping) or any(name in headers for name in CONTEXT_HEADERS):
            return headers
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context: dict[str, str] = {}
        within = trace.set_span_in_context(self._span)
        TraceContextTextMapPropagator().inject(context, within)
        return {**headers, **context}

    def sent(self, event_id: int) -> None:
        """Record the event's id in the span."""
        self._span.set_attribute("messaging.message.id", str(event_id))


@contextmanager
def sending(queue: str, count: int | None = None) -> Iterator[Sending]:
    """Run the block in a span ``send <queue>``, which also records its exception.

    :param count: number of events in a batch; None for a single event.
    """
    from opentelemetry.trace import SpanKind

    attributes = _attributes(queue, "send")
    if count is not None:
        attributes["messaging.batch.message_count"] = count
    with _tracer().start_as_current_span(
        f"send {queue}", kind=SpanKind.PRODUCER, attributes=attributes
    ) as span:
        try:
            yield Sending(span)
        except Exception as error:
            span.set_attribute("error.type", _name(error))
            raise


def observers_of_traces() -> list[Observer]:
    """Return the observers for traces; an empty list if no tracer provider is set."""
    api: Any = sys.modules.get("opentelemetry.trace")
    if api is None:
        return []
    from opentelemetry import trace

    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return []
    return [Traces()]


class Traces(Observer):
    """Creates a span for each message. A `Consumer` adds one itself if traces are in use."""

    def __init__(self) -> None:
        need("opentelemetry.trace")
        self._here = _Open()

    def on_handling(self, batch: Batch, message: Message, delay: float) -> None:
        """Begin the message's span and make it the current one."""
        from opentelemetry import context, trace

        attributes = _attributes(batch.queue, "process")
        attributes["messaging.consumer.group.name"] = batch.consumer
        attributes["messaging.message.id"] = str(message.msg_id)
        attributes["messaging.pgque.message.type"] = message.type
        attributes["messaging.pgque.message.delivery_attempt"] = message.retry_count + 1
        if batch.subconsumer is not None:
            attributes["messaging.client.id"] = batch.subconsumer
        origin = _origin(message)
        sent_in = trace.get_current_span(origin).get_span_context()
        links = []
        if message.retry_count > 0:
            origin = context.Context()
            links = [trace.Link(sent_in)] if sent_in.is_valid else []
        span = _tracer().start_span(
            f"process {batch.queue}",
            context=origin,
            kind=trace.SpanKind.CONSUMER,
            attributes=attributes,
            links=links,
        )
        token = context.attach(trace.set_span_in_context(span))
        self._here.spans.append((span, token))

    def on_handled(
        self, batch: Batch, message: Message, seconds: float, error: BaseException | None
    ) -> None:
        """End the message's span."""
        from opentelemetry import context
        from opentelemetry.trace import Status, StatusCode

        span, token = self._here.spans.pop()
        context.detach(token)
        if error is not None:
            if is_loggable(error):
                span.record_exception(error)
            span.set_attribute("error.type", _name(error))
            span.set_status(Status(StatusCode.ERROR, describe(error)))
        span.end()


class _Open(threading.local):
    """The open spans of a thread: one, unless a handler runs another consumer."""

    def __init__(self) -> None:
        self.spans: list[tuple[Span, Token[Context]]] = []


def _attributes(queue: str, operation: str) -> dict[str, AttributeValue]:
    return {
        "messaging.system": SYSTEM,
        "messaging.destination.name": queue,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
    }


def _origin(message: Message) -> Context:
    """Return the context in a message's headers, or an empty one."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    text = message.extra2
    if text is None or "traceparent" not in text:
        return Context()
    # `headers` would raise: a trigger or another language may have stored something else here.
    try:
        headers = json.loads(text)
    except (ValueError, RecursionError):
        return Context()
    if not isinstance(headers, dict):
        return Context()
    found = {n: headers[n] for n in CONTEXT_HEADERS if isinstance(headers.get(n), str)}
    return TraceContextTextMapPropagator().extract(found, Context())


def _tracer() -> Tracer:
    from opentelemetry import trace

    return _tracer_of(trace.get_tracer_provider())


@lru_cache(maxsize=1)
def _tracer_of(provider: TracerProvider) -> Tracer:
    """Return our tracer, cached because creating one costs more than a span."""
    return provider.get_tracer("pgque")


def _name(error: BaseException) -> str:
    module, name = type(error).__module__, type(error).__qualname__
    return name if module == "builtins" else f"{module}.{name}"
